"""What do more minutes of training buy? One model per budget, each as `train --max-minutes` makes it.

    python benchmarks/curve.py --store STORE --work WORK --minutes 5 15 30 60 120 --out curve.png

The learning rate ends with the budget, so a model of 60 minutes is not a stop on the way to one of 120: each budget is
trained for itself. Plain slices of every model are held against slices of held-out subjects (pooled ST-LPIPS features);
the last row holds real training slices against them, which is what other people reach. One thread. Interrupt it
whenever you like: the same command goes on.
"""

import argparse
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch
from rare_yield import CPU, HEIGHTS, features, quiet, share
from sweep import Setting, Sweep, fill, percent

from mri_minority.evaluate.fidelity import kid, precision_recall
from mri_minority.report.figures import contact_sheet
from mri_minority.slices.store import SliceStore
from mri_minority.training.checkpoint import load_tensors
from mri_minority_pipelines.perceptual import shift_tolerant_lpips
from mri_minority_pipelines.request import resolve
from mri_minority_pipelines.stages import train

HEAD = "| minutes | steps | mean share / real | beyond the real P95 | KID x 1000 | precision | recall |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="brain_t1_2mm")
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--minutes", type=float, nargs="+", default=[5, 15, 30, 60, 120])
    parser.add_argument("--also", nargs="*", default=[], help="MINUTES=MODEL: a model that is trained already")
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--page", type=Path, help="the page whose table is replaced")
    parser.add_argument("--out", type=Path, help="a picture of the curve")
    args = parser.parse_args()
    torch.set_num_threads(1)
    store, lpips = SliceStore(args.store), shift_tolerant_lpips()
    held_image, held_label = some(store, "holdout", 2 * args.count)
    other_image, _ = some(store, "train", args.count)
    real = features(lpips, held_image)
    centre, spread = real.mean(axis=0), real.std()

    def against_held_out(image: np.ndarray) -> tuple[float, float, float]:
        seen = (features(lpips, image) - centre) / spread
        of_real = (real - centre) / spread
        return (kid(of_real, seen) * 1000, *precision_recall(of_real, seen))

    lines, curve, rows = [HEAD, "|---|---|---|---|---|---|---|"], [], [("held out", held_image[:8], held_label[:8])]
    there = {float(text.partition("=")[0]): text.partition("=")[2] for text in args.also}
    for minutes in sorted([*args.minutes, *there]):
        model = there.get(minutes) or str(args.work / f"model-{minutes:g}")
        if minutes not in there:
            train.run(resolve(args.recipe, minutes=minutes), store, Path(model), "minority", "denoiser", CPU, quiet)
        sweep = Sweep(model, args.store, args.work / f"drawn-{minutes:g}")
        config = sweep.model.recipe().sample
        drawn, _ = sweep.draw(Setting(config.solver, config.steps, 0.0, method="ancestral"), args.count)
        beyond = percent(sweep.judge.of(drawn)["attribute_rate"], args.count)
        ratio = share_of_real(store, drawn.label, drawn.stratum)
        curve.append((minutes, *against_held_out(drawn.image)))
        lines.append(
            f"| {minutes:g} | {steps_of(sweep.model.path)} | {ratio:.2f} | {beyond} | {figures(curve[-1][1:])} |"
        )
        print(lines[-1], flush=True)
        rows.append((f"{minutes:g} minutes", drawn.image[:8], drawn.label[:8]))
        contact_sheet(args.work / "curve.png", rows)
    lines.append(f"| real, training subjects | | | | {figures(against_held_out(other_image))} |")
    print("\n".join(lines))
    if args.page:
        fill(args.page, "curve", lines)
    if args.out:
        plot(curve, args.out)


def some(store: SliceStore, split: str, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Slices of a split spread over its people, between the heights."""
    inside = [i for i in store.indices(split) if HEIGHTS[0] <= store.rows[i].height <= HEIGHTS[1]]
    return store.read(np.array(inside)[np.linspace(0, len(inside) - 1, min(count, len(inside))).astype(int)])


def share_of_real(store: SliceStore, label: np.ndarray, stratum: np.ndarray) -> float:
    """Mean share of the ventricles over that of training slices of the same strata."""
    ventricles, strata, train = store.label_names.index("ventricles") + 1, store.strata(), store.indices("train")
    real = {t: share(store.read(train[strata[train] == t])[1], ventricles).mean() for t in np.unique(stratum)}
    return float(share(label, ventricles).mean() / np.mean([real[t] for t in stratum]))


def steps_of(model: Path) -> str:
    """Steps that the networks of a model took."""
    files = [model / f"{name}.safetensors" for name in ("denoiser", "fine")]
    return " + ".join(str(load_tensors(file)[1].get("step", "?")) for file in files if file.is_file())


def figures(of: tuple[float, ...]) -> str:
    return f"{of[0]:.1f} | {of[1]:.2f} | {of[2]:.2f}"


def plot(curve: list[tuple[float, ...]], out: Path) -> None:
    figure, axes = plt.subplots(1, 3, figsize=(11, 3.2), layout="constrained")
    minutes = [point[0] for point in curve]
    for n, (axis, title) in enumerate(zip(axes, ("KID x 1000", "precision", "recall"), strict=True), 1):
        axis.plot(minutes, [point[n] for point in curve], marker="o")
        axis.set(xscale="log", xlabel="minutes of training", title=title)
        axis.set_xticks(minutes, [f"{m:g}" for m in minutes])
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    figure.savefig(out, dpi=110)


if __name__ == "__main__":
    main()
