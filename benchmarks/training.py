"""How fast is training, and what is it measured against?

    python benchmarks/training.py --store STORE [--world WORLD.safetensors] [--threads N]

Every figure is the best of several runs in one process on an otherwise idle machine; compare figures of one run only.
"""

import argparse
import json
import platform
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from monai.networks.nets import DiffusionModelUNet
from monai.networks.schedulers import DDPMScheduler
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from mri_minority.slices.batches import SliceBatches
from mri_minority.slices.store import SliceStore
from mri_minority.training.precision import autocast, bfloat16_pays
from mri_minority_pipelines.config import DenoiserConfig, load_recipe
from mri_minority_pipelines.events import Event
from mri_minority_pipelines.model_folder import build_denoiser, load_world
from mri_minority_pipelines.stages import train_denoiser

CPU = torch.device("cpu")
BATCH, HEIGHT, WIDTH = 16, 96, 112


def best(run: Callable[[], object], repeats: int = 5) -> float:
    """Seconds of the fastest run, after one to warm up."""
    run()
    times = []
    for _ in range(repeats):
        begun = time.perf_counter()
        run()
        times.append(time.perf_counter() - begun)
    return min(times)


def peak(bfloat16: bool) -> float:
    """GFLOP/s of the fastest 3x3 convolution, forward, over a few shapes that fit the network's."""
    fastest = 0.0
    for channels, height, width in ((64, 24, 28), (96, 24, 28), (128, 24, 28), (256, 24, 28), (256, 48, 56)):
        layer = nn.Conv2d(channels, channels, 3, padding=1)
        x = torch.randn(BATCH, channels, height, width)
        with torch.no_grad(), autocast(CPU, bfloat16):
            seconds = best(lambda layer=layer, x=x: layer(x), 10)  # type: ignore[misc]
        fastest = max(fastest, 2 * 9 * channels**2 * height * width * BATCH / seconds / 1e9)
    return fastest


def flops_of(run: Callable[[], object]) -> float:
    """Floating point operations of a call."""
    with FlopCounterMode(display=False) as counter:
        run()
    return float(counter.get_total_flops())


class Ours:
    """Our network and loss on one batch."""

    def __init__(self, store: SliceStore, world: Path, bfloat16: bool, batch: int = BATCH, **changes: object) -> None:
        settings = load_recipe("brain_t1_2mm").denoiser.model_dump() | {"batch": batch, "micro_batch": batch} | changes
        self.config = DenoiserConfig.model_validate(settings)
        torch.manual_seed(0)
        self.net = build_denoiser(load_world(world, len(store.label_names)), self.config).train()
        self.loss_of = train_denoiser.DenoiserLoss(self.config, store, self.net, bfloat16)
        self.optimiser = torch.optim.AdamW(self.net.parameters(), lr=1e-4, fused=True)
        self.forward = lambda: self.loss_of(self.net, 0, slice(None))

    def step(self) -> None:
        self.optimiser.zero_grad(set_to_none=True)
        self.forward().backward()
        nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
        self.optimiser.step()


def peer_step(net: nn.Module, call: Callable[[Tensor, Tensor], Tensor], bfloat16: bool) -> Callable[[], None]:
    """A stock epsilon-prediction step, as in MONAI's DDPM tutorial."""
    scheduler = DDPMScheduler(num_train_timesteps=1000)
    optimiser = torch.optim.Adam(net.parameters(), lr=1e-4)
    images = torch.rand(BATCH, 4, HEIGHT, WIDTH)

    def step() -> None:
        optimiser.zero_grad(set_to_none=True)
        noise, times = torch.randn_like(images), torch.randint(0, 1000, (BATCH,))
        with autocast(CPU, bfloat16):
            guess = call(scheduler.add_noise(images, noise, times), times)
        nn.functional.mse_loss(guess.float(), noise).backward()
        optimiser.step()

    return step


def peers() -> dict[str, tuple[nn.Module, Callable[[Tensor, Tensor], Tensor]]]:
    """MONAI's and diffusers' networks at about our number of parameters, on the same slices."""
    monai = DiffusionModelUNet(
        spatial_dims=2,
        in_channels=4,
        out_channels=4,
        num_res_blocks=1,
        channels=(64, 96, 128),
        attention_levels=(False, False, True),
        num_head_channels=32,
    )
    found = {"MONAI DiffusionModelUNet": (monai, lambda x, t: monai(x, t))}
    try:
        from diffusers import UNet2DModel
    except ImportError:
        print("<!-- diffusers is not installed: no figure -->")
        return found
    blocks = {"down_block_types": ("DownBlock2D", "DownBlock2D", "AttnDownBlock2D")}
    blocks["up_block_types"] = ("AttnUpBlock2D", "UpBlock2D", "UpBlock2D")
    theirs = UNet2DModel(in_channels=4, out_channels=4, layers_per_block=1, block_out_channels=(64, 96, 128), **blocks)
    found["diffusers UNet2DModel"] = (theirs, lambda x, t: theirs(x, t).sample)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--world", type=Path, help="A fitted Gaussian world; fitted here without it.")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--tables", nargs="+", choices=list(TABLES), default=list(TABLES))
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(args.threads)
    store = SliceStore(args.store)
    world = args.world or Path(tempfile.mkdtemp()) / "world.safetensors"
    if not world.is_file():
        train_denoiser.fit_world(load_recipe("brain_t1_2mm").denoiser, store, world, _quiet)
    pays = bfloat16_pays(CPU)
    print(f"<!-- {platform.processor() or platform.machine()}, {args.threads} threads, torch {torch.__version__} -->")
    peaks = {p: round(peak(p == "bfloat16")) for p in precisions(pays)}
    print(json.dumps({"bfloat16_pays": pays, "peak_gflops": peaks}))
    for name in args.tables:
        TABLES[name](store, world, pays)


def precisions(pays: bool) -> tuple[str, ...]:
    """Those worth a row: without the instructions for it, bfloat16 is slower by itself."""
    return ("float32", "bfloat16") if pays else ("float32",)


def step_table(store: SliceStore, world: Path, pays: bool) -> None:
    """Forward, backward and whole step as a share of the convolution peak."""
    print("| network | precision | forward ms | forward + backward ms | step ms | GFLOP in a step | share of peak |")
    print("|---|---|---|---|---|---|---|")
    second = load_recipe("brain_t1_2mm").denoiser.fine
    fine = second.model_dump(include={"patch", "channels", "attention", "head"}) if second else {}
    for title, changes in (("patch 4", {}), ("patch 2", {"patch": 2}), ("the fine network", fine)):
        for precision in precisions(pays):
            wide = precision == "bfloat16"
            ours = Ours(store, world, wide, **changes)
            with torch.no_grad():
                forward = best(ours.forward, 3)
            both, step = best(lambda o=ours: o.forward().backward(), 3), best(ours.step, 3)  # type: ignore[misc]
            flops = flops_of(lambda o=ours: o.forward().backward())  # type: ignore[misc]
            share = flops / step / 1e9 / peak(wide)
            print(
                f"| {title} | {precision} | {forward * 1e3:.0f} | {both * 1e3:.0f} | {step * 1e3:.0f} | "
                f"{flops / 1e9:.0f} | {share:.0%} |",
                flush=True,
            )


def choice_table(store: SliceStore, world: Path, pays: bool) -> None:
    """What each choice does to the time of one slice in a step, against the defaults."""
    base = Ours(store, world, pays)
    reference = best(base.step, 5)
    print("| choice | ms per slice and step | against the default |")
    print("|---|---|---|")

    def row(title: str, seconds: float, slices: int = BATCH) -> None:
        each = seconds / slices
        print(f"| {title} | {each * 1e3:.1f} | {each / (reference / BATCH):.2f} |", flush=True)

    row("default", reference)
    batches = SliceBatches(store, store.indices("train"), BATCH, 0)
    row("loading the batch, alone", best(lambda: batches(0)))
    wide = Ours(store, world, pays)
    wide.net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    row("channels_last weights", best(wide.step, 5))
    unfused = Ours(store, world, pays)
    unfused.optimiser = torch.optim.AdamW(unfused.net.parameters(), lr=1e-4, foreach=False)
    row("optimiser one tensor at a time", best(unfused.step, 5))
    for batch in (4, 8, 32, 64):
        row(f"batch {batch}", best(Ours(store, world, pays, batch).step, 3), batch)
    row("head 32 wide", best(Ours(store, world, pays, head=32).step, 3))
    compiled = Ours(store, world, pays)
    begun = time.perf_counter()
    quick = torch.compile(compiled.net)
    compiled.forward = lambda: compiled.loss_of(quick, 0, slice(None))
    compiled.step()
    print(f"<!-- torch.compile: the first step took {time.perf_counter() - begun:.0f} s -->", flush=True)
    row("torch.compile", best(compiled.step, 5))
    threads = torch.get_num_threads()
    if threads > 1:
        torch.set_num_threads(1)
        row("one thread", best(base.step, 3))
        torch.set_num_threads(threads)


def peer_table(store: SliceStore, world: Path, pays: bool) -> None:
    """Stock loops of the peers on the same size of slices at about the same number of parameters."""
    ours = Ours(store, world, pays)
    rows = [("ours", sum(p.numel() for p in ours.net.parameters()), best(ours.step, 5))]
    for title, (net, call) in peers().items():
        count = sum(p.numel() for p in net.parameters())
        rows.append((f"{title}, float32 as it comes", count, best(peer_step(net, call, False), 2)))
        rows.append((f"{title}, in our precision", count, best(peer_step(net, call, pays), 2)))
    print("| training step | parameters (M) | ms per slice | times ours |")
    print("|---|---|---|---|")
    for title, count, seconds in rows:
        each = 1e3 * seconds / BATCH
        print(f"| {title} | {count / 1e6:.1f} | {each:.1f} | {seconds / rows[0][2]:.1f} |", flush=True)


TABLES = {"steps": step_table, "choices": choice_table, "peers": peer_table}


def _quiet(event: Event) -> None:
    """No bar: the tables are the output."""


if __name__ == "__main__":
    main()
