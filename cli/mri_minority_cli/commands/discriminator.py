"""mri-minority discriminator: what --method low-density needs."""

from pathlib import Path
from typing import Annotated

import typer

from mri_minority_cli.options import Debug, Device, Json, Model, Rarity
from mri_minority_cli.speech import speaking

EXAMPLE = "Example: mri-minority discriminator brains.store --model brains.model"


def command(
    source: Annotated[Path, typer.Argument(help="The slice store that the model was trained on.")],
    model: Model,
    rarity: Rarity = "minority",
    minutes: Annotated[
        float | None, typer.Option("--max-minutes", min=0.01, help="Time for training it.", show_default=False)
    ] = None,
    device: Device = "auto",
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Draw plain slices and learn to tell them from real ones, so that low-density sampling stays near the real."""
    with speaking(json, debug) as speech:
        from mri_minority.slices.store import SliceStore
        from mri_minority_pipelines.model_folder import find_model
        from mri_minority_pipelines.request import choose_device
        from mri_minority_pipelines.stages import train_discriminator

        folder = find_model(model)
        recipe = folder.recipe()
        config = recipe.discriminator.model_copy(update={} if minutes is None else {"minutes": minutes})
        result = train_discriminator.run(
            config, recipe.sample, SliceStore(source), folder, rarity, choose_device(device), speech.tell
        )
        speech.result(
            result,
            [f"{result['file']} is written", f"next: mri-minority synthesize --method low-density --model {model}"],
        )
