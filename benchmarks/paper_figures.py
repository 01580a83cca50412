"""How the pictures of paper.py look."""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from mri_minority.report.figures import tile

Rows = dict[str, tuple[np.ndarray, np.ndarray | None]]
"""Title -> images (n, H, W) and, where they are to be outlined, labels."""


def grid(path: Path, rows: Rows) -> None:
    """Slices in rows, labels outlined, a title at the left of each row."""
    columns = max(len(image) for image, _ in rows.values())
    figure, axes = plt.subplots(
        len(rows), columns, figsize=(1.15 * columns, 1.42 * len(rows)), squeeze=False, layout="constrained"
    )
    figure.get_layout_engine().set(w_pad=0.01, h_pad=0.01, wspace=0, hspace=0.02)
    for line, (title, (image, label)) in zip(axes, rows.items(), strict=True):
        for axis in line:
            axis.set_axis_off()
        for axis, number in zip(line, range(len(image)), strict=False):
            axis.imshow(tile(image[number], None if label is None else label[number], zoom=1))
        line[0].set_title(title, loc="left", fontsize=8)
    figure.savefig(path, dpi=100)
    plt.close(figure)


def boxes(path: Path, values: dict[str, dict[str, np.ndarray]], weight: str) -> None:
    """LOF of the drawn slices, one box per wanted level and one per weight."""
    figure, axes = plt.subplots(1, len(values), figsize=(9, 3.4), sharey=True, layout="constrained")
    labels = {"level": f"wanted level, 0 common to 19 rarest (w = {weight})", "w": "w (wanted level 19)"}
    for axis, (name, points) in zip(axes, values.items(), strict=True):
        axis.boxplot(list(points.values()), tick_labels=list(points), showfliers=False, medianprops={"color": "C1"})
        axis.plot(range(1, len(points) + 1), [v.mean() for v in points.values()], "o-", color="C0", markersize=4)
        axis.set(xlabel=labels[name])
        axis.grid(axis="y", alpha=0.3)
    axes[0].set_ylabel("local outlier factor")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def curves(path: Path, measures: dict[str, dict[str, np.ndarray]]) -> None:
    """Share of slices up to each value, one panel per measure."""
    figure, axes = plt.subplots(1, len(measures), figsize=(11, 3.4), layout="constrained")
    for axis, (name, sets) in zip(axes, measures.items(), strict=True):
        for label, found in sets.items():
            if len(found):
                shown = np.sort(found)
                axis.step(shown, np.arange(1, len(shown) + 1) / len(shown), where="post", label=label)
        axis.set(xlabel=name, ylim=(0, 1))
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("share of slices")
    axes[0].legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=110)
    plt.close(figure)
