"""What buys quality per CPU minute? The first network in many forms, each trained from nothing for the same CPU time.

    python benchmarks/explore.py --store STORE --work WORK --minutes 12 [--only NAME ...] [--other MODEL]

One change at a time from the recipe; the same slices and the same noise everywhere. Time is CPU time of one thread
(`time.process_time`), so that what else the machine does hardly counts. Judged on slices of held-out subjects:

- RMSE of the image, image and label map both at sigma;
- Dice of the label map denoised in one shot from nothing (sigma 40) beside an image at sigma 0.3;
- R2 of the ventricles' area: the square of its correlation, about the strata's means, with the area in the label map
  denoised from nothing beside an image at sigma 3.

The last two do not depend on how a label map is coded. What is finished stays in WORK; the same command goes on.
"""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.ndimage import distance_transform_edt
from sweep import fill
from torch import Tensor, nn
from torch.nn import functional

from mri_minority.backbones.monai_unet import UNetDenoiser
from mri_minority.core.rng import generator_for, normal_for
from mri_minority.diffusion.gaussian import fit_gaussian_world
from mri_minority.diffusion.kernel import add_noise
from mri_minority.diffusion.loss import NoiseLevels, denoising_loss
from mri_minority.diffusion.state import encode, groups_for
from mri_minority.evaluate.segmenter import dice
from mri_minority.slices.batches import SliceBatches
from mri_minority.slices.store import SliceStore
from mri_minority.training.ema import Ema
from mri_minority.training.loop import Budget, learning_rate_factor
from mri_minority.volumes.atomic import write_json_atomic
from mri_minority_pipelines.begin_from import begin
from mri_minority_pipelines.config import DenoiserConfig, load_recipe
from mri_minority_pipelines.model_folder import build_denoiser, find_model

SIGMAS = (0.1, 0.3, 1.0, 3.0)
UNKNOWN = 40.0
PARTS = (30, 9, 2)
"""Averages over about the last 1/30, 1/9 (the recipe's) and 1/2 of the steps."""

HELD, WORLD, WARMUP = 128, 4096, 50
STRUCTURE = "ventricles"

Coding = Callable[[Tensor, Tensor, int], Tensor]
"""(image, label, classes) -> state, whose label channels are positive inside the class."""


def bits(amplitude: float) -> Coding:
    """Analog bits of another amplitude (the project's are 0.5)."""

    def coded(image: Tensor, label: Tensor, classes: int) -> Tensor:
        x = encode(image, label, classes)
        return torch.cat([x[:, :-classes], 2 * amplitude * x[:, -classes:]], dim=1)

    return coded


def signed_distances(image: Tensor, label: Tensor, classes: int) -> Tensor:
    """Distances from the class's border in pixels, inside positive, cut off at 4 and scaled to +-0.5."""
    planes = []
    for value in range(1, classes + 1):
        inside = [(plane == value).numpy() for plane in label]
        signed = [distance_transform_edt(m) - distance_transform_edt(~m) if m.any() else m - 9.0 for m in inside]
        planes.append(torch.as_tensor(np.stack(signed)).clamp(-4, 4) / 8)
    return torch.cat([image.float(), torch.stack(planes, dim=1).float()], dim=1)


def halved(image: Tensor, label: Tensor, classes: int) -> Tensor:
    """The state in means of 2 x 2 pixels: a coarse stage."""
    return functional.avg_pool2d(encode(image, label, classes), 2)


class NoHead(nn.Module):
    """In place of the full-resolution head: the stem's blocks alone, unfolded."""

    def __init__(self, inputs: int, outputs: int) -> None:
        """A layer of one pixel, zero at first as the head's last one is."""
        super().__init__()
        self.inputs, self.last = inputs, nn.Conv2d(inputs, outputs, 1)
        nn.init.zeros_(self.last.weight)

    def forward(self, x: Tensor, _: Tensor) -> Tensor:
        """Of all that the head is given, only the network's own answer."""
        return torch.as_tensor(self.last(x[:, : self.inputs].float()))


@dataclass(frozen=True)
class Variant:
    """One change from the recipe.

    Args:
        what: In words.
        settings: Of :class:`DenoiserConfig`.
        coding: How a slice becomes a state.
        head: Keep the full-resolution head.
        late_batch: Size of the batches in the last third of the time.
        coarse: Its pixels are of twice the side, so that it sees half the sigma.
        begun: Begin with the model of --other.
    """

    what: str
    settings: dict[str, Any] = field(default_factory=dict)
    coding: Coding = encode
    head: bool = True
    late_batch: int | None = None
    coarse: bool = False
    begun: bool = False


VARIANTS = {
    "recipe": Variant("the recipe: blocks of 4, channels 64-96-128, head 24"),
    "no-head": Variant("no full-resolution head", head=False),
    "head-48": Variant("head of 48 channels", {"head": 48}),
    "patch-2": Variant("blocks of 2, channels 32-64-128", {"patch": 2, "channels": (32, 64, 128)}),
    "wide": Variant("channels 96-128-192", {"channels": (96, 128, 192)}),
    "narrow": Variant("channels 32-64-96", {"channels": (32, 64, 96)}),
    "deep": Variant("two residual blocks a level", {"blocks": 2}),
    "edm-noise": Variant("noise about sigma 0.67 (mean -0.4, std 1.4)", {"noise_mean": -0.4, "noise_std": 1.4}),
    "high-noise": Variant("noise about sigma 2 (mean 0.7, std 1.4)", {"noise_mean": 0.7, "noise_std": 1.4}),
    "bits-1": Variant("label bits of +-1", coding=bits(1.0)),
    "bits-0.25": Variant("label bits of +-0.25", coding=bits(0.25)),
    "distances": Variant("labels as signed distances, cut off at 4 pixels", coding=signed_distances),
    "batch-8": Variant("batches of 8", {"batch": 8}),
    "late-32": Variant("batches of 8, of 32 in the last third", {"batch": 8}, late_batch=32),
    "coarse": Variant("a coarse stage: 4 mm, blocks of 2", {"patch": 2}, coding=halved, coarse=True),
    "begun": Variant("begun with a FLAIR model of other people", begun=True),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=12.0)
    parser.add_argument("--only", nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--other", help="a model of other people, for the variant `begun`")
    parser.add_argument("--page", type=Path, help="the page whose table is replaced")
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.work.mkdir(parents=True, exist_ok=True)
    store = SliceStore(args.store)
    for name in args.only:
        variant = VARIANTS[name]
        if variant.begun and not args.other:
            continue
        file = args.work / f"{name}-{args.minutes:g}.json"
        if not file.is_file():
            print(name, flush=True)
            write_json_atomic(file, tried(variant, store, 60 * args.minutes, args.other))
    found = {n: args.work / f"{n}-{args.minutes:g}.json" for n in VARIANTS}
    lines = table({n: json.loads(f.read_text(encoding="utf-8")) for n, f in found.items() if f.is_file()})
    print("\n".join(lines))
    if args.page:
        fill(args.page, f"explore-{args.minutes:g}", lines)


def tried(variant: Variant, store: SliceStore, seconds: float, other: str | None) -> dict[str, Any]:
    """Train one form and judge it: {"start" or parts of the average: figures}."""
    config = load_recipe("brain_t1_2mm").denoiser.model_copy(update=variant.settings)
    classes = len(store.label_names)
    torch.manual_seed(config.seed)
    net = _network(variant, config, store)
    if variant.begun and other:
        model = find_model(other)
        begin(net, config.model_copy(update={"start_folder": model.path}), "denoiser", store)
    judge = _Judge(variant, store, net)
    found: dict[str, Any] = {"weights": sum(p.numel() for p in net.parameters()), "start": judge()}
    print("   start", found["start"], flush=True)
    averages = {parts: Ema(net, 1.0, parts) for parts in PARTS}
    optimiser = torch.optim.AdamW(
        net.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay, fused=True
    )
    batches = {
        size: SliceBatches(store, store.indices("train"), size, config.seed)
        for size in {config.batch, variant.late_batch or config.batch}
    }
    levels = NoiseLevels(config.noise_mean, config.noise_std, sigma_max=config.noise_max)
    budget, begun, step = Budget(1_000_000, seconds), time.process_time(), 0
    net.train()
    while (share := budget.share(step, time.process_time() - begun)) < 1:
        size = variant.late_batch if variant.late_batch and share > 2 / 3 else config.batch
        image, label, stratum, _ = batches[size](step)
        x_0 = variant.coding(image, label, classes)
        sigma, carries_loss = levels.draw(size, len(net.groups.sizes), generator_for(config.seed, "levels", step))
        sigma = sigma / 2 if variant.coarse else sigma
        eps = normal_for(config.seed, list(range(size)), tuple(x_0.shape[1:]), "noise", step)
        for group in optimiser.param_groups:
            group["lr"] = config.learning_rate * learning_rate_factor(share, step, WARMUP)
        optimiser.zero_grad(set_to_none=True)
        c_out = net.c_out(sigma)
        denoising_loss(net, x_0, stratum, sigma, carries_loss, eps, c_out, net.groups, config.scales).backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimiser.step()
        step += 1
        for average in averages.values():
            average.update(net, step)
    found["steps"] = step
    for parts, average in averages.items():
        with average.in_place_of_weights(net):
            found[str(parts)] = judge()
            print("   average over 1 /", parts, step, "steps", found[str(parts)], flush=True)
    return found


def _network(variant: Variant, config: DenoiserConfig, store: SliceStore) -> UNetDenoiser:
    index, classes = store.indices("train"), len(store.label_names)
    generator = generator_for(config.seed, "world")
    index = index[np.sort(torch.randperm(len(index), generator=generator)[:WORLD].numpy())]
    image, label = (torch.as_tensor(part) for part in store.read(index))
    stratum = torch.as_tensor(store.strata()[index])
    groups = groups_for(store.channels, classes)
    x_0 = variant.coding(image, label, classes)
    world = fit_gaussian_world(x_0, stratum, len(store.strata_names), groups, config.rank, generator)
    net = build_denoiser(world, config)
    if not variant.head:
        net.head = NoHead(config.head // 2, store.channels + classes)  # type: ignore[assignment]
    return net


class _Judge:
    """Held-out figures of a network, whatever its coding."""

    def __init__(self, variant: Variant, store: SliceStore, net: UNetDenoiser) -> None:
        index = store.indices("holdout")
        index = index[np.linspace(0, len(index) - 1, HELD).astype(int)]
        image, self.label = (torch.as_tensor(part) for part in store.read(index))
        self.coarse, self.net, self.images = variant.coarse, net, store.channels
        self.stratum = torch.as_tensor(store.strata()[index])
        self.x_0 = variant.coding(image, self.label, len(store.label_names))
        self.structure = store.label_names.index(STRUCTURE)

    @torch.no_grad()
    def __call__(self) -> dict[str, Any]:
        training = self.net.training
        self.net.eval()
        clean = self.x_0[:, : self.images]
        drawn = {s: self._denoised(s, s)[:, : self.images] for s in SIGMAS}
        coarse = [
            _rmse(image, clean) if self.coarse else _rmse(_pooled(image), _pooled(clean))
            for image in (drawn[s] for s in (1.0, 3.0))
        ]
        labels = self._denoised(0.3, UNKNOWN)[:, self.images :]
        area = self._denoised(3.0, UNKNOWN)[:, self.images + self.structure].sum(dim=(1, 2))
        self.net.train(training)
        return {
            "rmse": None if self.coarse else [_rmse(drawn[s], clean) for s in SIGMAS],
            "rmse_4mm": coarse,
            "dice": None if self.coarse else self._dice(labels),
            "r2": self._explained(area),
        }

    def _denoised(self, of_image: float, of_label: float) -> Tensor:
        parts = []
        scale = 0.5 if self.coarse else 1.0
        for first in range(0, HELD, 32):
            x = self.x_0[first : first + 32]
            sigma = torch.tensor([[of_image * scale, of_label * scale]]).expand(len(x), 2)
            eps = torch.randn(x.shape, generator=generator_for(0, "explore", first))
            noisy = add_noise(x, sigma, eps, self.net.groups)
            parts.append(self.net(noisy, sigma, self.stratum[first : first + 32]))
        return torch.cat(parts)

    def _dice(self, labels: Tensor) -> float:
        best, which = labels.max(dim=1)
        drawn = torch.where(best > 0, which + 1, 0).numpy()
        values = [dice(drawn, self.label.numpy(), c) for c in range(1, labels.shape[1] + 1)]
        return round(float(np.nanmean(values)), 4)

    def _explained(self, area: Tensor) -> float:
        """Of slices that show the structure, about the mean of their stratum."""
        true = (self.label == self.structure + 1).sum(dim=(1, 2)).double()
        x, y, kept = area.double(), true.clone(), torch.zeros(HELD, dtype=torch.bool)
        for stratum in self.stratum.unique():
            of = self.stratum == stratum
            if float(true[of].mean()) > 30:
                x[of], y[of], kept = x[of] - x[of].mean(), y[of] - y[of].mean(), kept | of
        return round(float(torch.corrcoef(torch.stack([x[kept], y[kept]]))[0, 1] ** 2), 3)


def _pooled(x: Tensor) -> Tensor:
    return functional.avg_pool2d(x, 2)


def _rmse(a: Tensor, b: Tensor) -> float:
    return round(float((a - b).square().mean().sqrt()), 4)


def table(found: dict[str, dict[str, Any]]) -> list[str]:
    """One row per form, with the memory of the average that suits it best; the start's row first."""
    head = "| form | weights (M) | steps | average | " + " | ".join(f"sigma {s:g}" for s in SIGMAS)
    lines = [f"{head} | 4 mm, sigma 1 | 4 mm, sigma 3 | Dice | R2 |", "|" + "---|" * 12]
    if "recipe" in found:
        lines.append(f"| the Gaussian start alone | | 0 | | {_cells(found['recipe']['start'])} |")
    for name, figures in found.items():
        parts = min(map(str, PARTS), key=lambda p: sum(figures[p]["rmse_4mm"]))
        weights = figures["weights"] / 1e6
        lines.append(
            f"| {VARIANTS[name].what} | {weights:.1f} | {figures['steps']} | 1/{parts} | {_cells(figures[parts])} |"
        )
    return lines


def _cells(of: dict[str, Any]) -> str:
    rmse = [f"{v:.4f}" for v in of["rmse"]] if of["rmse"] else [""] * len(SIGMAS)
    coarse = [f"{v:.4f}" for v in of["rmse_4mm"]]
    return " | ".join([*rmse, *coarse, "" if of["dice"] is None else f"{of['dice']:.3f}", f"{of['r2']:.2f}"])


if __name__ == "__main__":
    main()
