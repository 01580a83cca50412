"""The `mri-minority` command. Verbs live in `commands/`, one file each; heavy imports happen inside them."""

import typer

from mri_minority_cli.commands import (
    audit,
    augment,
    compare,
    demo,
    discriminator,
    doctor,
    evaluate,
    export,
    info,
    label,
    prepare,
    recipes,
    score,
    synthesize,
    train,
    verify,
)

app = typer.Typer(
    name="mri-minority",
    help="Rare anatomy on purpose: learn brain MRI slices, find the rare ones, draw more of them with label maps.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

_VERBS = (prepare, train, score, discriminator, synthesize, audit, evaluate, compare, augment, label, export, verify)
for verb in (*_VERBS, info, recipes, doctor, demo):
    app.command(name=verb.__name__.rsplit(".", 1)[-1], epilog=verb.EXAMPLE)(verb.command)


def main() -> None:
    """Run the command line."""
    app()
