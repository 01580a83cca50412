"""Training that begins with what another model has learnt: which model, and what becomes of its weights."""

from pathlib import Path
from typing import Any

from mri_minority.backbones.monai_unet import UNetDenoiser
from mri_minority.backbones.transfer import corresponding, start_from
from mri_minority.core.errors import DataError
from mri_minority.slices.store import SliceStore
from mri_minority.training.checkpoint import load_tensors
from mri_minority_pipelines.config import DenoiserConfig
from mri_minority_pipelines.model_folder import channel_names, find_model

_SHAPE = ("patch", "channels", "attention", "blocks", "head")


def with_start(settings: dict[str, Any], start: Path | None) -> dict[str, Any]:
    """Denoiser settings with the model to begin from, and its hash, filled in.

    Raises:
        DataError: There is no such model, or its network is of another shape.
    """
    if start is None:
        return settings
    model = find_model(start)
    other = model.recipe().denoiser.model_dump()
    for part, mine, theirs in (("", settings, other), ("fine ", settings["fine"], other["fine"])):
        # What the settings of the second network leave out is as in the first.
        wrong = [key for key in _SHAPE if mine and theirs and key in mine and theirs[key] != mine[key]]
        if wrong:
            said, found = (", ".join(f"{part}{key} {of[key]}" for key in wrong) for of in (mine, theirs))
            raise DataError(f"expected a model to begin from with the recipe's {said}, found {found} in {start}")
    return settings | {"start_folder": model.path, "start_sha256": model.fingerprint()}


def begin(net: UNetDenoiser, config: DenoiserConfig, name: str, store: SliceStore) -> str:
    """Give a fresh network (`denoiser` or `fine`) the other model's weights; what was done, in words.

    Raises:
        DataError: The other model's network is of another shape.
    """
    assert config.start_folder is not None
    other = find_model(config.start_folder)
    file, card = other.path / f"{name}.safetensors", other.card()
    if not file.is_file():
        return f"the model to begin from has no second network; {name} begins from nothing"
    pairs = corresponding(store.channels, store.label_names, len(channel_names(card)), tuple(card["label_names"]))
    try:
        start_from(net, load_tensors(file)[0], pairs)
    except ValueError as error:
        raise DataError(f"expected a network to begin from of the recipe's shape in {file}: {error}") from error
    return f"{name} begins with the weights of a model of recipe {card['recipe']['name']}"


def where_from(config: DenoiserConfig) -> dict[str, Any] | None:
    """What a model's card says of the model that it began with; None where it began from nothing."""
    if config.start_folder is None:
        return None
    card = find_model(config.start_folder).card()
    return {
        "model_sha256": config.start_sha256,
        "recipe": card["recipe"]["name"],
        "train_subjects": card["train_subjects"],
        "begun_from": card.get("begun_from"),
    }


def in_words(card: dict[str, Any]) -> str:
    """A sentence for data cards; empty where the model began from nothing."""
    start = card.get("begun_from")
    if not start:
        return ""
    return (
        f"Its training began with the weights of another model (recipe `{start['recipe']}`, {start['train_subjects']} "
        "subjects): that model's licence applies too, and the copy audit does not know its training slices."
    )
