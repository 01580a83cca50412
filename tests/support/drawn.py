"""A data set as `synthesize` writes it, without a model; and a slice store to match."""

from pathlib import Path

import numpy as np
import numpy.typing as npt

from mri_minority.export.dataset import write_manifest
from mri_minority.export.nifti import export_slice
from mri_minority.slices.select import CutSlices
from mri_minority.slices.store import SliceStore, StoreWriter

NAMES = ("grey_matter", "lesion")
PLANE = np.array([[2.0, 0, 0, -30.5], [0, 2.0, 0, -40.25], [0, 0, 2.0, 17.0], [0, 0, 0, 1.0]])
SIZE = (32, 48)


def pictures(count: int, seed: int = 0, channels: int = 1) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8]]:
    """Eggs with a lesion in each second one: images (n, channels, H, W) in [-1, 1] and labels (n, H, W).

    Every further channel shows brain and lesion in other greys.
    """
    rng = np.random.default_rng(seed)
    x, y = np.meshgrid(np.linspace(-1.3, 1.3, SIZE[0]), np.linspace(-1.3, 1.3, SIZE[1]), indexing="ij")
    brain = x**2 + y**2 < 1
    images, labels = [], []
    for number in range(count):
        cx, cy = rng.uniform(-0.5, 0.5, 2)
        lesion = brain & ((x - cx) ** 2 + (y - cy) ** 2 < 0.05) & (number % 2 == 0)
        label = np.where(lesion, 2, brain)
        greys = [np.select([lesion, brain], [0.8 - 0.3 * c, 0.2 + 0.1 * c], -1) for c in range(channels)]
        images.append([grey + rng.normal(0, 0.02, SIZE) * brain for grey in greys])
        labels.append(label)
    return np.clip(np.stack(images), -1, 1).astype(np.float32), np.stack(labels).astype(np.uint8)


def write_drawn(
    folder: Path,
    count: int = 6,
    affine: npt.NDArray[np.float64] = PLANE,
    names: tuple[str, ...] = NAMES,
    sequences: tuple[str, ...] = ("",),
) -> Path:
    """Write images, labels and manifest."""
    images, labels = pictures(count, channels=len(sequences))
    rows = []
    for item in range(count):
        pixels = ((images[item] + 1) / 2 * 240).astype(np.float32)
        trace = {"item": item, "seed": 3, "method": "minority", "levels": [4]}
        row = export_slice(folder, f"synth_{item:05d}", pixels, labels[item] if names else None, affine, trace)
        rows.append({**row, "item": item, "stratum": 0, "attributes": {"lesion_share": 0.25}})
    header = {
        **{"synthetic": True, "version": "0", "model_sha256": "a" * 64, "classifier_sha256": "b" * 64},
        **{"method": "minority", "rarity": "minority", "wanted": "rare", "levels": [4], "seed": 3},
        **{
            "label_names": list(names),
            "channel_names": list(sequences),
            "white": [240.0] * len(sequences),
            "audit": "not run",
        },
    }
    write_manifest(folder, header, rows)
    return folder


def write_store(folder: Path, subjects: int = 6, names: tuple[str, ...] = NAMES, channels: int = 1) -> SliceStore:
    """Write a store of four slices per subject, the last one held out; subject keys that would give someone away."""
    writer = StoreWriter(folder, SIZE, channels)
    for number in range(subjects):
        images, labels = pictures(4, 100 + number, channels)
        planes = np.stack([PLANE + np.eye(4)[:, [2]] @ np.array([[0, 0, 0, 2.0 * k]]) for k in range(4)])
        scale = tuple(200.0 + number + 50 * c for c in range(channels))
        cut = CutSlices(images, labels, np.linspace(0.2, 0.8, 4), np.arange(4), planes, scale)
        key = f"Doe_Jane_{number}"
        writer.append(cut, key, f"{key}_T1", f"{number:064d}", "holdout" if number == subjects - 1 else "train")
    header = {"settings": {"ceiling": 1.2}, "label_names": list(names), "strata": {"names": ["height 0.10-0.95"]}}
    writer.finish([0] * (4 * subjects), header)
    return SliceStore(folder)
