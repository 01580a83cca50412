"""From `--method` to a sampler: which denoiser is wrapped in what, where it starts, and what it costs."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from mri_minority.backbones.experts import Network
from mri_minority.backbones.monai_encoder import NoisyEncoder
from mri_minority.core.errors import DataError, UsageError
from mri_minority.core.rng import normal_for
from mri_minority.core.types import Batch, Sigmas, Strata
from mri_minority.diffusion.denoiser import Denoiser
from mri_minority.diffusion.guidance import Guided, LogProbability
from mri_minority.diffusion.kernel import sigma_path
from mri_minority.diffusion.sampling import draw_slices, skipped
from mri_minority.diffusion.solvers import SOLVERS
from mri_minority.minority.heads import log_probabilities, log_probability_of
from mri_minority.minority.low_density import Centres, LowDensity
from mri_minority.minority.self_guided import SelfGuided, every_nth_level
from mri_minority.minority.target import wanted_levels
from mri_minority.training.checkpoint import load_tensors
from mri_minority.training.precision import autocast
from mri_minority.volumes.atomic import sha256_of
from mri_minority_pipelines import rarity as rarities
from mri_minority_pipelines.config import ClassifierConfig, DiscriminatorConfig, SampleConfig
from mri_minority_pipelines.model_folder import ModelFolder, load_world
from mri_minority_pipelines.stages.train_classifier import build_classifier

METHODS = ("ancestral", "minority", "low-density", "self-guided", "boost-and-skip")
"""All samplers, in the order in which they are named when combined."""


def parse_method(text: str) -> tuple[str, ...]:
    """The samplers in "minority" or "minority+boost-and-skip", in the order of :data:`METHODS`.

    Each but "ancestral" (which is none of them) wraps the denoiser or moves the start, so they combine freely.

    Raises:
        UsageError: One is unknown or said twice, or "ancestral" is combined.
    """
    parts = text.split("+")
    if any(part not in METHODS for part in parts) or len(set(parts)) < len(parts):
        raise UsageError(
            f"expected --method among {', '.join(METHODS)}, or several joined by + such as "
            f"minority+boost-and-skip, found {text!r}"
        )
    if "ancestral" in parts and len(parts) > 1:
        raise UsageError(f"ancestral is sampling without guidance and cannot be combined, found --method {text!r}")
    return tuple(method for method in METHODS if method in parts)


@dataclass
class Calls:
    """What drawing one slice costs; every network call serves a whole batch, so calls are per slice.

    Args:
        denoiser: Denoiser calls.
        guidance: Calls of classifier or discriminator, each with its backward pass.
    """

    denoiser: int = 0
    guidance: int = 0


@dataclass(frozen=True)
class Sampler:
    """Everything that `--method` loads from a model.

    Args:
        methods: From :func:`parse_method`.
        config: How slices are drawn.
        levels: Wanted levels, for minority guidance.
        minority: log p(wanted levels | x_sigma).
        low_density: Push and pull.
        used: Hashes of the weights that guide, for the manifest.
    """

    methods: tuple[str, ...]
    config: SampleConfig
    levels: list[int] | None
    minority: LogProbability | None
    low_density: LogProbability | None
    used: dict[str, str | None]

    @property
    def name(self) -> str:
        """The methods as they are written down."""
        return "+".join(self.methods)

    def draw(
        self,
        net: Network,
        size: tuple[int, int],
        items: list[int],
        stratum: torch.Tensor,
        seed: int,
        device: torch.device,
        fast: bool,
    ) -> tuple[Batch, Calls]:
        """States of some items (B, C, H, W), on the CPU, and what each of them cost.

        Args:
            net: The denoiser, on the device.
            size: (H, W).
            items: Item numbers.
            stratum: Of every item (B,).
            seed: Of the run.
            device: Where to compute.
            fast: Compute in bfloat16 where that is safe.
        """
        config = self.config
        path = sigma_path(config.sigma_max, config.sigma_min, config.steps, len(net.groups.sizes))
        gain, shape = 1.0, (net.groups.channels, *size)
        if "boost-and-skip" in self.methods:
            path, gain = skipped(path, config.skip), config.boost
        calls = Calls()
        denoiser = self.wrapped(net, path, items, shape, seed, calls)
        with autocast(device, fast):
            states = draw_slices(
                denoiser, SOLVERS[config.solver], path, items, stratum, shape, seed, net.groups, device, gain
            )
        return states.cpu(), calls

    def wrapped(
        self,
        net: Network,
        path: torch.Tensor,
        items: list[int],
        shape: tuple[int, int, int],
        seed: int,
        calls: Calls,
        told: Callable[[Denoiser], Denoiser] = lambda base: base,
    ) -> Denoiser:
        """The denoiser inside its guides; self-guidance innermost, since it differentiates through the denoiser.

        `told` comes before all guides: it makes the denoiser's posterior mean that given something known.
        """
        config = self.config

        def counted(x: Batch, sigma: Sigmas, stratum: Strata) -> Batch:
            calls.denoiser += 1
            return torch.as_tensor(net(x, sigma, stratum))

        wrapped = told(counted)
        if "self-guided" in self.methods:
            active = every_nth_level(path, config.self_every)
            wrapped = SelfGuided(
                wrapped,
                config.self_guidance,
                config.self_sigma,
                active,
                lambda number: normal_for(seed, items, shape, "renoise", number),
                net.groups,
                config.window,
            )
        if self.low_density is not None:
            wrapped = Guided(wrapped, _counted(self.low_density, calls), 1.0, net.groups, config.window)
        if self.minority is not None:
            wrapped = Guided(wrapped, _counted(self.minority, calls), config.guidance, net.groups, config.window)
        return wrapped


def _counted(log_p: LogProbability, calls: Calls) -> LogProbability:
    def counted(x: Batch, sigma: Sigmas, stratum: Strata) -> torch.Tensor:
        calls.guidance += 1
        return log_p(x, sigma, stratum)

    return counted


def build_sampler(
    method: str, wanted: str, rarity: str, config: SampleConfig, model: ModelFolder, device: torch.device
) -> Sampler:
    """Load what a method needs from a model folder.

    Args:
        method: See :func:`parse_method`.
        wanted: The wanted class, for minority guidance.
        rarity: Which of the model's classifiers.
        config: How slices are drawn.
        model: The model folder.
        device: Where to compute.

    Raises:
        UsageError: The method, the class or the rarity does not exist, or the solver does not suit the method.
        DataError: The model lacks what the method needs.
    """
    methods = parse_method(method)
    if "boost-and-skip" in methods and SOLVERS[config.solver].order:
        stochastic = ", ".join(name for name, solver in SOLVERS.items() if not solver.order)
        raise UsageError(
            f"boost-and-skip needs a stochastic solver ({stochastic}), found {config.solver}: a deterministic one "
            "would keep the boost in every direction"
        )
    card = model.card()
    used: dict[str, str | None] = {"classifier_sha256": None, "low_density_sha256": None}
    levels: list[int] | None = None
    minority: LogProbability | None = None
    low: LowDensity | None = None
    if {"minority", "low-density"} & set(methods):
        net, entry = load_classifier(rarity, card, model, device)
        used["classifier_sha256"] = entry["sha256"]
        if "minority" in methods:
            chosen = wanted_levels(wanted, entry["levels"]).to(device)
            levels = [int(i) for i in chosen.nonzero().ravel()]
            minority = _log_p_of(net, entry, chosen)
        if "low-density" in methods:
            low, used["low_density_sha256"] = _low_density(net, entry, rarity, config, model, device)
    return Sampler(methods, config, levels, minority, low, used)


def load_classifier(
    rarity: str, card: dict[str, Any], model: ModelFolder, device: torch.device
) -> tuple[NoisyEncoder, dict[str, Any]]:
    """A model's classifier in evaluation mode, and its entry in the card.

    Raises:
        UsageError: The model has no such classifier.
    """
    name = rarities.slug(rarity)
    entry: dict[str, Any] | None = card["classifiers"].get(name)
    if entry is None:
        have = ", ".join(e["rarity"] for e in card["classifiers"].values()) or "none"
        raise UsageError(
            f"this model has no classifier for {rarity!r} (it has: {have}); run `mri-minority train` with "
            f"--rarity {rarity} and the same --out"
        )
    config = ClassifierConfig.model_validate(entry["config"])
    net = build_classifier(
        load_world(model.path / "world.safetensors", len(card["label_names"])), config, entry["levels"]
    )
    net.load_state_dict(load_tensors(model.path / f"classifier-{name}.safetensors")[0])
    return net.to(device).eval().requires_grad_(False), entry


def build_discriminator(model: ModelFolder, config: DiscriminatorConfig) -> NoisyEncoder:
    """The untrained discriminator: the classifier's body with one output."""
    world = load_world(model.path / "world.safetensors", len(model.card()["label_names"]))
    return build_classifier(world, ClassifierConfig(channels=config.channels, head="ordinal"), 2)


def low_density_file(model: ModelFolder, rarity: str) -> str:
    """Name of the file that low-density sampling needs."""
    return f"low-density-{rarities.slug(rarity)}.safetensors"


def _log_p_of(net: NoisyEncoder, entry: dict[str, Any], wanted: torch.Tensor) -> LogProbability:
    head = ClassifierConfig.model_validate(entry["config"]).head

    def log_p(x: Batch, sigma: Sigmas, stratum: Strata) -> torch.Tensor:
        every = log_probabilities(head, net(x, sigma, stratum), entry["levels"])
        return log_probability_of(every, wanted.expand(len(x), -1))

    return log_p


def _low_density(
    net: NoisyEncoder,
    entry: dict[str, Any],
    rarity: str,
    config: SampleConfig,
    model: ModelFolder,
    device: torch.device,
) -> tuple[LowDensity, str]:
    """Push and pull, and the hash of their file."""
    file = model.path / low_density_file(model, rarity)
    if not file.is_file():
        raise DataError(
            f"low-density sampling needs {file.name} in the model folder, found none; make it with "
            f"`mri-minority discriminator STORE --model {model.path} --rarity {rarity}`"
        )
    tensors, notes = load_tensors(file)
    if notes["classifier_sha256"] != entry["sha256"]:
        raise DataError(f"{file.name} belongs to another classifier; remove it and run `mri-minority discriminator`")
    judge = build_discriminator(model, DiscriminatorConfig.model_validate(notes["config"]))
    weights = {key.removeprefix("judge."): value for key, value in tensors.items() if key.startswith("judge.")}
    judge.load_state_dict(weights)
    judge = judge.to(device).eval().requires_grad_(False)

    def real(x: Batch, sigma: Sigmas, stratum: Strata) -> torch.Tensor:
        return torch.as_tensor(judge(x, sigma, stratum))[:, 0]

    centres = Centres(tensors["sigmas"].to(device), tensors["centres"].to(device))
    return LowDensity(net.embed, centres, real, config.push, config.pull), sha256_of(file)
