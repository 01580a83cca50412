"""mri-minority evaluate: quality, rarity, copies and agreement of a data set, as a page to read."""

from pathlib import Path
from typing import Annotated

import typer

from mri_minority_cli.options import Against, Debug, Device, Json, JudgeModel, Seed
from mri_minority_cli.speech import speaking

EXAMPLE = "Example: mri-minority evaluate rare_slices --against brains.store --model brains.model --out report"


def command(
    folder: Annotated[Path, typer.Argument(help="A synthetic data set.")],
    store: Against,
    out: Annotated[Path, typer.Option("--out", help="A folder for metrics.json and report.html.")],
    model: JudgeModel = None,
    viewer: Annotated[
        bool, typer.Option("--viewer/--no-viewer", help="Put a slice viewer into the report, 1.1 MB of it.")
    ] = True,
    unguided: Annotated[
        Path | None,
        typer.Option("--unguided", help="A set drawn with --method ancestral, for the histograms.", show_default=False),
    ] = None,
    seed: Seed = None,
    device: Device = "auto",
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Measure a data set against real slices and write a report that opens offline."""
    with speaking(json, debug) as speech:
        from mri_minority.slices.store import SliceStore
        from mri_minority_pipelines.model_folder import find_model
        from mri_minority_pipelines.request import choose_device
        from mri_minority_pipelines.stages import evaluate

        asked = find_model(model) if model else None
        chosen = choose_device(device)
        result = evaluate.run(folder, SliceStore(store), asked, out, seed or 0, chosen, speech.tell, viewer, unguided)
        audit = result["audit"]
        speech.result(
            result,
            [
                "copies: {pass} passed, {review} to review, {reject} rejected".format(**audit),
                f"look at {out / 'report.html'}",
            ],
        )
