"""Options of `synthesize` for slices of which something is given."""

from pathlib import Path
from typing import Annotated

import typer

Labels = Annotated[
    Path | None,
    typer.Option("--labels", help="Folder of label maps (NIfTI): draw an image for each.", show_default=False),
]
Edit = Annotated[
    str | None,
    typer.Option(
        "--edit",
        help="Edit label maps, then draw images: ventricles:grow=1.5..3, ventricles:grow=p95..2*p95, lesion:remove.",
        show_default=False,
    ),
]
Store = Annotated[
    Path | None,
    typer.Option(
        "--store",
        help="With --edit: edit training maps of this store, not drawn ones. With --insert: whose shapes and places "
        "are inserted, instead of those in --into.",
        show_default=False,
    ),
]
Insert = Annotated[
    str | None,
    typer.Option(
        "--insert", help="Insert a class into real slices: lesion, or lesion=30..200 mm2.", show_default=False
    ),
]
Into = Annotated[Path | None, typer.Option("--into", help="With --insert: the slice store.", show_default=False)]
From = Annotated[
    Path | None,
    typer.Option(
        "--from",
        help="Start from real slices of this store, see --strength; with --edit from their deformed images.",
        show_default=False,
    ),
]
Strength = Annotated[
    float | None,
    typer.Option("--strength", help="With --from: how far back into noise, 0 to 1.", show_default=False),
]
AllowDerived = Annotated[
    bool, typer.Option("--allow-derived", help="Make slices that are derived from people all the same.")
]
