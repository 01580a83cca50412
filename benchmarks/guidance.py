"""Attribute rate against precision as guidance, wanted class and window of noise levels vary.

python benchmarks/guidance.py --store STORE --work WORK --solver dpmpp_2m_sde --steps 20 --out docs/images/guidance.png
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from sweep import OutOfTime, Setting, Sweep, fill, options, percent

WEIGHTS = (1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 20.0)
CLASSES = ("common", "50%-60%", "75%-85%", "rarest:20%", "rarest:10%", "rare")
WINDOWS = {
    "above 5": (5.0, 1e9),
    "0.5 to 5": (0.5, 5.0),
    "below 0.5": (0.0, 0.5),
    "above 0.5": (0.5, 1e9),
    "below 5": (0.0, 5.0),
}


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--solver", required=True)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--guidance", type=float, default=6.0, help="w while class and window vary")
    parser.add_argument("--rarity", default=Setting.rarity)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    sweep = Sweep(args.model, args.store, args.work, args.minutes)
    base = Setting(args.solver, args.steps, args.guidance, rarity=args.rarity)
    plain = replace(base, method="ancestral", guidance=0.0)
    series = {
        "w": {"0": plain, **{f"{w:g}": replace(base, guidance=w) for w in WEIGHTS}},
        f"class at w = {args.guidance:g}": {name: replace(base, wanted=name) for name in CLASSES},
        f"noise levels at w = {args.guidance:g}": {
            "all": base,
            **{name: replace(base, window=window) for name, window in WINDOWS.items()},
        },
    }
    found: dict[str, dict[str, dict[str, Any]]] = {name: {} for name in series}
    try:
        for name, settings in series.items():
            for label, setting in settings.items():
                found[name][label] = sweep.figures(setting, args.count)
    except OutOfTime:
        print("<!-- not all settings are drawn; run the same command again -->")
    lines = [
        "| what varies | value | beyond, label | beyond, image | precision | recall | KID x 1000 | AvgkNN |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, points in found.items():
        for label, of in points.items():
            both = " | ".join(
                percent(of[k], of["slices"]) for k in ("attribute_rate", "attribute_rate_image", "precision")
            )
            lines.append(
                f"| {name} | {label} | {both} | {of['recall']:.2f} | {of['kid_x1000']:.1f} | {of['avg_knn']:.2f} |"
            )
    print("\n".join(lines))
    if args.page:
        fill(args.page, "guidance", lines)
    if args.out:
        plot(found, args.out)


def plot(found: dict[str, dict[str, dict[str, Any]]], out: Path) -> None:
    figure, axes = plt.subplots(
        1, len(found), figsize=(4 * len(found), 3.8), squeeze=False, layout="constrained", sharex=True, sharey=True
    )
    for axis, (name, points) in zip(axes[0], found.items(), strict=True):
        rates, precisions = ([of[k] for of in points.values()] for k in ("attribute_rate", "precision"))
        axis.plot(rates, precisions, marker="o", markersize=5, linewidth=0.8 if name == "w" else 0)
        for number, (label, of) in enumerate(points.items()):
            place = (of["attribute_rate"], of["precision"])
            axis.annotate(label, place, xytext=(4, 5 - 15 * (number % 2)), textcoords="offset points", fontsize=8)
        axis.set(title=name, xlabel="beyond the real P95, label", xlim=(-0.03, 1.03), ylim=(0, 1.05))
        axis.grid(alpha=0.3)
    axes[0, 0].set_ylabel("precision")
    figure.savefig(out, dpi=110)


if __name__ == "__main__":
    main()
