"""mri-minority augment: does it help a segmenter?"""

from pathlib import Path
from typing import Annotated

import typer

from mri_minority_cli.options import Debug, Device, DryRun, Json, Seed
from mri_minority_cli.speech import dry_run, speaking

EXAMPLE = (
    "Example: mri-minority augment brains.store --synthetic rare=rare_slices --synthetic ancestral=plain_slices "
    "--out study"
)


def command(
    store: Annotated[Path, typer.Argument(help="A slice store with labels and held-out subjects.")],
    out: Annotated[Path, typer.Option("--out", help="The study's folder; what is finished in it stays.")],
    synthetic: Annotated[
        list[str] | None,
        typer.Option(
            "--synthetic", help="A synthetic set: FOLDER, NAME=FOLDER or NAME@SET=FOLDER.", show_default=False
        ),
    ] = None,
    models: Annotated[
        list[str] | None,
        typer.Option("--model", help="MODEL or SET=MODEL: draws --methods from a set's own model.", show_default=False),
    ] = None,
    methods: Annotated[
        str, typer.Option("--methods", help="What --model draws: methods of synthesize, or `attribute`.")
    ] = "ancestral,minority",
    count: Annotated[int, typer.Option("--count", min=1, help="Slices that --model draws of each.")] = 500,
    sets: Annotated[
        str, typer.Option("--sets", help="Training sets: all, numbers of subjects, ordinary, ordinary:NUMBER.")
    ] = "all",
    ratios: Annotated[str, typer.Option("--ratios", help="Extra slices per real one in a batch.")] = "1",
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="How often each arm is trained.")] = 3,
    steps: Annotated[int, typer.Option("--steps", min=1, help="Gradient steps, the same in every arm.")] = 2000,
    network: Annotated[str, typer.Option("--network", help="unet or dynunet.")] = "unet",
    rarity: Annotated[
        str, typer.Option("--rarity", help="Rare slices: attribute:NAME or file:scores.tsv; the attribute by default.")
    ] = "",
    attribute: Annotated[
        str, typer.Option("--attribute", help="What else slices are grouped by; the last label's share by default.")
    ] = "",
    flip: Annotated[
        bool | None,
        typer.Option(
            "--flip/--no-flip", help="Mirror left and right; off if a label is of one side.", show_default=False
        ),
    ] = None,
    oversample: Annotated[
        bool, typer.Option("--oversampled/--no-oversampled", help="The arm that shows real rare slices more often.")
    ] = True,
    then_real: Annotated[
        bool,
        typer.Option(
            "--then-real", help="Each synthetic arm once more, its second half of steps on real slices alone."
        ),
    ] = False,
    matched: Annotated[
        bool, typer.Option("--matched", help="Other slices replace real ones of their own height only.")
    ] = False,
    prepare: Annotated[
        bool, typer.Option("--prepare", help="Only write the stores of --sets, to train generators on.")
    ] = False,
    seed: Seed = None,
    device: Device = "auto",
    json: Json = False,
    dry: DryRun = False,
    debug: Debug = False,
) -> None:
    """Train a segmenter with and without synthetic slices and test it on held-out real subjects.

    Interrupt it whenever you like: the same command goes on. Arms, ratios, seeds and sets may be added later.
    """
    with speaking(json, debug) as speech:
        from mri_minority.slices.store import SliceStore
        from mri_minority_pipelines.request import choose_device, study
        from mri_minority_pipelines.stages import augment

        first = seed or 0
        config = study(
            sets=words(sets),
            ratios=words(ratios),
            seeds=tuple(range(first, first + seeds)),
            steps=steps,
            network=network,
            rarity=rarity,
            attribute=attribute,
            flip=flip,
            oversample=oversample,
            then_real=then_real,
            matched=matched,
            subset_seed=first,
        )
        if dry:
            dry_run(config.model_dump(mode="json"))
            return
        slices = SliceStore(store)
        if prepare:
            made = augment.prepare(config, slices, out)
            lines = [f"{name}: {s.subjects} subjects in {s.store.folder}" for name, s in made.items()]
            speech.result({name: str(s.store.folder) for name, s in made.items()}, lines)
            return
        draws = augment.draws_of(config, models or [], words(methods), count, first)
        result = augment.run(config, slices, synthetic or [], draws, out, choose_device(device), speech.tell)
        speech.result(result, [*augment.in_words(result), f"look at {out / 'report.html'}"])


def words(text: str) -> tuple[str, ...]:
    """Parts between commas."""
    return tuple(part.strip() for part in text.split(",") if part.strip())
