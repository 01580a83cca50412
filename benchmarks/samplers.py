"""The settings of the samplers beside minority guidance: what each does to rarity and to fidelity.

    python benchmarks/samplers.py --model MODEL --store STORE --work WORK --solver dpmpp_2m_sde --steps 20

MODEL holds `low-density-minority.safetensors` (made by `mri-minority discriminator`), or low-density is left out.
"""

from dataclasses import replace

from sweep import OutOfTime, Setting, Sweep, fill, options, percent

from mri_minority_pipelines.samplers import low_density_file

SELF = (0.1, 0.2, 0.4, 0.8)
BOOST = ((1.5, 0.05), (2.0, 0.05), (3.0, 0.05), (4.0, 0.05), (2.0, 0.25), (4.0, 0.25))
PUSH = ((3.0, 1.0), (6.0, 1.0), (12.0, 1.0), (12.0, 0.0))


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--solver", required=True)
    parser.add_argument("--steps", type=int, required=True)
    args = parser.parse_args()
    sweep = Sweep(args.model, args.store, args.work, args.minutes)
    plain = Setting(args.solver, args.steps, 0.0, rarity="minority", method="ancestral")
    settings = {"ancestral": plain}
    for weight in SELF:
        settings[f"self-guided, self_guidance {weight:g}"] = replace(
            plain, method="self-guided", others=(("self_guidance", weight),)
        )
    for boost, skip in BOOST:
        settings[f"boost-and-skip, boost {boost:g}, skip {skip:g}"] = replace(
            plain, method="boost-and-skip", others=(("boost", boost), ("skip", skip))
        )
    if (sweep.model.path / low_density_file(sweep.model, "minority")).is_file():
        for push, pull in PUSH:
            settings[f"low-density, push {push:g}, pull {pull:g}"] = replace(
                plain, method="low-density", others=(("push", push), ("pull", pull))
            )
    lines = [
        "| sampler | beyond, label | beyond, image | AvgkNN | LOF | precision | recall | KID x 1000 | calls |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    try:
        for name, setting in settings.items():
            of = sweep.figures(setting, args.count)
            both = " | ".join(percent(of[k], of["slices"]) for k in ("attribute_rate", "attribute_rate_image"))
            inside = percent(of["precision"], of["slices"])
            lines.append(
                f"| {name} | {both} | {of['avg_knn']:.2f} | {of['lof']:.3f} | {inside} | "
                f"{of['recall']:.2f} | {of['kid_x1000']:.1f} | {of['calls']:.0f} |"
            )
    except OutOfTime:
        print("<!-- not all settings are drawn; run the same command again -->")
    print("\n".join(lines))
    if args.page:
        fill(args.page, "samplers", lines)


if __name__ == "__main__":
    main()
