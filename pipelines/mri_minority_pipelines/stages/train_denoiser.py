"""train, first part: fit the Gaussian world, train the network on what it leaves."""

from collections.abc import Callable
from pathlib import Path
from typing import cast

import numpy as np
import torch
from lightning_fabric import Fabric
from PIL import Image
from torch import nn

from mri_minority.backbones.monai_unet import UNetDenoiser
from mri_minority.core.rng import generator_for, normal_for
from mri_minority.core.types import Batch
from mri_minority.diffusion.denoiser import Denoiser
from mri_minority.diffusion.gaussian import fit_gaussian_world
from mri_minority.diffusion.kernel import add_noise, sigma_path
from mri_minority.diffusion.loss import NoiseLevels, denoising_loss
from mri_minority.diffusion.solvers import SOLVERS
from mri_minority.diffusion.state import decode, encode, groups_for
from mri_minority.report.figures import sheet_pixels
from mri_minority.slices.batches import SliceBatches
from mri_minority.slices.store import SliceStore
from mri_minority.training.checkpoint import save_tensors
from mri_minority.training.compiling import compiled, wants_compile
from mri_minority.training.journal import Journal
from mri_minority.training.loop import Progress, train
from mri_minority.training.memory import check_memory, step_bytes
from mri_minority.training.precision import autocast, wants_bfloat16
from mri_minority.volumes.atomic import write_atomic
from mri_minority_pipelines.begin_from import begin
from mri_minority_pipelines.config import DenoiserConfig
from mri_minority_pipelines.events import Event
from mri_minority_pipelines.model_folder import build_denoiser, load_world, save_world
from mri_minority_pipelines.stages.follow import follow, plan_of

_FIT_SLICES, _FIT_OF_STRATUM = 8192, 64
_REPORT_SIGMAS = (0.05, 0.1, 0.3, 1.0, 3.0)
_SHOWN = 8


def run(config: DenoiserConfig, store: SliceStore, out: Path, fabric: Fabric, tell: Callable[[Event], None]) -> None:
    """Train, or go on training, the denoiser of a model folder: one network, or a coarse and a fine one.

    Leaves `world.safetensors`, and of each network (NAME is `denoiser` or `fine`) `NAME.safetensors`, `NAME_log.jsonl`
    and TensorBoard logs in `out`; while under way, a checkpoint in `out/.training`, from which the same command goes
    on. With several processes all take part and the first one writes.
    """
    _train_network(config, "denoiser", store, out, fabric, tell)
    if config.fine is not None:
        _train_network(config.of_fine(config.fine), "fine", store, out, fabric, tell)


def _train_network(
    config: DenoiserConfig, name: str, store: SliceStore, out: Path, fabric: Fabric, tell: Callable[[Event], None]
) -> None:
    done_file, checkpoint = out / f"{name}.safetensors", out / ".training" / f"{name}.safetensors"
    if done_file.is_file():
        return
    if fabric.is_global_zero and not (out / "world.safetensors").is_file():
        fit_world(config, store, out / "world.safetensors", tell)
    fabric.barrier()
    torch.manual_seed(config.seed)
    net = build_denoiser(load_world(out / "world.safetensors", len(store.label_names)), config).to(fabric.device)
    if config.start_folder is not None:
        tell(Event("note", 0, 0, {"text": begin(net, config, name, store)}))
    # The first process measures for all.
    bfloat16 = fabric.broadcast(wants_bfloat16(config.precision, fabric.device))
    loss_of = DenoiserLoss(config, store, net, bfloat16)
    micro_batch = min(config.micro_batch, config.batch // fabric.world_size)
    needed = step_bytes(net.train(), lambda: loss_of(net, 0, slice(1)), micro_batch)
    check_memory(needed, fabric.device, micro_batch)
    tell(Event("note", 0, 0, {"text": f"a training step takes about {needed / 1024**3:.1f} GiB"}))
    plan = plan_of(config, checkpoint)
    quick: nn.Module | None = None
    if wants_compile(config.compile, fabric.device, fabric.world_size, config.minutes, bfloat16):
        tell(Event("note", 0, 0, {"text": "compiling the network, which takes a minute or two and saves more"}))
        made = compiled(net, lambda network: loss_of(network, 0, slice(micro_batch)))
        if isinstance(made, nn.Module):
            quick = made
        else:
            why = str(made).strip().splitlines()[0]
            tell(Event("note", 0, 0, {"text": f"training without torch.compile: {why}"}))
    steps = train(fabric, net, loss_of, plan, quick)
    report = _Report(net, store, out / f"{name}.png", config)
    last = follow(fabric, net, steps, out, name, plan.budget.seconds, config.log_steps, report, tell)
    if fabric.is_global_zero:
        errors = held_out_errors(net, store, config)
        notes = {"step": last.step, "seconds": last.seconds, "rmse": errors}
        save_tensors(done_file, dict(net.state_dict()), notes)
        checkpoint.unlink(missing_ok=True)
    fabric.barrier()


class DenoiserLoss:
    """The loss of some rows of a step's batch; every slice's noise is its own, whoever computes it."""

    def __init__(self, config: DenoiserConfig, store: SliceStore, net: UNetDenoiser, bfloat16: bool) -> None:
        """Load the training slices, or be ready to."""
        self.config, self.net, self.bfloat16 = config, net, bfloat16
        self.batches = SliceBatches(store, store.indices("train"), config.batch, config.seed)
        self.levels = NoiseLevels(config.noise_mean, config.noise_std, sigma_max=config.noise_max)
        self.classes = len(store.label_names)

    def __call__(self, network: nn.Module, step: int, rows: slice) -> torch.Tensor:
        config, groups = self.config, self.net.groups
        device = self.net.spread.device
        image, label, stratum, _ = self.batches(step, rows)
        x_0 = encode(image, label, self.classes).to(device)
        drawn = self.levels.draw(config.batch, len(groups.sizes), generator_for(config.seed, "noise levels", step))
        sigma, carries_loss = (t[rows].to(device) for t in drawn)
        items = list(range(config.batch))[rows]
        eps = normal_for(config.seed, items, tuple(x_0.shape[1:]), "noise", step).to(device)
        c_out = self.net.c_out(sigma)
        denoiser = cast(Denoiser, network)
        stratum = stratum.to(device)
        with autocast(device, self.bfloat16):
            loss = denoising_loss(denoiser, x_0, stratum, sigma, carries_loss, eps, c_out, groups, config.scales)
        return loss * len(items) / config.batch


class _Report:
    """Held-out errors per noise level, and a picture: what becomes of held-out slices at the highest noise it knows."""

    def __init__(self, net: UNetDenoiser, store: SliceStore, picture: Path, config: DenoiserConfig) -> None:
        self.net, self.store, self.picture, self.config = net, store, picture, config

    @torch.no_grad()
    def __call__(self, journal: Journal, progress: Progress) -> None:
        errors = held_out_errors(self.net, self.store, self.config, most=64)
        journal.numbers(progress.step, seconds=round(progress.seconds, 1), held_out_rmse=errors)
        groups, device = self.net.groups, self.net.spread.device
        x_0, stratum = _spread_over_heights(self.store, _SHOWN)
        sigma = min(20.0, self.config.noise_max)
        # From so much noise that hardly anything is left, these are samples; from less, restorations.
        items, shape = list(range(_SHOWN)), tuple(x_0.shape[1:])

        def noise(*name: int | str) -> torch.Tensor:
            return normal_for(self.config.seed, items, shape, "picture", *name).to(device)

        noisy = x_0.to(device) + sigma * noise()
        path = sigma_path(sigma, 0.02, 20, len(groups.sizes)).to(device)
        x = SOLVERS["ancestral"].run(self.net, noisy, path, stratum.to(device), groups, noise)
        rows = []
        for title, state in (("held out", x_0), (f"drawn from sigma {sigma:g} on, step {progress.step}", x.cpu())):
            image, label = decode(state, len(self.store.label_names))
            rows.append((title, image.numpy(), label.numpy()))
        pixels = sheet_pixels(rows)
        journal.picture(progress.step, "slices", pixels)
        sheet = Image.fromarray(pixels)
        write_atomic(self.picture, lambda temporary: sheet.save(temporary, format="PNG"))


def _spread_over_heights(store: SliceStore, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Held-out slices (training ones without a hold-out) spread over the strata: states and strata."""
    index = store.indices("holdout")
    index = index if len(index) else store.indices("train")
    order = index[np.argsort(store.strata()[index], kind="stable")]
    chosen = np.sort(order[np.linspace(0, len(order) - 1, count).astype(int)])
    image, label = store.read(chosen)
    x_0 = encode(torch.as_tensor(image), torch.as_tensor(label), len(store.label_names))
    return x_0, torch.as_tensor(store.strata()[chosen])


@torch.no_grad()
def held_out_errors(
    net: UNetDenoiser, store: SliceStore, config: DenoiserConfig, most: int = 256
) -> dict[str, list[float]]:
    """RMSE of one-shot denoising per noise level that the network knows, in each channel, on held-out slices.

    Without held-out subjects, on training slices.
    """
    device = net.spread.device
    index = store.indices("holdout")
    index = index if len(index) else store.indices("train")
    index = index[np.linspace(0, len(index) - 1, min(most, len(index))).astype(int)]
    image, label = store.read(index)
    x_0 = encode(torch.as_tensor(image), torch.as_tensor(label), len(store.label_names))
    stratum = torch.as_tensor(store.strata()[index])
    errors: dict[str, list[float]] = {}
    for sigma in (s for s in _REPORT_SIGMAS if s <= config.noise_max):
        squared = []
        for start in range(0, len(x_0), 32):
            x: Batch = x_0[start : start + 32]
            eps = torch.randn(x.shape, generator=generator_for(config.seed, "held out", start))
            level = torch.full((len(x), len(net.groups.sizes)), sigma)
            noisy = add_noise(x, level, eps, net.groups).to(device)
            mean = net(noisy, level.to(device), stratum[start : start + 32].to(device)).cpu()
            squared.append(((mean - x) ** 2).mean(dim=(2, 3)))
        errors[str(sigma)] = [round(v, 5) for v in torch.cat(squared).mean(dim=0).sqrt().tolist()]
    return errors


def fit_world(config: DenoiserConfig, store: SliceStore, path: Path, tell: Callable[[Event], None]) -> None:
    """Fit the Gaussian world to the training slices (some 8192 of them) and write it."""
    index = store.indices("train")
    tell(Event("note", 0, 0, {"text": f"fitting the Gaussian world to {min(len(index), _FIT_SLICES)} slices"}))
    generator = generator_for(config.seed, "world")
    if len(index) > _FIT_SLICES:
        order, strata = torch.randperm(len(index), generator=generator).numpy(), store.strata()[index]
        # Of a small stratum the first of them may hold next to nothing.
        some = [order[strata[order] == t][:_FIT_OF_STRATUM] for t in np.unique(strata)]
        index = index[np.unique(np.concatenate([order[:_FIT_SLICES], *some]))]
    image, label = store.read(index)
    classes = len(store.label_names)
    x_0 = encode(torch.as_tensor(image), torch.as_tensor(label), classes)
    stratum = torch.as_tensor(store.strata()[index])
    groups = groups_for(store.channels, classes)
    world = fit_gaussian_world(x_0, stratum, len(store.strata_names), groups, config.rank, generator)
    save_world(path, world)
