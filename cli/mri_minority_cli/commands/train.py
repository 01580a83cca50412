"""mri-minority train: denoiser, minority scores, levels and classifier."""

from pathlib import Path
from typing import Annotated

import typer

from mri_minority_cli.options import Debug, Device, Distance, DryRun, Holdout, Json, LabelMap, Rarity, RecipeName, Seed
from mri_minority_cli.speech import dry_run, speaking

EXAMPLE = "Example: mri-minority train ~/brains --recipe brain_t1_2mm --out brains.model --max-minutes 60"


def command(
    source: Annotated[list[Path], typer.Argument(help="A slice store, or folders of volumes (prepared beside --out).")],
    out: Annotated[Path, typer.Option("--out", help="The model folder to make, complete or go on with.")],
    recipe: RecipeName = "brain_t1_2mm",
    max_minutes: Annotated[
        float | None,
        typer.Option("--max-minutes", min=0.01, help="Time for the denoiser; it learns to fit.", show_default=False),
    ] = None,
    classifier_minutes: Annotated[
        float | None,
        typer.Option("--classifier-minutes", min=0.01, help="Time for the classifier.", show_default=False),
    ] = None,
    start_from: Annotated[
        Path | None,
        typer.Option(
            "--start-from",
            help="Begin with the weights of another model, for example `embedded`: for few slices or little time.",
            show_default=False,
        ),
    ] = None,
    stage: Annotated[str, typer.Option("--stage", help="all, denoiser, score, classifier or audit.")] = "all",
    rarity: Rarity = "minority",
    distance: Distance = None,
    labels: LabelMap = None,
    holdout: Holdout = None,
    seed: Seed = None,
    device: Device = "auto",
    json: Json = False,
    dry: DryRun = False,
    debug: Debug = False,
) -> None:
    """Train on your volumes. Interrupt it whenever you like: the same command goes on.

    Run it again with another --rarity to add a classifier to the same model.
    """
    with speaking(json, debug) as speech:
        from mri_minority_pipelines.request import choose_device, choose_part, open_or_prepare, resolve
        from mri_minority_pipelines.stages import train

        part = choose_part(stage)
        resolved = resolve(
            recipe,
            seed=seed,
            labels=labels,
            holdout=holdout,
            minutes=max_minutes,
            classifier_minutes=classifier_minutes,
            distance=distance,
            start=start_from,
        )
        if dry:
            dry_run(resolved.model_dump(mode="json"))
            return
        chosen = choose_device(device)
        store = open_or_prepare(resolved.prepare, source, out, speech.tell)
        card = train.run(resolved, store, out, rarity, part, chosen, speech.tell)
        have = ", ".join(entry["rarity"] for entry in card["classifiers"].values()) or "none yet"
        speech.result(
            {"model": str(out), "store": str(store.folder), "classifiers": card["classifiers"]},
            [
                f"model in {out}, trained on {card['train_subjects']} subjects; classifiers: {have}",
                f"next: mri-minority synthesize --class rare --model {out} --out slices",
            ],
        )
