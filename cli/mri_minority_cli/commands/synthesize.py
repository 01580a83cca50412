"""mri-minority synthesize: slices with their label maps."""

from pathlib import Path
from typing import Annotated

import typer

from mri_minority_cli.options import Debug, Device, DryRun, Json, Model, Rarity, Seed
from mri_minority_cli.speech import dry_run, speaking

EXAMPLE = "Example: mri-minority synthesize --class rare --count 16 --out rare_slices"


def command(
    out: Annotated[Path, typer.Option("--out", help="The data set to make.")],
    model: Model = Path("embedded"),
    wanted: Annotated[
        str,
        typer.Option("--class", help="rare, common, a level, a share such as rarest:5%, or a range such as 50%-60%."),
    ] = "rare",
    count: Annotated[int, typer.Option("--count", min=1, help="How many slices.")] = 16,
    method: Annotated[
        str,
        typer.Option("--method", help="minority, ancestral, self-guided, low-density, boost-and-skip; join with +."),
    ] = "minority",
    rarity: Rarity = "minority",
    guidance: Annotated[
        float | None,
        typer.Option("--guidance", min=0, help="Strength; 0 is off, 1 is Bayes' rule.", show_default=False),
    ] = None,
    steps: Annotated[int | None, typer.Option("--steps", min=2, help="Sampling steps.", show_default=False)] = None,
    solver: Annotated[
        str | None,
        typer.Option("--solver", help="euler, heun, dpmpp_2m, ancestral, dpmpp_2m_sde.", show_default=False),
    ] = None,
    heights: Annotated[
        tuple[float, float],
        typer.Option("--heights", help="Only slices between these heights in the brain (0 low, 1 high)."),
    ] = (0.0, 1.0),
    data_format: Annotated[str, typer.Option("--format", help="nifti.")] = "nifti",
    workers: Annotated[
        int, typer.Option("--workers", min=1, help="Processes that share the work; the slices stay the same.")
    ] = 1,
    audit: Annotated[
        bool, typer.Option("--audit/--no-audit", help="Replace slices that are too close to a training slice.")
    ] = True,
    seed: Seed = None,
    device: Device = "auto",
    json: Json = False,
    dry: DryRun = False,
    debug: Debug = False,
) -> None:
    """Draw slices of the wanted class, with label maps, as NIfTI pairs."""
    with speaking(json, debug) as speech:
        from mri_minority_pipelines.model_folder import find_model
        from mri_minority_pipelines.request import choose_device, choose_format, sampling
        from mri_minority_pipelines.stages import synthesize

        choose_format(data_format)
        folder = find_model(model)
        config = sampling(folder.recipe().sample, guidance=guidance, steps=steps, solver=solver)
        request = synthesize.Request(wanted, rarity, method, count, heights, seed or 0)
        if dry:
            dry_run({**request.__dict__, **config.model_dump(mode="json")})
            return
        result = synthesize.run(request, config, folder, out, choose_device(device), speech.tell, workers, audit)
        share = {name: value for name, value in result["beyond_real_p95"].items() if name.endswith("_share")}
        rare = ", ".join(f"{name} {value:.0%}" for name, value in share.items())
        sentences = [f"{result['slices']} slices with label maps in {out}", f"look at {out / 'contact_sheet.png'}"]
        if "audit" in result:
            words = {k: result["audit"][k] for k in ("rejected_and_replaced", "review")}
            sentences.append(
                "copy audit: {rejected_and_replaced} rejected and replaced, {review} to review".format(**words)
            )
        if rare:
            sentences.insert(1, f"beyond the real 95th percentile (5 % of real slices are): {rare}")
        speech.result(result, sentences)
