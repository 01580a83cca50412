"""Every setting of a run: one frozen model per stage; an unknown key is an error."""

from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from mri_minority.core.errors import UsageError

Precision = Literal["auto", "float32", "bfloat16"]
"""Arithmetic of the networks; "auto" measures at the start which is faster here."""


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class _Network(_Settings):
    """Whatever has a network of MONAI's in it."""

    channels: tuple[int, ...] = (32,)

    @model_validator(mode="after")
    def _network_can_be_built(self) -> "_Network":
        if not self.channels or any(width < 1 or width % 32 for width in self.channels):
            raise ValueError(f"expected `channels` in multiples of 32, found {list(self.channels)}")
        attention = getattr(self, "attention", self.channels)
        if len(attention) != len(self.channels):
            raise ValueError(
                f"expected `attention` for each of {len(self.channels)} `channels`, found {len(attention)}"
            )
        return self


class PrepareConfig(_Settings):
    """From volumes to the slice store."""

    sequence: str | tuple[str, ...] = ""
    channel: int | tuple[int, ...] | None = None
    spacing_mm: tuple[float, float, float] = (2.0, 2.0, 2.0)
    size: tuple[int, int] = (96, 112)
    plane: Literal["axial", "coronal", "sagittal"] = "axial"
    heights: tuple[float, float] = (0.10, 0.95)
    ceiling: float = Field(1.2, gt=0)
    labels: dict[str, tuple[int, ...]] = Field(default_factory=dict)
    foreground: Literal["labels", "head"] = "labels"
    strata: int = Field(10, ge=1)
    stratum_min_slices: int = Field(40, ge=2)
    holdout: float = Field(0.2, ge=0, lt=1)
    seed: int = 0

    @model_validator(mode="after")
    def _channels_make_sense(self) -> "PrepareConfig":
        several = [value for value in (self.sequence, self.channel) if isinstance(value, tuple)]
        if len(several) > 1 or any(not value or len(set(value)) < len(value) for value in several):
            raise ValueError("the channels of a head are named by `sequence` or by `channel`, each of them once")
        numbers = self.channel if isinstance(self.channel, tuple) else (self.channel or 0,)
        if min(numbers) < 0:
            raise ValueError(f"expected `channel` from 0 on, found {min(numbers)}")
        return self

    def with_classes(self, names: Sequence[str]) -> "PrepareConfig":
        """The same with `labels` in the order of a card or store: class numbers follow it, and JSON files sort keys."""
        return self.model_copy(update={"labels": {name: self.labels[name] for name in names if name in self.labels}})

    @property
    def channels(self) -> int:
        """Image channels of a slice."""
        several = [value for value in (self.sequence, self.channel) if isinstance(value, tuple)]
        return len(several[0]) if several else 1


class FineConfig(_Network):
    """The second network, for low noise only; what is not here is as for the first."""

    border: float = Field(2.0, gt=0)
    patch: int = 2
    channels: tuple[int, ...] = (32, 64, 64)
    attention: tuple[bool, ...] = (False, False, False)
    head: int = 24
    noise_mean: float = -1.2
    noise_std: float = 1.1
    scales: tuple[int, ...] = (1, 4)
    minutes: float = Field(30.0, gt=0)


class DenoiserConfig(_Network):
    """The denoiser: Gaussian start, network, training."""

    rank: int = Field(96, ge=0)
    patch: int = 4
    channels: tuple[int, ...] = (64, 96, 128)
    attention: tuple[bool, ...] = (False, False, True)
    blocks: int = 1
    head: int = 24
    precision: Precision = "auto"
    compile: Literal["auto", "yes", "no"] = "auto"
    noise_mean: float = 0.0
    noise_std: float = 1.6
    noise_max: float = Field(40.0, gt=0)
    scales: tuple[int, ...] = (1, 4, 16)
    batch: int = Field(16, ge=1)
    micro_batch: int = Field(16, ge=1)
    learning_rate: float = 1e-3
    weight_decay: float = 1e-4
    ema: float = 0.9995
    minutes: float = Field(60.0, gt=0)
    checkpoint_seconds: float = Field(60.0, ge=0)
    log_steps: int = Field(25, ge=1)
    max_steps: int = Field(1_000_000, ge=1)
    seed: int = 0
    start_sha256: str | None = None
    start_folder: Path | None = Field(None, exclude=True)  # where a person keeps things is not written down
    fine: FineConfig | None = None

    def of_fine(self, fine: FineConfig) -> "DenoiserConfig":
        """The settings of the second network: these, with its own in their place."""
        own = fine.model_dump(exclude={"border"}) | {"noise_max": fine.border, "fine": None}
        own["start_folder"] = self.start_folder
        return DenoiserConfig.model_validate(self.model_dump() | own)


class ScoreConfig(_Settings):
    """The minority score of real slices."""

    sigma: float = Field(2.5, gt=0)
    draws: int = Field(4, ge=2)
    distance: str = Field("balanced", pattern=r"^(image|labels|both|balanced|st-lpips|file:.+)$")
    distance_sha256: str | None = None
    distance_file: Path | None = Field(None, exclude=True)  # where a person keeps things is not written down
    seed: int = 0


class _NoisyConfig(_Network):
    """Training of a small network that looks at noisy slices."""

    channels: tuple[int, ...] = (32, 64, 96)
    batch: int = Field(32, ge=1)
    learning_rate: float = 3e-4
    weight_decay: float = 0.05
    ema: float = 0.998
    precision: Precision = "auto"
    minutes: float = Field(6.0, gt=0)
    checkpoint_seconds: float = Field(30.0, ge=0)
    log_steps: int = Field(25, ge=1)
    max_steps: int = Field(1_000_000, ge=1)
    seed: int = 0


class ClassifierConfig(_NoisyConfig):
    """The minority classifier: levels, network, training."""

    levels: int = Field(10, ge=2)
    head: Literal["ordinal", "softmax"] = "ordinal"
    micro_batch: int = Field(32, ge=1)


class DiscriminatorConfig(_NoisyConfig):
    """What low-density sampling needs beside the classifier: a small network that tells real from drawn slices."""

    fakes: int = Field(256, ge=2)
    batch: int = Field(32, ge=2, multiple_of=2)
    max_steps: int = Field(2_000, ge=1)

    @property
    def micro_batch(self) -> int:
        """All at once: the real and the drawn half of a batch get the same noise levels."""
        return self.batch


class AuditConfig(_Settings):
    """The copy audit: how training slices are found again."""

    features: int = Field(64, ge=4)
    codes: int = Field(96, ge=4)
    batch: int = Field(64, ge=4)
    max_steps: int = Field(500, ge=1)
    calibration: int = Field(500, ge=8)
    segmenter_steps: int = Field(400, ge=1)
    seed: int = 0


LENGTH = frozenset({"minutes", "max_steps", "checkpoint_seconds", "log_steps", "micro_batch", "fine"})
"""Settings that a training run in progress may change; every other one belongs to its checkpoint."""


def frozen(config: DenoiserConfig | ClassifierConfig | DiscriminatorConfig) -> dict[str, Any]:
    """The settings that a run in progress may not change."""
    settings = config.model_dump(mode="json", exclude_none=True)
    return {key: value for key, value in settings.items() if key not in LENGTH}


class SampleConfig(_Settings):
    """How slices are drawn."""

    solver: Literal["euler", "heun", "dpmpp_2m", "ancestral", "dpmpp_2m_sde"] = "dpmpp_2m_sde"
    steps: int = Field(20, ge=2)
    sigma_max: float = Field(20.0, gt=0)
    sigma_min: float = Field(0.02, gt=0)
    guidance: float = Field(6.0, ge=0)
    window: tuple[float, float] = (0.0, 1e9)
    precision: Precision = "auto"
    self_guidance: float = Field(0.4, ge=0)
    self_sigma: float = Field(2.5, gt=0)
    self_every: int = Field(4, ge=1)
    push: float = Field(6.0, ge=0)
    pull: float = Field(1.0, ge=0)
    boost: float = Field(4.0, ge=1)
    skip: float = Field(0.05, ge=0, lt=1)


class StudyConfig(_Settings):
    """Does it help a segmenter? What every arm has in common, and what is repeated."""

    network: Literal["unet", "dynunet"] = "unet"
    steps: int = Field(2000, ge=1)
    batch: int = Field(16, ge=2)
    seeds: tuple[int, ...] = Field((0, 1, 2), min_length=1)
    ratios: tuple[Annotated[float, Field(gt=0)], ...] = Field((1.0,), min_length=1)
    sets: tuple[str, ...] = Field(("all",), min_length=1)
    rarity: str = ""
    attribute: str = ""
    rare: float = Field(0.1, gt=0, lt=1)
    rare_subjects: float = Field(0.2, gt=0, lt=1)
    flip: bool | None = None
    oversample: bool = True
    then_real: bool = False
    matched: bool = False
    draws: int = Field(10_000, ge=100)
    subset_seed: int = 0


class Recipe(_Settings):
    """All stages of one kind of data."""

    name: str
    about: str
    prepare: PrepareConfig = PrepareConfig()
    denoiser: DenoiserConfig = DenoiserConfig()
    score: ScoreConfig = ScoreConfig()
    classifier: ClassifierConfig = ClassifierConfig()
    discriminator: DiscriminatorConfig = DiscriminatorConfig()
    audit: AuditConfig = AuditConfig()
    sample: SampleConfig = SampleConfig()


def recipe_names() -> list[str]:
    """Names of the recipes in the package."""
    return sorted(
        p.name[:-5] for p in resources.files("mri_minority_pipelines.recipes").iterdir() if p.name[-5:] == ".yaml"
    )


def load_recipe(name: str) -> Recipe:
    """Read a recipe by name, or from a YAML file of the user's.

    Raises:
        UsageError: There is no such recipe, or a key or value in it is wrong.
    """
    path = Path(name)
    if path.suffix in {".yaml", ".yml"}:
        if not path.is_file():
            raise UsageError(f"expected a recipe file, {name} does not exist")
        text = path.read_text(encoding="utf-8")
    elif name in recipe_names():
        text = (resources.files("mri_minority_pipelines.recipes") / f"{name}.yaml").read_text(encoding="utf-8")
    else:
        raise UsageError(f"expected a recipe among {', '.join(recipe_names())} or a .yaml file, found {name!r}")
    try:
        return Recipe.model_validate(yaml.safe_load(text))
    except (yaml.YAMLError, ValidationError) as error:
        details = error.errors() if isinstance(error, ValidationError) else []
        where = "; ".join(f"{'.'.join(map(str, d['loc']))}: {d['msg']}" for d in details) or str(error)
        raise UsageError(f"recipe {name} is not valid: {where}") from error
