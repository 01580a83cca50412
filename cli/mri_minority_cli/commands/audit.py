"""mri-minority audit: does a data set hold copies of training slices?"""

from pathlib import Path
from typing import Annotated

import typer

from mri_minority_cli.options import Against, Debug, Json, JudgeModel
from mri_minority_cli.speech import speaking

EXAMPLE = "Example: mri-minority audit rare_slices --against brains.store --model brains.model"


def command(
    folder: Annotated[Path, typer.Argument(help="A synthetic data set.")],
    store: Against,
    model: JudgeModel = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Look for copies of training slices, and duplicates; exit code 4 when there is a copy."""
    with speaking(json, debug) as speech:
        from mri_minority.core.errors import AuditError
        from mri_minority.slices.store import SliceStore
        from mri_minority_pipelines.config import AuditConfig
        from mri_minority_pipelines.model_folder import find_model
        from mri_minority_pipelines.stages import audit_set

        asked = find_model(model) if model else None
        config = asked.recipe().audit if asked else AuditConfig()
        result = audit_set.run(folder, SliceStore(store), asked, config, speech.tell)
        copies = ", ".join(result["copies"][:5])
        if copies and not json:
            raise AuditError(
                f"{len(result['copies'])} of {result['slices']} slices are too close to a training slice: {copies}"
            )
        sentences = [
            "{pass} passed, {review} to review, {reject} rejected".format(**result),
            f"duplicates: {len(result['duplicates'])} pairs; farther from their match than people from one another: "
            f"{result['authenticity']:.0%} (held-out real slices: {result['authenticity_held_out']:.0%})",
            "passing is evidence, not anonymity",
        ]
        speech.result(result, sentences)
        if copies:
            raise typer.Exit(AuditError.exit_code)
