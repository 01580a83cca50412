"""mri-minority demo: the whole way on a cohort that is nobody."""

from pathlib import Path
from typing import Annotated

import typer

from mri_minority_cli.options import Debug, Device, Json
from mri_minority_cli.speech import speaking

EXAMPLE = "Example: mri-minority demo --out demo_output"


def command(
    out: Annotated[Path, typer.Option("--out", help="Where everything goes.")] = Path("demo_output"),
    subjects: Annotated[int, typer.Option("--subjects", min=20, help="Heads in the phantom cohort.")] = 60,
    count: Annotated[int, typer.Option("--count", min=1, help="Slices of each kind.")] = 16,
    seed: Annotated[int, typer.Option("--seed", help="Seed of everything random.")] = 0,
    device: Device = "auto",
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Make a phantom cohort, train on it for a few minutes, draw ordinary and rare slices, show them."""
    with speaking(json, debug) as speech:
        from mri_minority_pipelines.request import choose_device
        from mri_minority_pipelines.stages import demo

        result = demo.run(out, subjects, count, seed, choose_device(device), speech.tell)
        speech.result(result, [*result["sentences"]])
