"""Options that every verb shares, spelt once."""

from pathlib import Path
from typing import Annotated

import typer

Seed = Annotated[
    int | None, typer.Option("--seed", help="Seed of everything random; the recipe's by default.", show_default=False)
]
Device = Annotated[str, typer.Option("--device", help="auto, cpu or cuda.")]
Model = Annotated[Path, typer.Option("--model", help="A model folder, or `embedded`: the one in the package.")]
ModelArgument = Annotated[
    Path, typer.Argument(metavar="MODEL", help="A model folder, or `embedded`: the one in the package.")
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout, everything else on stderr.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the resolved settings and do nothing.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
RecipeName = Annotated[
    str, typer.Option("--recipe", help="A recipe by name (see `mri-minority recipes`) or your own .yaml file.")
]
LabelMap = Annotated[
    Path | None,
    typer.Option(
        "--labels", help="YAML file of class name -> list of label values, instead of the recipe's.", show_default=False
    ),
]
Holdout = Annotated[
    float | None, typer.Option("--holdout", help="Share of subjects that training never sees.", show_default=False)
]
Rarity = Annotated[str, typer.Option("--rarity", help="What rare means: minority, attribute:NAME or file:scores.tsv.")]
Distance = Annotated[
    str | None,
    typer.Option(
        "--distance",
        help="What the minority score looks at: balanced, image, labels, both, st-lpips, or file:NET.pt (yours).",
        show_default=False,
    ),
]
Against = Annotated[Path, typer.Option("--against", help="The slice store that the model learnt from.")]
JudgeModel = Annotated[
    Path | None,
    typer.Option("--model", help="The model that drew the set, or `embedded`.", show_default=False),
]
