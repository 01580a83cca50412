"""mri-minority compare: every sampler on one model, same seeds, one table."""

from pathlib import Path
from typing import Annotated

import typer

from mri_minority_cli.options import Debug, Device, Json, ModelArgument, Rarity, Seed
from mri_minority_cli.speech import speaking

EXAMPLE = "Example: mri-minority compare brains.model --against brains.store --count 64 --out comparison"


def command(
    model: ModelArgument,
    out: Annotated[Path, typer.Option("--out", help="A folder for the table, the picture and the slices.")],
    against: Annotated[
        Path | None,
        typer.Option("--against", help="The model's own slices; MODEL.store by default.", show_default=False),
    ] = None,
    methods: Annotated[
        str,
        typer.Option("--methods", help="Samplers, separated by commas; all that the model can by default."),
    ] = "",
    wanted: Annotated[str, typer.Option("--class", help="The wanted class of the guided samplers.")] = "rare",
    rarity: Rarity = "minority",
    attribute: Annotated[
        str, typer.Option("--attribute", help="What is measured on the label maps; the last label's share by default.")
    ] = "",
    count: Annotated[int, typer.Option("--count", min=4, help="Slices of each sampler.")] = 64,
    steps: Annotated[int | None, typer.Option("--steps", min=2, help="Sampling steps.", show_default=False)] = None,
    solver: Annotated[str | None, typer.Option("--solver", help="As in synthesize.", show_default=False)] = None,
    guidance: Annotated[float | None, typer.Option("--guidance", min=0, help="Strength.", show_default=False)] = None,
    heights: Annotated[
        tuple[float, float], typer.Option("--heights", help="Only slices between these heights in the brain.")
    ] = (0.0, 1.0),
    workers: Annotated[int, typer.Option("--workers", min=1, help="Processes that share the work.")] = 1,
    seed: Seed = None,
    device: Device = "auto",
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Draw with every sampler and put rarity, fidelity and cost side by side."""
    with speaking(json, debug) as speech:
        from mri_minority.slices.store import SliceStore
        from mri_minority_pipelines.model_folder import find_model
        from mri_minority_pipelines.request import choose_device, sampling
        from mri_minority_pipelines.stages import compare

        folder = find_model(model)
        config = sampling(folder.recipe().sample, guidance=guidance, steps=steps, solver=solver)
        slices = SliceStore(against or model.with_name(f"{model.name}.store"))
        chosen = tuple(name.strip() for name in methods.split(",") if name.strip())
        asked = compare.Comparison(chosen, wanted, rarity, attribute, count, heights, seed or 0)
        result = compare.run(asked, config, folder, slices, out, choose_device(device), speech.tell, workers)
        speech.result(result, [(out / "compare.md").read_text(encoding="utf-8"), f"look at {result['picture']}"])
