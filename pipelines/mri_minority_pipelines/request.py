"""From what a person typed to resolved settings."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast, get_args

import torch
import yaml
from pydantic import ValidationError

from mri_minority.core.errors import DataError, UsageError
from mri_minority.slices.store import SliceStore
from mri_minority_pipelines.begin_from import with_start
from mri_minority_pipelines.config import PrepareConfig, Recipe, SampleConfig, StudyConfig, load_recipe
from mri_minority_pipelines.distances import with_file
from mri_minority_pipelines.events import Event
from mri_minority_pipelines.stages import prepare
from mri_minority_pipelines.stages.export import LAYOUTS
from mri_minority_pipelines.stages.train import Part

_Settings = TypeVar("_Settings", Recipe, SampleConfig, StudyConfig)


def resolve(
    recipe: str,
    seed: int | None = None,
    labels: Path | None = None,
    holdout: float | None = None,
    minutes: float | None = None,
    classifier_minutes: float | None = None,
    distance: str | None = None,
    start: Path | None = None,
) -> Recipe:
    """A recipe with what was said on the command line in place of its own values.

    Raises:
        UsageError: A value is not allowed, or the label file is not a map of names to lists of numbers.
        DataError: The network of a distance `file:PATH`, or the model to begin from, is missing.
    """
    settings = load_recipe(recipe).model_dump()
    changes: list[tuple[str, str, Any]] = [
        ("prepare", "holdout", holdout),
        ("classifier", "minutes", classifier_minutes),
        *((stage, "seed", seed) for stage in ("prepare", "denoiser", "score", "classifier", "discriminator", "audit")),
    ]
    if labels is not None:
        if not labels.is_file():
            raise UsageError(f"expected a YAML file of label values, {labels} does not exist")
        changes.append(("prepare", "labels", yaml.safe_load(labels.read_text(encoding="utf-8"))))
    own = settings["denoiser"]
    if minutes is not None and own["fine"] is not None:  # the time is for both networks, shared as the recipe shares it
        share = own["fine"]["minutes"] / (own["minutes"] + own["fine"]["minutes"])
        own["fine"]["minutes"], minutes = share * minutes, (1 - share) * minutes
    changes.append(("denoiser", "minutes", minutes))
    for stage, key, value in changes:
        if value is not None:
            settings[stage][key] = value
    distance = distance or settings["score"]["distance"]
    settings["score"] = with_file(settings["score"], distance)
    settings["denoiser"] = with_start(settings["denoiser"], start)
    return _validated(Recipe, settings)


def sampling(config: SampleConfig, **changes: Any) -> SampleConfig:
    """Sampling settings with the given ones replaced."""
    said = {key: value for key, value in changes.items() if value is not None}
    return _validated(SampleConfig, config.model_dump() | said)


def study(**said: Any) -> StudyConfig:
    """Settings of a study.

    Raises:
        UsageError: A value is not allowed.
    """
    return _validated(StudyConfig, said)


def choose_device(name: str) -> torch.device:
    """ "auto" takes a GPU when there is one."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name not in ("cpu", "cuda"):
        raise UsageError(f"expected --device auto, cpu or cuda, found {name!r}")
    if name == "cuda" and not torch.cuda.is_available():
        raise UsageError("--device cuda was asked for, but torch finds no CUDA device here")
    return torch.device(name)


def choose_part(name: str) -> Part:
    """Check --stage."""
    if name not in get_args(Part):
        raise UsageError(f"expected --stage {', '.join(get_args(Part))}, found {name!r}")
    return cast(Part, name)


def choose_format(name: str) -> None:
    """Check --format."""
    if name not in LAYOUTS:
        raise UsageError(f"expected --format {', '.join(LAYOUTS)}, found {name!r}")


def open_or_prepare(
    config: PrepareConfig | prepare.ForModel, sources: list[Path], out: Path, tell: Callable[[Event], None]
) -> SliceStore:
    """Open a store, or prepare the volumes into one beside `out`.

    Raises:
        DataError: A source is missing, or volumes cannot be prepared; also where a store of other ones is beside `out`.
    """
    if len(sources) == 1 and (sources[0] / "store.json").is_file():
        return SliceStore(sources[0])
    for source in sources:
        if not source.exists():
            raise DataError(f"expected a slice store or a folder of NIfTI files, {source} does not exist")
    beside = out.with_name(f"{out.name}.store")
    settings = config if isinstance(config, prepare.ForModel) else prepare.ForModel(config, frozenset())
    prepare.run(settings.config, sources, beside, tell, known_sites=settings.sites)
    return SliceStore(beside)


def _validated(model: type[_Settings], settings: dict[str, Any]) -> _Settings:
    try:
        return model.model_validate(settings)
    except ValidationError as error:
        where = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}, found {e['input']!r}" for e in error.errors())
        raise UsageError(where) from error
