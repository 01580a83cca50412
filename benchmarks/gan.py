"""A GAN on the same slices: the comparator of the paper, small and for the CPU. Goes on from its checkpoint.

    pip install --no-deps --group gan    # pip 25.1 or newer
    python benchmarks/gan.py --store STORE --out GAN --cpu-minutes 60

Networks, losses' terms and differentiable augmentation are those of `stylegan2_pytorch` (a StyleGAN2, not
StyleGAN2-ADA). Ours are the training loop and two shapes: its fourth, "transparent" channel lets it make an image with
three label maps, and the generator starts from 7 x 7, not 4 x 4, so that it ends at 112 x 112 and no time goes into a
border up to 128.
Budget: CPU time of this process, in all its stretches.
"""

import argparse
import importlib
import json
import random
import sys
import time
from copy import deepcopy
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from mri_minority.diffusion.state import BIT, decode, encode
from mri_minority.slices.batches import SliceBatches
from mri_minority.slices.store import SliceStore
from mri_minority.training.checkpoint import load_tensors, save_tensors

HEIGHTS = (0.38, 0.70)
FIRST, SIDE, LATENT, CAPACITY, WIDEST = 7, 112, 128, 4, 128
BATCH, RATE, FASTER, AUGMENT, PENALTY_EVERY, AVERAGE = 16, 2e-4, 1.0, 0.5, 4, 0.995
BLUR = 0.3  # noise on all that the discriminator sees: real label maps have two exact values, which alone tell them
MARKS = ("translation", "cutout")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--cpu-minutes", type=float, default=60.0)
    parser.add_argument("--heights", type=float, nargs=2, default=HEIGHTS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    train(SliceStore(args.store), args.out, args.cpu_minutes, tuple(args.heights))


def package() -> ModuleType:
    """`stylegan2_pytorch` on a CPU.

    Its module asserts that there is a GPU and imports packages that only its own trainer needs. Within this function
    stand-ins take their place; the one of them whose work is done here is kornia's `filter2d`, a blur.
    """
    names = ("aim", "fire", "torchvision", "torchvision.transforms", "kornia", "kornia.filters")
    empty: dict[str, Any] = {name: ModuleType(name) for name in (*names, "vector_quantize_pytorch")}
    empty["torchvision"].transforms = empty["torchvision.transforms"]
    empty["kornia.filters"].filter2d = _filter
    empty["vector_quantize_pytorch"].VectorQuantize = None
    with mock.patch.dict(sys.modules, empty), mock.patch.object(torch.cuda, "is_available", return_value=True):
        return importlib.import_module("stylegan2_pytorch.stylegan2_pytorch")


def _filter(x: Tensor, kernel: Tensor, normalized: bool) -> Tensor:
    """kornia's filter2d: correlation with one kernel (1, k, k), reflected at the border."""
    weight = kernel / kernel.abs().sum() if normalized else kernel
    side = kernel.shape[-1] // 2
    padded = functional.pad(x, (side, side, side, side), mode="reflect")
    return functional.conv2d(padded, weight[None].expand(x.shape[1], -1, -1, -1), groups=x.shape[1])


class Gan(nn.Module):
    """Style network, generator and discriminator."""

    def __init__(self) -> None:
        """Untrained."""
        super().__init__()
        lib = package()
        self.style = lib.StyleVectorizer(LATENT, 8, lr_mul=0.1)
        # Said to be 64 pixels wide: four doublings, from 4 to 64 or, with the larger start, from 7 to 112.
        self.generator = lib.Generator(64, LATENT, CAPACITY, transparent=True, fmap_max=WIDEST)
        self.generator.initial_block = nn.Parameter(torch.randn(1, WIDEST, FIRST, FIRST))
        self.judge = lib.Discriminator(64, CAPACITY, transparent=True, fmap_max=WIDEST)
        self.judge.to_logit = nn.Linear(WIDEST * 4 * 4, 1)
        for module in self.modules():
            if type(module) in {nn.Conv2d, nn.Linear}:
                nn.init.kaiming_normal_(module.weight, a=0, mode="fan_in", nonlinearity="leaky_relu")
        for block in self.generator.blocks:
            for layer in (block.to_noise1, block.to_noise2):
                nn.init.zeros_(layer.weight)
                nn.init.zeros_(layer.bias)

    def draw(self, count: int, noise: torch.Generator) -> Tensor:
        """States (count, 4, SIDE, SIDE), with two styles mixed at a random layer as in training."""
        layers = self.generator.num_layers
        border = int(torch.randint(layers, (), generator=noise))
        first, second = (self.style(torch.randn(count, LATENT, generator=noise)) for _ in range(2))
        styles = torch.stack([first if i < border else second for i in range(layers)], dim=1)
        return self.generator(styles, torch.rand(count, SIDE, SIDE, 1, generator=noise))  # type: ignore[no-any-return]


def train(store: SliceStore, folder: Path, cpu_minutes: float, heights: tuple[float, float]) -> None:
    """Train until the process (and those before it) used `cpu_minutes`; a checkpoint every three."""
    lib, file = package(), folder / "gan.safetensors"
    torch.manual_seed(0)
    gan = Gan()
    average = deepcopy(gan).requires_grad_(False)
    made = [*gan.style.parameters(), *gan.generator.parameters()]
    optimisers = {
        "made": torch.optim.Adam(made, RATE, betas=(0.5, 0.9)),
        "judge": torch.optim.Adam(gan.judge.parameters(), FASTER * RATE, betas=(0.5, 0.9)),
    }
    step, used = 0, 0.0
    if file.is_file():
        step, used = _load(file, gan, average, optimisers, heights)
    index = np.array([i for i in store.indices("train") if heights[0] <= store.rows[i].height <= heights[1]])
    batches = SliceBatches(store, index, BATCH, seed=0)
    begun, saved, classes = time.process_time() - 60 * used, used, len(store.label_names)
    if classes != 3:
        raise SystemExit(f"expected a store with three labels, found {classes}: the package's networks have 4 channels")

    def looked_at(x: Tensor) -> Tensor:
        x = x + BLUR * torch.randn(x.shape)
        return gan.judge(lib.DiffAugment(x, types=MARKS) if random.random() < AUGMENT else x)[0]  # type: ignore[no-any-return]

    while used < cpu_minutes:
        step += 1
        noise = torch.Generator().manual_seed(step)
        torch.manual_seed(step)  # the package's augmentation draws from both of these
        random.seed(step)
        image, label, _, _ = batches(step)
        real = padded(encode(image, label, classes)).requires_grad_(step % PENALTY_EVERY == 0)
        with torch.no_grad():
            fake = gan.draw(BATCH, noise)
        on_real, on_fake = looked_at(real), looked_at(fake)
        loss = lib.hinge_loss(on_fake, on_real)  # real towards -1, made towards +1
        if real.requires_grad:
            loss = loss + lib.gradient_penalty(real, on_real)
        _step(optimisers["judge"], loss)
        gan.judge.requires_grad_(False)
        _step(optimisers["made"], lib.gen_hinge_loss(looked_at(gan.draw(BATCH, noise)), None))
        gan.judge.requires_grad_(True)
        with torch.no_grad():
            for mean, now in zip(average.parameters(), gan.parameters(), strict=True):
                mean.lerp_(now, 1 - min(AVERAGE, (1 + step) / (10 + step)))
        used = (time.process_time() - begun) / 60
        if step % 25 == 0:
            print(json.dumps({"step": step, "cpu_minutes": round(used, 2), "judge": round(loss.item(), 3)}), flush=True)
        if used - saved > 3 or used >= cpu_minutes:
            saved = used
            _save(file, gan, average, optimisers, {"step": step, "cpu_minutes": used, "heights": list(heights)})


def load(folder: Path) -> tuple[Gan, dict[str, Any]]:
    """The averaged networks and how long they were trained."""
    tensors, notes = load_tensors(folder / "gan.safetensors")
    gan = Gan()
    prefix = "average."
    gan.load_state_dict({k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)})
    return gan.eval().requires_grad_(False), notes


@torch.no_grad()
def draw(gan: Gan, count: int, size: tuple[int, int], seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Images (count, 1, H, W) in [-1, 1] and label maps (count, H, W)."""
    noise = torch.Generator().manual_seed(seed)
    states = torch.cat([gan.draw(1, noise) for _ in range(count)])
    top, left = ((SIDE - side) // 2 for side in size)
    image, label = decode(states[:, :, top : top + size[0], left : left + size[1]], 3)
    return image.numpy(), label.numpy()


def padded(state: Tensor) -> Tensor:
    """States with a border of background, so that they are square."""
    rows, columns = (SIDE - side for side in state.shape[-2:])
    border = (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2)
    image = functional.pad(state[:, :1], border, value=-1.0)
    return torch.cat([image, functional.pad(state[:, 1:], border, value=-BIT)], dim=1)


def _step(optimiser: torch.optim.Optimizer, loss: Tensor) -> None:
    if not torch.isfinite(loss):
        raise SystemExit("the loss of the GAN is no longer a number; begin again in another --out")
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()


def _save(file: Path, gan: Gan, average: Gan, optimisers: dict[str, Any], notes: dict[str, Any]) -> None:
    tensors = {f"gan.{k}": v for k, v in gan.state_dict().items()}
    tensors |= {f"average.{k}": v for k, v in average.state_dict().items()}
    for name, optimiser in optimisers.items():
        for number, state in optimiser.state_dict()["state"].items():
            tensors |= {f"optimiser.{name}.{number}.{key}": value for key, value in state.items()}
    file.parent.mkdir(parents=True, exist_ok=True)
    save_tensors(file, tensors, notes)


def _load(
    file: Path, gan: Gan, average: Gan, optimisers: dict[str, Any], heights: tuple[float, float]
) -> tuple[int, float]:
    tensors, notes = load_tensors(file)
    if notes["heights"] != list(heights):
        raise SystemExit(f"{file} was trained on heights {notes['heights']}; choose another --out")
    for prefix, module in (("gan.", gan), ("average.", average)):
        module.load_state_dict({k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)})
    for name, optimiser in optimisers.items():
        whole = optimiser.state_dict()
        for key, value in tensors.items():
            if key.startswith(f"optimiser.{name}."):
                number, entry = key.removeprefix(f"optimiser.{name}.").split(".")
                whole["state"].setdefault(int(number), {})[entry] = value
        optimiser.load_state_dict(whole)
    return int(notes["step"]), float(notes["cpu_minutes"])


if __name__ == "__main__":
    main()
