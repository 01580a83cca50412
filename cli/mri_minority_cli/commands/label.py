"""mri-minority label: label maps for unlabelled slices, for research."""

from pathlib import Path
from typing import Annotated

import typer

from mri_minority_cli.options import Debug, Device, DryRun, Json, Model, Seed
from mri_minority_cli.speech import dry_run, speaking

EXAMPLE = "Example: mri-minority label slices --model brains.model --out slices_labels"


def command(
    source: Annotated[Path, typer.Argument(help="A folder of NIfTI images, or a slice store.")],
    out: Annotated[Path, typer.Option("--out", help="The folder to make.")],
    model: Model = Path("embedded"),
    draws: Annotated[int, typer.Option("--draws", min=1, help="Draws that each pixel's spread is over.")] = 5,
    steps: Annotated[int | None, typer.Option("--steps", min=2, help="Sampling steps.", show_default=False)] = None,
    seed: Seed = None,
    device: Device = "auto",
    json: Json = False,
    dry: DryRun = False,
    debug: Debug = False,
) -> None:
    """Draw label maps for images, with a spread over several draws. Research use only: no reference, no diagnosis."""
    with speaking(json, debug) as speech:
        from mri_minority_pipelines.model_folder import find_model
        from mri_minority_pipelines.request import choose_device, sampling
        from mri_minority_pipelines.stages import label

        folder = find_model(model)
        config = sampling(folder.recipe().sample, steps=steps)
        if dry:
            dry_run({"source": source, "out": out, "draws": draws, **config.model_dump(mode="json")})
            return
        result = label.run(source, folder, out, config, draws, seed or 0, choose_device(device), speech.tell)
        spread = result["mean_spread"]
        sentences = [f"label maps of {result['slices']} slices in {out}: research use only, no reference standard"]
        if spread is not None:
            sentences.append(f"inside them {spread:.1%} of the draws say another class; see spread/")
        if result["refused"]:
            sentences.append(f"{result['refused']} files were refused: {out}.quarantine.tsv says why")
        speech.result(result, sentences)
