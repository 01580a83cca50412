"""train, last part: levels from scores, and the classifier that recognises them under noise."""

import math
from collections.abc import Callable
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mri_minority.backbones.monai_encoder import EncoderShape, NoisyEncoder
from mri_minority.core.errors import DataError
from mri_minority.core.rng import generator_for
from mri_minority.diffusion.gaussian import GaussianWorld
from mri_minority.diffusion.kernel import add_noise
from mri_minority.diffusion.state import encode
from mri_minority.minority.calibration import Calibration, calibration_of
from mri_minority.minority.heads import level_loss, log_probabilities, outputs_of
from mri_minority.minority.levels import LevelScale
from mri_minority.slices.batches import SliceBatches
from mri_minority.slices.store import SliceStore
from mri_minority.training.checkpoint import load_run, save_run, save_tensors
from mri_minority.training.ema import Ema
from mri_minority.training.loop import Budget, Progress, adamw, optimise
from mri_minority.training.precision import autocast, bfloat16_pays
from mri_minority.volumes.atomic import write_text_atomic
from mri_minority_pipelines.config import LENGTH, ClassifierConfig
from mri_minority_pipelines.events import Event

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
    device: torch.device,
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
        device: Where to compute.
        tell: Receives progress.
    """
    index = store.indices("train")
    torch.manual_seed(config.seed)
    net = build_classifier(world, config, scale.levels).to(device).train()
    ema, optimiser = Ema(net, 0.998), adamw(net, config.learning_rate, config.weight_decay)
    checkpoint, done = out.with_suffix(".partial.safetensors"), Progress(0, 0.0, float("nan"), 0.0)
    if checkpoint.is_file():
        notes = load_run(checkpoint, net, ema, optimiser)
        if notes["config"] != _frozen(config):
            raise DataError(f"{checkpoint} was begun with other settings; remove it or choose another --out")
        done = Progress(notes["step"], notes["seconds"], notes["loss"], 0.0)
    batches = SliceBatches(store, index, config.batch, config.seed)
    classes, groups = len(store.label_names), world.groups
    train_level = level[torch.as_tensor(index)]
    fast = bfloat16_pays(device)

    def loss_of(step: int) -> torch.Tensor:
        image, label, stratum, chosen = batches(step)
        x_0 = encode(image, label, classes).to(device)
        generator = generator_for(config.seed, "classifier", step)
        log_sigma = _LOG_SIGMA[0] + (_LOG_SIGMA[1] - _LOG_SIGMA[0]) * torch.rand(len(x_0), 1, generator=generator)
        sigma = log_sigma.exp().expand(-1, len(groups.sizes)).to(device)
        eps = torch.randn(x_0.shape, generator=generator).to(device)
        with autocast(device, fast):
            outputs = net(add_noise(x_0, sigma, eps, groups), sigma, stratum.to(device))
        return level_loss(log_probabilities(config.head, outputs, scale.levels), train_level[chosen].to(device))

    budget = Budget(config.max_steps, 60 * config.minutes)
    saved, smooth, last = done.seconds, done.loss, done
    name = f"train classifier {out.stem.removeprefix('classifier-')}"
    for last in optimise(net, loss_of, optimiser, ema, budget, done):
        smooth = last.loss if np.isnan(smooth) else 0.98 * smooth + 0.02 * last.loss
        if last.step % 25 == 0:
            tell(Event(name, last.share, 1.0, {"loss": smooth, "step": last.step}))
        if last.seconds - saved >= config.checkpoint_seconds:
            saved = last.seconds
            notes = {"step": last.step, "seconds": last.seconds, "loss": smooth, "config": _frozen(config)}
            save_run(checkpoint, net, ema, optimiser, notes)
    ema.copy_to(net)
    report = {**asdict(last), "loss": smooth, "held_out": {}}
    held_out = store.indices("holdout")
    if len(held_out):
        report["held_out"] = calibration(config, net.eval(), scale.levels, store, held_out, level, device)
        table = out.with_name(f"calibration-{out.stem.removeprefix('classifier-')}.tsv")
        write_calibration(table, config, scale.levels, report["held_out"])
    save_tensors(out, dict(net.state_dict()), {"report": report})
    checkpoint.unlink(missing_ok=True)
    return report


@torch.no_grad()
def calibration(
    config: ClassifierConfig,
    net: NoisyEncoder,
    levels: int,
    store: SliceStore,
    index: np.ndarray,
    level: torch.Tensor,
    device: torch.device,
    most: int = 768,
) -> dict[str, dict[str, Any]]:
    """Per noise level, on held-out subjects: what :class:`mri_minority.minority.calibration.Calibration` holds.

    Any number of slices will do, fewer than a batch too.

    Args:
        config: Which head, and the seed of the noise.
        net: The classifier, in evaluation mode.
        levels: L.
        store: The slices.
        index: Positions of the held-out ones, at least one.
        level: Level of every slice of the store (N,).
        device: Where to compute.
        most: Take so many, evenly spread, if there are more.
    """
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


def _frozen(config: ClassifierConfig) -> dict[str, object]:
    """The settings that a run in progress may not change; its length may."""
    return {k: v for k, v in config.model_dump(mode="json").items() if k not in LENGTH}
