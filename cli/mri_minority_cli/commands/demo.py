"""mri-minority demo: ordinary and rare slices side by side."""

from pathlib import Path
from typing import Annotated

import typer

from mri_minority_cli.options import Debug, Device, Json
from mri_minority_cli.speech import speaking

EXAMPLE = "Example: mri-minority demo --out demo_output"


def command(
    out: Annotated[Path, typer.Option("--out", help="Where everything goes.")] = Path("demo_output"),
    count: Annotated[int, typer.Option("--count", min=1, help="Slices of each kind.")] = 16,
    phantoms: Annotated[
        int, typer.Option("--phantoms", min=0, help="Make so many phantom heads and train on them first; 0: do not.")
    ] = 0,
    seed: Annotated[int, typer.Option("--seed", help="Seed of everything random.")] = 0,
    device: Device = "auto",
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Draw ordinary and rare slices with the model in the box and show them; --phantoms 60 walks the whole way."""
    with speaking(json, debug) as speech:
        from mri_minority_pipelines.request import choose_device
        from mri_minority_pipelines.stages import demo

        result = demo.run(out, count, seed, choose_device(device), speech.tell, phantoms)
        speech.result(result, [*result["sentences"]])
