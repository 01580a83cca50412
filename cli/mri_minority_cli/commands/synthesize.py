"""mri-minority synthesize: slices with their label maps."""

from pathlib import Path
from typing import Annotated, Any

import typer

from mri_minority_cli.given_options import AllowDerived, Edit, From, Insert, Into, Labels, Store, Strength
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
    count: Annotated[
        int | None,
        typer.Option("--count", min=1, help="How many slices: 16; with --labels, 1 per map.", show_default=False),
    ] = None,
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
    data_format: Annotated[str, typer.Option("--format", help="nifti, nnunet, monai, bids or dicom.")] = "nifti",
    workers: Annotated[
        int,
        typer.Option("--workers", min=1, help="Processes that share the work; slices stay the same, up to rounding."),
    ] = 1,
    labels: Labels = None,
    edit: Edit = None,
    store: Store = None,
    insert: Insert = None,
    into: Into = None,
    start: From = None,
    strength: Strength = None,
    allow_derived: AllowDerived = False,
    audit: Annotated[
        bool, typer.Option("--audit/--no-audit", help="Replace slices that are too close to a training slice.")
    ] = True,
    seed: Seed = None,
    device: Device = "auto",
    json: Json = False,
    dry: DryRun = False,
    debug: Debug = False,
) -> None:
    """Draw slices of the wanted class, with label maps, as NIfTI pairs; or images for label maps given or edited."""
    with speaking(json, debug) as speech:
        from mri_minority.evaluate.attributes import size_attributes
        from mri_minority_pipelines.model_folder import find_model
        from mri_minority_pipelines.request import choose_device, choose_format, sampling
        from mri_minority_pipelines.stages import export, synthesize, synthesize_given

        choose_format(data_format)
        folder = find_model(model)
        config = sampling(folder.recipe().sample, guidance=guidance, steps=steps, solver=solver)
        many = count or (16 if labels is None else 1)
        request = synthesize.Request(wanted, rarity, method, many, heights, seed or 0)
        wish = synthesize_given.wish_of(labels, edit, store, insert, into, start, strength, allow_derived)
        if dry:
            dry_run({**request.__dict__, **(wish.__dict__ if wish else {}), **config.model_dump(mode="json")})
            return
        where = choose_device(device)

        def draw(out: Path) -> dict[str, Any]:
            if wish is not None:
                return synthesize_given.run(wish, request, config, folder, out, where, speech.tell)
            return synthesize.run(request, config, folder, out, where, speech.tell, workers, audit)

        result = export.drawn_as(data_format, out, draw, speech.tell, wish is not None and wish.derived)
        beyond = result["beyond_real_p95"]
        rare = ", ".join(f"{name} {beyond[name]:.0%}" for name in size_attributes(beyond))
        look = out / ("contact_sheet.png" if data_format == "nifti" else "README.md")
        sentences = [f"{result['slices']} slices with label maps in {out}", f"look at {look}"]
        if "audit" in result:
            words = {k: result["audit"][k] for k in ("rejected_and_replaced", "review")}
            sentences.append(
                "copy audit: {rejected_and_replaced} rejected and replaced, {review} to review".format(**words)
            )
        if rare:
            sentences.insert(1, f"beyond the real 95th percentile (5 % of real slices are): {rare}")
        speech.result(result, sentences)
