"""train, first part: fit the Gaussian world, train the network on what it leaves."""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from mri_minority.backbones.monai_unet import UNetDenoiser
from mri_minority.core.errors import DataError
from mri_minority.core.rng import generator_for
from mri_minority.core.types import Batch
from mri_minority.diffusion.gaussian import fit_gaussian_world
from mri_minority.diffusion.kernel import add_noise
from mri_minority.diffusion.loss import NoiseLevels, denoising_loss
from mri_minority.diffusion.state import encode, groups_for
from mri_minority.slices.batches import SliceBatches
from mri_minority.slices.store import SliceStore
from mri_minority.training.checkpoint import load_run, save_run, save_tensors
from mri_minority.training.ema import Ema
from mri_minority.training.loop import Budget, Progress, adamw, optimise
from mri_minority.training.precision import autocast, bfloat16_pays
from mri_minority_pipelines.config import LENGTH, DenoiserConfig
from mri_minority_pipelines.events import Event
from mri_minority_pipelines.model_folder import build_denoiser, load_world, save_world

_FIT_SLICES = 8192
_REPORT_SIGMAS = (0.05, 0.1, 0.3, 1.0, 3.0)


def run(
    config: DenoiserConfig, store: SliceStore, out: Path, device: torch.device, tell: Callable[[Event], None]
) -> None:
    """Train, or go on training, the denoiser of a model folder.

    Leaves `world.safetensors`, `denoiser.safetensors` and `denoiser_log.jsonl` in `out`; while under way, a
    checkpoint in `out/.training`, from which the same command goes on.
    """
    done_file = out / "denoiser.safetensors"
    if done_file.is_file():
        return
    work = out / ".training"
    work.mkdir(parents=True, exist_ok=True)
    classes = len(store.label_names)
    groups = groups_for(classes)
    index = store.indices("train")
    if not (out / "world.safetensors").is_file():
        _fit_world(config, store, out / "world.safetensors", tell)
    torch.manual_seed(config.seed)
    net = build_denoiser(load_world(out / "world.safetensors", classes), config).to(device).train()
    ema, optimiser = Ema(net, config.ema), adamw(net, config.learning_rate, weight_decay=1e-4)
    checkpoint, done = work / "denoiser.safetensors", Progress(0, 0.0, float("nan"), 0.0)
    if checkpoint.is_file():
        notes = load_run(checkpoint, net, ema, optimiser)
        if notes["config"] != _frozen(config):
            raise DataError(f"{work} was begun with other settings; finish it with those, or choose another --out")
        done = Progress(notes["step"], notes["seconds"], notes["loss"], 0.0)
    batches = SliceBatches(store, index, config.batch, config.seed)
    levels = NoiseLevels(config.noise_mean, config.noise_std)
    fast = bfloat16_pays(device)

    def loss_of(step: int) -> torch.Tensor:
        image, label, stratum, _ = batches(step)
        x_0 = encode(image, label, classes).to(device)
        generator = generator_for(config.seed, "noise", step)
        sigma, carries_loss = (t.to(device) for t in levels.draw(len(x_0), len(groups.sizes), generator))
        eps = torch.randn(x_0.shape, generator=generator).to(device)
        with autocast(device, fast):
            return denoising_loss(net, x_0, stratum.to(device), sigma, carries_loss, eps, net.c_out(sigma), groups)

    budget = Budget(config.max_steps, 60 * config.minutes)
    saved, smooth, last = done.seconds, done.loss, done
    for last in optimise(net, loss_of, optimiser, ema, budget, done):
        smooth = last.loss if np.isnan(smooth) else 0.98 * smooth + 0.02 * last.loss
        if last.step % 25 == 0:
            tell(Event("train denoiser", last.share, 1.0, {"loss": smooth, "step": last.step}))
        if last.seconds - saved >= config.checkpoint_seconds:
            saved = last.seconds
            notes = {"step": last.step, "seconds": last.seconds, "loss": smooth, "config": _frozen(config)}
            save_run(checkpoint, net, ema, optimiser, notes)
            _log(out, {**asdict(last), "smooth": smooth, "bfloat16": fast})
    ema.copy_to(net)
    held_out = store.indices("holdout")
    errors = held_out_errors(net.eval(), store, held_out if len(held_out) else index, config.seed, device)
    _log(out, {**asdict(last), "smooth": smooth, "held_out_rmse": errors})
    save_tensors(done_file, dict(net.state_dict()), {"step": last.step, "seconds": last.seconds, "rmse": errors})
    checkpoint.unlink(missing_ok=True)
    tell(Event("train denoiser", 1.0, 1.0, {"loss": smooth, "step": last.step}))


@torch.no_grad()
def held_out_errors(
    net: UNetDenoiser, store: SliceStore, index: np.ndarray, seed: int, device: torch.device, most: int = 256
) -> dict[str, list[float]]:
    """RMSE of one-shot denoising per noise level, image and label group, on slices spread over the split."""
    index = index[np.linspace(0, len(index) - 1, min(most, len(index))).astype(int)]
    image, label = store.read(index)
    classes = len(store.label_names)
    x_0 = encode(torch.as_tensor(image), torch.as_tensor(label), classes)
    stratum = torch.as_tensor(store.strata()[index])
    errors: dict[str, list[float]] = {}
    for sigma in _REPORT_SIGMAS:
        squared = []
        for start in range(0, len(x_0), 32):
            x: Batch = x_0[start : start + 32]
            eps = torch.randn(x.shape, generator=generator_for(seed, "held out", start))
            level = torch.full((len(x), len(net.groups.sizes)), sigma)
            noisy = add_noise(x, level, eps, net.groups).to(device)
            mean = net(noisy, level.to(device), stratum[start : start + 32].to(device)).cpu()
            squared.append(net.groups.mean((mean - x) ** 2))
        errors[str(sigma)] = [round(v, 5) for v in torch.cat(squared).mean(dim=0).sqrt().tolist()]
    return errors


def _fit_world(config: DenoiserConfig, store: SliceStore, path: Path, tell: Callable[[Event], None]) -> None:
    index = store.indices("train")
    tell(Event("note", 0, 0, {"text": f"fitting the Gaussian world to {min(len(index), _FIT_SLICES)} slices"}))
    generator = generator_for(config.seed, "world")
    if len(index) > _FIT_SLICES:
        index = index[np.sort(torch.randperm(len(index), generator=generator)[:_FIT_SLICES].numpy())]
    image, label = store.read(index)
    classes = len(store.label_names)
    x_0 = encode(torch.as_tensor(image), torch.as_tensor(label), classes)
    stratum = torch.as_tensor(store.strata()[index])
    world = fit_gaussian_world(x_0, stratum, len(store.strata_names), groups_for(classes), config.rank, generator)
    save_world(path, world)


def _frozen(config: DenoiserConfig) -> dict[str, object]:
    """The settings that a run in progress may not change; its length may."""
    return {k: v for k, v in config.model_dump(mode="json").items() if k not in LENGTH}


def _log(out: Path, entry: dict[str, object]) -> None:
    with (out / "denoiser_log.jsonl").open("a", encoding="utf-8") as log:
        log.write(json.dumps(entry) + "\n")
