"""How the pictures of paper.py look."""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from PIL import Image, ImageDraw

from mri_minority.report.figures import tile

Rows = dict[str, tuple[np.ndarray, np.ndarray | None]]
"""Title -> images (n, I, H, W) and, where they are to be outlined, labels."""


def grid(path: Path, rows: Rows, zoom: int = 1) -> None:
    """Slices in rows, a title above each row, labels outlined where given; in 64 colours, to be small."""
    bands = []
    columns = max(len(image) for image, _ in rows.values())
    for title, (image, label) in rows.items():
        tiles = [tile(plane, None if label is None else label[n], zoom) for n, plane in enumerate(image)]
        height, width = tiles[0].shape[:2]
        band = Image.new("RGB", (columns * (width + 2), height + 18), "white")
        ImageDraw.Draw(band).text((2, 3), title, fill=(30, 30, 30))
        for number, picture in enumerate(tiles):
            band.paste(Image.fromarray(picture), (number * (width + 2), 16))
        bands.append(np.asarray(band))
    Image.fromarray(np.concatenate(bands)).quantize(64, dither=Image.Dither.NONE).save(path, optimize=True)


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
    """Share of slices up to each value, one panel per measure, as wide as all sets but the GAN reach."""
    figure, axes = plt.subplots(1, len(measures), figsize=(11, 3.4), layout="constrained")
    for axis, (name, sets) in zip(axes, measures.items(), strict=True):
        for colour, (label, found) in enumerate(sets.items()):
            if len(found):
                shown = np.sort(found)
                height = np.arange(1, len(shown) + 1) / len(shown)
                axis.step(shown, height, where="post", label=label, color=f"C{colour}")
        inside = np.concatenate([found for label, found in sets.items() if label != "GAN"])
        axis.set(xlabel=name, ylim=(0, 1), xlim=(inside.min() * 0.98, inside.max() * 1.05))
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("share of slices")
    axes[0].legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=110)
    plt.close(figure)
