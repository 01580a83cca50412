"""mri-minority audit: does a data set hold copies of training slices?"""

from pathlib import Path
from typing import Annotated

import typer

from mri_minority_cli.options import Against, Debug, Device, Json, JudgeModel
from mri_minority_cli.speech import speaking

EXAMPLE = "Example: mri-minority audit rare_slices --against brains.store --model brains.model"


def command(
    folder: Annotated[Path, typer.Argument(help="A synthetic data set.")],
    store: Against,
    model: JudgeModel = None,
    read_again: Annotated[
        int,
        typer.Option("--read-again", min=0, help="With --model: compare the labels with this many draws from images."),
    ] = 0,
    allow_derived: Annotated[
        bool, typer.Option("--allow-derived", help="Audit slices that are derived from people all the same.")
    ] = False,
    device: Device = "auto",
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Look for copies of training slices, and duplicates.

    Exit code 4 when there is a copy, when the model leaks, or when the slices are derived from people.
    """
    with speaking(json, debug) as speech:
        from mri_minority.core.errors import AuditError, UsageError
        from mri_minority.slices.store import SliceStore
        from mri_minority_pipelines.config import AuditConfig
        from mri_minority_pipelines.model_folder import find_model
        from mri_minority_pipelines.request import choose_device
        from mri_minority_pipelines.stages import audit_set
        from mri_minority_pipelines.stages import read_again as again

        asked = find_model(model) if model else None
        if read_again and asked is None:
            raise UsageError("--read-again draws labels with the model: say which with --model, found none")
        config = asked.recipe().audit if asked else AuditConfig()
        known = SliceStore(store)
        audit_set.check_derived(folder, allow_derived)
        result = audit_set.run(folder, known, asked, config, speech.tell)
        if read_again and asked:
            chosen = choose_device(device)
            result["read_again"] = again.run(folder, known, asked, read_again, 0, chosen, speech.tell)
        copies = ", ".join(result["copies"][:5])
        if copies and not json:
            raise AuditError(
                f"{len(result['copies'])} of {result['slices']} slices are too close to a training slice: {copies}"
            )
        leaks = result["model"] == "reject"
        if leaks and not json:
            raise AuditError(
                "no slice is a copy, but the model has learnt its training slices by heart: its error tells them from "
                "other people's with an AUC of {auc} ({low} to {high}; 0.5 is no leak); train it for less time or on "
                "more subjects".format(**result["membership"])
            )
        sentences = [
            "{pass} passed, {review} to review, {reject} rejected".format(**result),
            f"duplicates: {len(result['duplicates'])} pairs; farther from their match than people from one another: "
            f"{result['authenticity']:.0%} (held-out real slices: {result['authenticity_held_out']:.0%})",
            "passing is evidence, not anonymity",
        ]
        if read_again:
            said = result["read_again"]
            dice = ", ".join(f"{name} {value}" for name, value in said["dice"].items())
            sentences.append(
                f"labels against {read_again} draws of p(label | image): Dice {dice}; {len(said['below_gate'])} slices "
                f"below {said['gate']:g}"
            )
        speech.result(result, sentences)
        if copies or leaks:
            raise typer.Exit(AuditError.exit_code)
