"""augment, one run: train a segmenter on one arm with one seed, test it on the held-out subjects."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from mri_minority.evaluate.segmenter import (
    build_segmenter,
    build_strong_segmenter,
    dice,
    segment,
    train_segmenter,
)
from mri_minority.evaluate.surface import surface_distance_95
from mri_minority.slices.batches import SliceBatches
from mri_minority.slices.mixed import Extra, MixedBatches
from mri_minority.slices.store import SliceStore
from mri_minority.training.checkpoint import save_tensors
from mri_minority.transforms.augment import SegmentationAugment, sides_are_alike
from mri_minority_pipelines.config import StudyConfig
from mri_minority_pipelines.study import Arm, TrainingSet, folder_name

_NETWORKS = {"unet": build_segmenter, "dynunet": build_strong_segmenter}
METRICS = ("dice", "hd95_mm", "false_mm2")
"""Overlap and 95th-percentile surface distance where the class is, and the area found where it is not."""


@dataclass(frozen=True)
class Run:
    """One segmenter.

    Args:
        arm: What it learns from beside the real slices.
        ratio: Extra slices per real one; 0 for the arm `real`.
        seed: Of weights, batches and augmentation; the same in every arm.
    """

    arm: Arm
    ratio: float
    seed: int

    def file(self, out: Path) -> Path:
        """Where its results lie."""
        folder = out / "runs" / folder_name(self.arm.of) / folder_name(self.arm.name)
        return folder / f"ratio-{self.ratio:g}-seed-{self.seed}.safetensors"

    def title(self) -> str:
        """For people."""
        return f"{self.arm.of} {self.arm.name} x{self.ratio:g} seed {self.seed}"


def do(
    run: Run,
    of: TrainingSet,
    extra: Extra | None,
    config: StudyConfig,
    fingerprint: dict[str, object],
    file: Path,
    device: torch.device,
    told: Callable[[int, float], None],
) -> None:
    """Train and test; write `dice`, `hd95_mm` and `false_mm2` (N, classes) of the held-out slices, NaN where undefined.

    Args:
        run: Which.
        of: Its training set.
        extra: What its arm adds.
        config: Of the study.
        fingerprint: What the result depends on, noted with it.
        file: Where to write.
        device: Where to compute.
        told: (step, loss) as it goes.
    """
    begun = time.monotonic()
    classes = len(of.store.label_names)
    torch.manual_seed(run.seed)
    net = _NETWORKS[config.network](classes, of.store.channels)
    real = SliceBatches(of.store, of.index, config.batch, run.seed)
    until = None if run.arm.until >= 1 else round(run.arm.until * config.steps)
    batches = MixedBatches(real, extra, run.ratio / (1 + run.ratio), until)
    flip = sides_are_alike(of.store.label_names) if config.flip is None else config.flip
    augment = SegmentationAugment(flip, run.seed)
    for step, loss in train_segmenter(net, batches, config.steps, device, run.seed, augment):
        told(step, loss)
    image, label = of.store.read(of.store.indices("holdout"))
    found = segment(net, image, device)
    tensors = {name: torch.as_tensor(values) for name, values in measures(found, label, of.store).items()}
    notes = {**fingerprint, "loss": loss, "seconds": round(time.monotonic() - begun, 1)}
    file.parent.mkdir(parents=True, exist_ok=True)
    save_tensors(file, tensors, notes)


def measures(
    found: npt.NDArray[np.uint8], truth: npt.NDArray[np.uint8], store: SliceStore
) -> dict[str, npt.NDArray[np.float32]]:
    """Each of :data:`METRICS`, (N, classes).

    The first two are defined where the truth has the class and the third where it has not, so that which slices count
    does not depend on what was found.
    """
    affine = np.array(store.rows[0].affine).reshape(4, 4)
    sides = (float(np.linalg.norm(affine[:3, 0])), float(np.linalg.norm(affine[:3, 1])))
    columns: dict[str, list[npt.NDArray[np.float64]]] = {name: [] for name in METRICS}
    for value in range(1, len(store.label_names) + 1):
        there = (truth == value).any(axis=(1, 2))
        area = (found == value).sum(axis=(1, 2)) * sides[0] * sides[1]
        columns["dice"].append(np.where(there, dice(found, truth, value), np.nan))
        columns["hd95_mm"].append(np.where(there, surface_distance_95(found, truth, value, sides), np.nan))
        columns["false_mm2"].append(np.where(there, np.nan, area))
    return {name: np.stack(parts, axis=1).astype(np.float32) for name, parts in columns.items()}
