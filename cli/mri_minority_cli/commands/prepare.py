"""mri-minority prepare: volumes in, slice store out."""

from os import cpu_count
from pathlib import Path
from typing import Annotated

import typer

from mri_minority_cli.options import Debug, Device, DryRun, Holdout, Json, LabelMap, RecipeName, Seed
from mri_minority_cli.speech import dry_run, speaking

EXAMPLE = "Example: mri-minority prepare ~/brains --recipe brain_t1_2mm --out brains.store"


def command(
    source: Annotated[
        list[Path], typer.Argument(help="Folders or files: flat, images/ + labels/, nnU-Net, Decathlon, BIDS, DICOM.")
    ],
    out: Annotated[Path, typer.Option("--out", help="The slice store to make.")],
    recipe: RecipeName = "brain_t1_2mm",
    labels: LabelMap = None,
    holdout: Holdout = None,
    workers: Annotated[
        int, typer.Option("--workers", min=0, help="Volumes read at the same time; 0 is one per processor, at most 4.")
    ] = 0,
    seed: Seed = None,
    device: Device = "auto",
    json: Json = False,
    dry: DryRun = False,
    debug: Debug = False,
) -> None:
    """Read volumes in any orientation and cut them into a store of slices, held out by subject."""
    with speaking(json, debug) as speech:
        from mri_minority_pipelines.request import resolve
        from mri_minority_pipelines.stages import prepare

        resolved = resolve(recipe, seed=seed, labels=labels, holdout=holdout)
        if dry:
            dry_run(resolved.prepare.model_dump(mode="json"))
            return
        report = prepare.run(resolved.prepare, source, out, speech.tell, workers or min(4, cpu_count() or 1))
        sentences = [f"{report.slices} slices of {report.volumes} volumes in {report.store}"]
        sentences += [f"  {name}: {count} slices" for name, count in report.strata.items()]
        if report.quarantined:
            sentences.append(f"{report.quarantined} files were refused: {report.store / 'quarantine.tsv'} says why")
        speech.result(report.__dict__, sentences)
