"""Rarity and fidelity against network calls, solver by solver: where the default solver and steps come from.

    python benchmarks/steps.py --store STORE --work WORK --out docs/images/steps.png

Guidance is on, the target is the rarest level of the ventricles' share; seeds and strata are the same everywhere.
"""

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from sweep import OutOfTime, Setting, Sweep, fill, options, percent

from mri_minority.diffusion.solvers import SOLVERS

REFERENCE = ("ancestral", 250)
CALLS = (20, 25, 15, 10, 50, 100, 250)
ORDER = ("ancestral", "dpmpp_2m_sde", "dpmpp_2m", "euler", "heun")


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--count-long", type=int, default=48, help="slices of each setting with 250 calls")
    parser.add_argument("--rarity", default=Setting.rarity)
    parser.add_argument("--solvers", nargs="*", default=list(ORDER))
    parser.add_argument("--calls", type=int, nargs="*", default=list(CALLS))
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    sweep = Sweep(args.model, args.store, args.work, args.minutes)
    wanted = [(solver, calls) for calls in args.calls for solver in args.solvers]
    if REFERENCE in wanted:
        wanted = [REFERENCE, *(pair for pair in wanted if pair != REFERENCE)]
    found: dict[tuple[str, int], dict[str, Any]] = {}
    try:
        for solver, calls in wanted:
            setting = Setting(solver=solver, steps=steps_for(solver, calls), rarity=args.rarity)
            found[solver, calls] = sweep.figures(setting, args.count if calls < 250 else args.count_long)
    except OutOfTime:
        print(f"<!-- {len(found)} of {len(wanted)} settings are drawn; run the same command again -->")
    lines = [
        "| solver | calls | slices | beyond, label | beyond, image | precision | recall | KID x 1000 | s / slice |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for solver in args.solvers:
        calls_of = [calls for calls in sorted(args.calls, reverse=True) if (solver, calls) in found]
        lines += [row(solver, found[solver, calls]) for calls in calls_of]
    print("\n".join(lines))
    if args.page:
        fill(args.page, "steps", lines)
    if args.out:
        plot(found, args.solvers, args.out)


def steps_for(solver: str, calls: int) -> int:
    """Steps that take at most so many denoiser calls; Heun's last step takes only one of its two."""
    each = SOLVERS[solver].calls_per_step
    return (calls + each - 1) // each


def row(solver: str, of: dict[str, Any]) -> str:
    n = of["slices"]
    both = f"{percent(of['attribute_rate'], n)} | {percent(of['attribute_rate_image'], n)}"
    return (
        f"| {solver} | {of['calls']:.0f} | {n} | {both} | {percent(of['precision'], n)} | {of['recall']:.2f} | "
        f"{of['kid_x1000']:.1f} | {of['seconds']:.2f} |"
    )


def plot(found: dict[tuple[str, int], dict[str, Any]], solvers: list[str], out: Path) -> None:
    figure, axes = plt.subplots(1, 3, figsize=(12, 3.6), layout="constrained")
    columns = {
        "attribute_rate": "beyond the real P95, label",
        "attribute_rate_image": "beyond the real P95, image",
        "precision": "precision",
    }
    for axis, (name, title) in zip(axes, columns.items(), strict=True):
        for solver in solvers:
            points = sorted((of["calls"], of[name]) for (s, _), of in found.items() if s == solver)
            axis.plot(*zip(*points, strict=True), marker="o", markersize=4, label=solver)
        axis.set(xscale="log", xlabel="network calls", title=title, ylim=(0, 1.02))
        axis.set_xticks([10, 15, 25, 50, 100, 250], ["10", "15", "25", "50", "100", "250"])
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    axes[0].legend(frameon=False)
    figure.savefig(out, dpi=110)


if __name__ == "__main__":
    main()
