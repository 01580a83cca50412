"""discriminator: what low-density sampling needs beside the classifier, in one file of the model folder."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from mri_minority.backbones.experts import Network
from mri_minority.backbones.monai_encoder import NoisyEncoder
from mri_minority.core.errors import DataError
from mri_minority.core.rng import generator_for
from mri_minority.core.types import Batch, Strata
from mri_minority.diffusion.kernel import add_noise, sigma_path
from mri_minority.diffusion.sampling import draw_slices
from mri_minority.diffusion.solvers import SOLVERS
from mri_minority.diffusion.state import encode
from mri_minority.minority.calibration import auroc
from mri_minority.minority.low_density import mean_direction
from mri_minority.slices.batches import SliceBatches
from mri_minority.slices.store import SliceStore
from mri_minority.training.checkpoint import load_tensors, save_tensors
from mri_minority.training.loop import train
from mri_minority.training.precision import autocast, wants_bfloat16
from mri_minority.training.processes import fabric_for
from mri_minority_pipelines.config import DiscriminatorConfig, SampleConfig
from mri_minority_pipelines.events import Event
from mri_minority_pipelines.model_folder import ModelFolder
from mri_minority_pipelines.samplers import build_discriminator, load_classifier, low_density_file
from mri_minority_pipelines.stages.follow import plan_of

_SIGMAS = (0.05, 0.2, 0.5, 1.0, 2.0, 4.0, 8.0, 20.0)
_LOG_SIGMA = (-3.0, 3.0)
_MOST = 2048
_BLOCK = 64


def run(
    config: DiscriminatorConfig,
    sample: SampleConfig,
    store: SliceStore,
    model: ModelFolder,
    rarity: str,
    device: torch.device,
    tell: Callable[[Event], None],
) -> dict[str, Any]:
    """Draw plain slices, learn to tell them from real ones under noise, and average the classifier's embeddings.

    The discriminator is a small network trained for minutes, not an adversary: it holds low-density sampling back from
    what this denoiser gets wrong. Interrupting is safe: the same command goes on.

    Args:
        config: Discriminator, training, number of drawn slices.
        sample: How these are drawn.
        store: The slices the model was trained on.
        model: The model folder; `low-density-NAME.safetensors` is written into it.
        rarity: Whose classifier gives the embedding.
        device: Where to compute.
        tell: Receives progress.

    Returns:
        The file, and per noise level the AUROC of telling held-out real from held-back drawn slices (0.5: it cannot).

    Raises:
        UsageError: The model has no such classifier.
        DataError: The store is not the model's.
    """
    card = model.card()
    if not store.is_known_as(card["store_sha256"]):
        raise DataError(f"expected the slices that {model.path} was trained on, {store.folder} holds others")
    classifier, entry = load_classifier(rarity, card, model, device)
    fakes, fake_stratum = _fakes(config, sample, store, model, device, tell)
    kept = max(1, len(fakes) // 5)  # the judge never sees these
    file = model.path / low_density_file(model, rarity)
    checkpoint = file.with_suffix(".partial.safetensors")
    judge = _train(config, store, model, fakes[kept:], fake_stratum[kept:], checkpoint, device, tell)
    report = _report(config, judge, store, fakes[:kept], fake_stratum[:kept], device)
    sigmas, centres = _centres(config, classifier, store, device, tell)
    weights = {f"judge.{key}": value.cpu() for key, value in judge.state_dict().items()}
    notes = {
        "classifier_sha256": entry["sha256"],
        "config": config.model_dump(mode="json"),
        "sample": sample.model_dump(mode="json"),
        "auroc": report,
    }
    save_tensors(file, {**weights, "sigmas": sigmas, "centres": centres}, notes)
    checkpoint.unlink(missing_ok=True)
    return {"file": str(file), "auroc": report}


def _fakes(
    config: DiscriminatorConfig,
    sample: SampleConfig,
    store: SliceStore,
    model: ModelFolder,
    device: torch.device,
    tell: Callable[[Event], None],
) -> tuple[Batch, Strata]:
    """Plainly drawn states (N, C, H, W) with strata as frequent as in training; finished batches are kept on disk."""
    train = store.indices("train")
    picks = [int(torch.randint(len(train), (1,), generator=_generator(config, i))) for i in range(config.fakes)]
    stratum = torch.as_tensor(store.strata()[train[picks]])
    work = model.path / ".training"
    work.mkdir(exist_ok=True)
    net: Network | None = None
    fast, parts = wants_bfloat16(sample.precision, device), []
    for start in range(0, config.fakes, 16):
        items = list(range(start, min(start + 16, config.fakes)))
        file = work / f"drawn-{config.seed}-{sample.solver}-{sample.steps}-{start:06d}-{items[-1]:06d}.safetensors"
        if not file.is_file():
            net = net or model.denoiser().to(device)
            path = sigma_path(sample.sigma_max, sample.sigma_min, sample.steps, len(net.groups.sizes))
            shape = (net.groups.channels, *model.recipe().prepare.size)
            # Not the noise of anybody's data set: those have the seeds 0, 1, ...
            solver, seed = SOLVERS[sample.solver], -1 - config.seed
            with autocast(device, fast):
                drawn = draw_slices(net, solver, path, items, stratum[items], shape, seed, net.groups, device)
            save_tensors(file, {"state": drawn.cpu().half()}, {})
        parts.append(load_tensors(file)[0]["state"].float())
        tell(Event("draw for the discriminator", items[-1] + 1, config.fakes, {}))
    return torch.cat(parts), stratum


def _generator(config: DiscriminatorConfig, item: int) -> torch.Generator:
    return generator_for(config.seed, "discriminator stratum", item)


def _train(
    config: DiscriminatorConfig,
    store: SliceStore,
    model: ModelFolder,
    fakes: Batch,
    fake_stratum: Strata,
    checkpoint: Path,
    device: torch.device,
    tell: Callable[[Event], None],
) -> NoisyEncoder:
    """Half real, half drawn in every batch, both at the same noise levels; binary cross-entropy."""
    torch.manual_seed(config.seed)
    fabric = fabric_for(device)
    judge = build_discriminator(model, config).to(device).train()
    half = config.batch // 2
    batches = SliceBatches(store, store.indices("train"), half, config.seed)
    truth = torch.cat([torch.ones(half), torch.zeros(half)]).to(device)
    fast = wants_bfloat16(config.precision, device)

    def loss_of(network: nn.Module, step: int, rows: slice) -> torch.Tensor:
        image, label, stratum, _ = batches(step)
        generator = generator_for(config.seed, "discriminator", step)
        chosen = torch.randint(len(fakes), (half,), generator=generator)
        x_0 = torch.cat([encode(image, label, len(store.label_names)), fakes[chosen]])
        log_sigma = _LOG_SIGMA[0] + (_LOG_SIGMA[1] - _LOG_SIGMA[0]) * torch.rand(half, 1, generator=generator)
        sigma = log_sigma.exp().repeat(2, len(judge.groups.sizes))
        x = add_noise(x_0, sigma, torch.randn(x_0.shape, generator=generator), judge.groups).to(device)
        both = torch.cat([stratum, fake_stratum[chosen]]).to(device)
        torch.manual_seed(generator_for(config.seed, "dropout", step).initial_seed())  # MONAI's encoder ends in one
        with autocast(device, fast):
            logit = network(x, sigma.to(device), both)[:, 0]
        return functional.binary_cross_entropy_with_logits(logit, truth)

    averaged = None
    for last, ema in train(fabric, judge, loss_of, plan_of(config, checkpoint)):
        averaged = ema
        if last.step % config.log_steps == 0:
            tell(Event("train discriminator", last.share, 1.0, {"loss": last.loss, "step": last.step}))
    if averaged is None:
        raise DataError("the discriminator's budget was used up before its first step; give it more time")
    averaged.copy_to(judge)
    return judge.eval().requires_grad_(False)


@torch.no_grad()
def _report(
    config: DiscriminatorConfig,
    judge: NoisyEncoder,
    store: SliceStore,
    fakes: Batch,
    fake_stratum: Strata,
    device: torch.device,
) -> dict[str, float | None]:
    """AUROC per noise level between held-out real slices (none: empty) and drawn ones the judge has not seen."""
    index = store.indices("holdout")
    if not len(index):
        return {}
    index = index[np.linspace(0, len(index) - 1, min(len(fakes), len(index))).astype(int)]  # of all people and heights
    image, label = store.read(index)
    real = encode(torch.as_tensor(image), torch.as_tensor(label), len(store.label_names))
    x_0 = torch.cat([real, fakes])
    stratum = torch.cat([torch.as_tensor(store.strata()[index]), fake_stratum])
    is_real = torch.arange(len(x_0)) < len(real)
    report: dict[str, float | None] = {}
    for sigma in _SIGMAS:
        level = torch.full((len(x_0), len(judge.groups.sizes)), sigma)
        eps = torch.randn(x_0.shape, generator=generator_for(config.seed, "discriminator report"))
        noisy = add_noise(x_0, level, eps, judge.groups)
        logits = [
            judge(
                noisy[s : s + _BLOCK].to(device), level[s : s + _BLOCK].to(device), stratum[s : s + _BLOCK].to(device)
            )
            for s in range(0, len(x_0), _BLOCK)
        ]
        found = auroc(torch.cat(logits)[:, 0].cpu(), is_real)
        report[str(sigma)] = None if found is None else round(found, 4)
    return report


@torch.no_grad()
def _centres(
    config: DiscriminatorConfig,
    classifier: NoisyEncoder,
    store: SliceStore,
    device: torch.device,
    tell: Callable[[Event], None],
) -> tuple[torch.Tensor, torch.Tensor]:
    """Noise levels (S,) and the mean direction of noised training slices in the classifier's embedding (S, T, F)."""
    train = store.indices("train")
    train = train[np.argsort(store.strata()[train], kind="stable")]  # evenly spread over the strata too
    train = train[np.linspace(0, len(train) - 1, min(_MOST, len(train))).astype(int)]
    stratum = torch.as_tensor(store.strata()[train])
    rows = []
    for number, sigma in enumerate(_SIGMAS):
        found = []
        for start in range(0, len(train), _BLOCK):
            image, label = store.read(train[start : start + _BLOCK])
            x_0 = encode(torch.as_tensor(image), torch.as_tensor(label), len(store.label_names))
            level = torch.full((len(x_0), len(classifier.groups.sizes)), sigma)
            eps = torch.randn(x_0.shape, generator=generator_for(config.seed, "centres", number, start))
            x = add_noise(x_0, level, eps, classifier.groups).to(device)
            found.append(classifier.embed(x, level.to(device), stratum[start : start + _BLOCK].to(device)).cpu())
        rows.append(mean_direction(torch.cat(found), stratum, len(store.strata_names)))
        tell(Event("average embeddings", number + 1, len(_SIGMAS), {}))
    return torch.tensor(_SIGMAS), torch.stack(rows)
