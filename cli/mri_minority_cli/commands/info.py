"""mri-minority info: what a store, model or data set is."""

from pathlib import Path
from typing import Annotated

import typer

from mri_minority_cli.options import Debug, Json
from mri_minority_cli.speech import speaking

EXAMPLE = "Example: mri-minority info brains.model"


def command(
    path: Annotated[Path, typer.Argument(help="A slice store, a model folder or a synthetic data set.")],
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Say what it is, in one screen."""
    with speaking(json, debug) as speech:
        from mri_minority_pipelines.inspect import describe

        facts = describe(path)
        speech.result(facts, [f"{key}: {value}" for key, value in facts.items()])
