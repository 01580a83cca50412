"""mri-minority export: a synthetic data set in the layout of another tool."""

from pathlib import Path
from typing import Annotated

import typer

from mri_minority_cli.options import Debug, Device, DryRun, Json, Seed
from mri_minority_cli.speech import dry_run, speaking

EXAMPLE = "Example: mri-minority export rare_slices --to nnunet --real brains.store --out Dataset501_RareBrains"


def command(
    source: Annotated[Path, typer.Argument(help="A data set that `synthesize` wrote; for a bundle, a model.")],
    to: Annotated[str, typer.Option("--to", help="nifti, nnunet, monai, bids or dicom; bundle, for a model.")],
    out: Annotated[Path, typer.Option("--out", help="The folder to make.")],
    real: Annotated[
        Path | None,
        typer.Option("--real", help="A slice store: its slices are added, and only they validate.", show_default=False),
    ] = None,
    sequence: Annotated[
        str | None,
        typer.Option(
            "--sequence", help="Kind of image, if unrecorded: T1, FLAIR, ...; T1,FLAIR of two.", show_default=False
        ),
    ] = None,
    seed: Seed = None,
    device: Device = "auto",
    json: Json = False,
    dry: DryRun = False,
    debug: Debug = False,
) -> None:
    """Write synthetic slices for nnU-Net, MONAI, BIDS or DICOM, never for validation; or a model as a MONAI bundle."""
    with speaking(json, debug) as speech:
        from mri_minority_pipelines.model_folder import find_model
        from mri_minority_pipelines.stages import bundle, export

        if dry:
            said = {"source": source, "to": to, "out": out, "real": real, "sequence": sequence}
            dry_run(said)
            return
        if to == "bundle":
            made = bundle.run(find_model(source), out)
            speech.result(made, [f"a MONAI bundle in {out}", f"{out / 'docs' / 'README.md'} says how to run it"])
            return
        result = export.run(source, to, out, speech.tell, real, sequence)
        sentences = [f"{result['synthetic']} synthetic and {result['real']} real slices in {out}, layout {to}"]
        sentences.append(f"{out / 'README.md'} says how to use them")
        speech.result(result, sentences)
