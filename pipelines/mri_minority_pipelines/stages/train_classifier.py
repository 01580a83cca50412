"""train, last part: levels from scores, and the classifier that recognises them under noise."""

import hashlib
import math
from collections.abc import Callable
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import nn

from mri_minority.backbones.monai_encoder import EncoderShape, NoisyEncoder
from mri_minority.core.rng import generator_for, normal_for
from mri_minority.diffusion.gaussian import GaussianWorld
from mri_minority.diffusion.kernel import add_noise
from mri_minority.diffusion.state import encode
from mri_minority.minority.calibration import Calibration, calibration_of
from mri_minority.minority.heads import level_loss, log_probabilities, outputs_of
from mri_minority.minority.levels import LevelScale
from mri_minority.slices.batches import SliceBatches
from mri_minority.slices.store import SliceStore
from mri_minority.training.checkpoint import save_tensors
from mri_minority.training.journal import Journal
from mri_minority.training.loop import Progress, train
from mri_minority.training.precision import autocast, wants_bfloat16
from mri_minority.volumes.atomic import write_text_atomic
from mri_minority_pipelines.config import ClassifierConfig
from mri_minority_pipelines.events import Event
from mri_minority_pipelines.stages.follow import follow, plan_of

_REPORT_SIGMAS = (0.1, 0.5, 1.0, 2.0, 4.0, 8.0)
_LOG_SIGMA = (-3.0, 3.0)


def build_classifier(world: GaussianWorld, config: ClassifierConfig, levels: int) -> NoisyEncoder:
    """The untrained network of a configuration."""
    return NoisyEncoder(world, EncoderShape(4, config.channels, outputs_of(config.head, levels)))


def run(
    config: ClassifierConfig,
    store: SliceStore,
    world: GaussianWorld,
    scale: LevelScale,
    level: torch.Tensor,
    out: Path,
    fabric: Fabric,
    tell: Callable[[Event], None],
) -> dict[str, Any]:
    """Train, or go on training, one classifier; writes `out` and returns its report.

    Args:
        config: Network and training.
        store: The slices.
        world: The denoiser's Gaussian world.
        scale: The levels.
        level: Level of every slice of the store (N,).
        out: The weights' file; a checkpoint lies beside it while training.
        fabric: Device, precision and processes; the first process writes.
        tell: Receives progress.
    """
    torch.manual_seed(config.seed)
    net = build_classifier(world, config, scale.levels).to(fabric.device).train()
    checkpoint = out.with_suffix(".partial.safetensors")
    plan = plan_of(config, checkpoint, hashlib.sha256(level.numpy().tobytes()).hexdigest())
    seen: dict[str, dict[str, Any]] = {}

    def report(journal: Journal, progress: Progress) -> None:
        if len(store.indices("holdout")):
            seen.update(calibration(config, net, scale.levels, store, level))
            journal.numbers(progress.step, seconds=round(progress.seconds, 1), held_out=seen)

    bfloat16 = fabric.broadcast(wants_bfloat16(config.precision, fabric.device))
    steps = train(fabric, net, _Loss(config, store, net, scale.levels, level, bfloat16), plan)
    name = out.stem
    last = follow(fabric, net, steps, out.parent, name, plan.budget.seconds, config.log_steps, report, tell)
    result = {**asdict(last), "held_out": seen}
    if fabric.is_global_zero:
        if seen:
            table = out.with_name(f"calibration-{out.stem.removeprefix('classifier-')}.tsv")
            write_calibration(table, config, scale.levels, seen)
        save_tensors(out, dict(net.state_dict()), {"report": result})
        checkpoint.unlink(missing_ok=True)
    fabric.barrier()
    return result


class _Loss:
    """The classifier's loss on some rows of a step's batch, each with its own noise."""

    def __init__(
        self,
        config: ClassifierConfig,
        store: SliceStore,
        net: NoisyEncoder,
        levels: int,
        level: torch.Tensor,
        bfloat16: bool,
    ) -> None:
        index = store.indices("train")
        self.config, self.net, self.levels = config, net, levels
        self.batches = SliceBatches(store, index, config.batch, config.seed)
        self.level = level[torch.as_tensor(index)]
        self.bfloat16 = bfloat16
        self.classes, self.device = len(store.label_names), next(net.parameters()).device

    def __call__(self, network: nn.Module, step: int, rows: slice) -> torch.Tensor:
        config, groups = self.config, self.net.groups
        image, label, stratum, chosen = self.batches(step, rows)
        x_0 = encode(image, label, self.classes).to(self.device)
        uniform = torch.rand(config.batch, 1, generator=generator_for(config.seed, "noise levels", step))[rows]
        log_sigma = _LOG_SIGMA[0] + (_LOG_SIGMA[1] - _LOG_SIGMA[0]) * uniform
        sigma = log_sigma.exp().expand(-1, len(groups.sizes)).to(self.device)
        items = list(range(config.batch))[rows]
        eps = normal_for(config.seed, items, tuple(x_0.shape[1:]), "classifier noise", step).to(self.device)
        # MONAI's encoder ends in a dropout, which takes its chances from the global generator.
        torch.manual_seed(generator_for(config.seed, "dropout", step, rows.start).initial_seed())
        with autocast(self.device, self.bfloat16):
            outputs = network(add_noise(x_0, sigma, eps, groups), sigma, stratum.to(self.device))
        log_p = log_probabilities(config.head, outputs, self.levels)
        return level_loss(log_p, self.level[chosen].to(self.device)) * len(items) / config.batch


@torch.no_grad()
def calibration(
    config: ClassifierConfig,
    net: NoisyEncoder,
    levels: int,
    store: SliceStore,
    level: torch.Tensor,
    most: int = 768,
) -> dict[str, dict[str, Any]]:
    """Per noise level, on held-out subjects: what :class:`mri_minority.minority.calibration.Calibration` holds.

    Any number of slices will do, fewer than a batch too.

    Args:
        config: Which head, and the seed of the noise.
        net: The classifier, in evaluation mode.
        levels: L.
        store: The slices; at least one is held out.
        level: Level of every slice of the store (N,).
        most: Take so many, evenly spread, if there are more.
    """
    index, device = store.indices("holdout"), next(net.parameters()).device
    index = index[np.linspace(0, len(index) - 1, min(most, len(index))).astype(int)]
    image, label = store.read(index)
    x_0 = encode(torch.as_tensor(image), torch.as_tensor(label), len(store.label_names))
    stratum, truth = torch.as_tensor(store.strata()[index]), level[torch.as_tensor(index)]
    report = {}
    for sigma in _REPORT_SIGMAS:
        rows = []
        for start in range(0, len(x_0), 64):
            x = x_0[start : start + 64]
            eps = torch.randn(x.shape, generator=generator_for(config.seed, "calibration", start))
            noise_level = torch.full((len(x), len(net.groups.sizes)), sigma)
            noisy = add_noise(x, noise_level, eps, net.groups).to(device)
            outputs = net(noisy, noise_level.to(device), stratum[start : start + 64].to(device))
            rows.append(log_probabilities(config.head, outputs.cpu(), levels))
        found = asdict(calibration_of(torch.cat(rows), truth))
        report[str(sigma)] = {k: round(v, 4) if isinstance(v, float) else v for k, v in found.items()}
    return report


def write_calibration(path: Path, config: ClassifierConfig, levels: int, report: dict[str, dict[str, Any]]) -> None:
    """Write the calibration report as TSV, one line per noise level; `chance` is the log-likelihood of a guess."""
    names = [field.name for field in fields(Calibration)]
    lines = ["\t".join(["sigma", "head", "chance", *names])]
    for sigma, found in report.items():
        cells = ["" if found[name] is None else str(found[name]) for name in names]
        lines.append("\t".join([sigma, config.head, f"{-math.log(levels):.4f}", *cells]))
    write_text_atomic(path, "\n".join(lines) + "\n")
