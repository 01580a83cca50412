"""mri-minority score: how rare is each of these slices?"""

from pathlib import Path
from typing import Annotated

import typer

from mri_minority_cli.options import Debug, Device, Distance, Json, ModelArgument
from mri_minority_cli.speech import speaking

EXAMPLE = "Example: mri-minority score brains.model --slices ~/new_brains --out scores.tsv"


def command(
    model: ModelArgument,
    slices: Annotated[
        list[Path],
        typer.Option(
            "--slices", help="A slice store, or a folder of volumes (prepared beside --out); say it for each."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", help="The table to write (TSV).")],
    distance: Distance = None,
    device: Device = "auto",
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Write the minority score of every slice, with its standard error and level, on the model's own scale."""
    with speaking(json, debug) as speech:
        from mri_minority_pipelines.model_folder import find_model
        from mri_minority_pipelines.request import choose_device, open_or_prepare
        from mri_minority_pipelines.stages import score_slices

        folder = find_model(model)
        store = open_or_prepare(score_slices.prepare_settings(folder), slices, out, speech.tell)
        result = score_slices.run(store, folder, out, distance, choose_device(device), speech.tell)
        top = result["top_level_share"]
        sentences = [f"scores of {result['slices']} slices in {out}"]
        if top is not None:
            sentences.append(f"{top:.1%} of them are in the model's rarest level")
        speech.result(result, sentences)
