"""mri-minority verify: is a synthetic data set still what its manifest says?"""

from pathlib import Path
from typing import Annotated

import typer

from mri_minority_cli.options import Debug, Json
from mri_minority_cli.speech import speaking

EXAMPLE = "Example: mri-minority verify rare_slices"


def command(
    folder: Annotated[Path, typer.Argument(help="A synthetic data set.")],
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Re-hash every file and re-check its format; exit code 4 when something is wrong."""
    with speaking(json, debug) as speech:
        from mri_minority.core.errors import AuditError
        from mri_minority.export.dataset import verify_dataset

        problems = verify_dataset(folder)
        if problems and not json:
            raise AuditError("; ".join(problems))
        speech.result({"folder": str(folder), "problems": problems}, [f"{folder}: all files are as written"])
        if problems:
            raise typer.Exit(AuditError.exit_code)
