"""Cut a volume into slices with their labels, heights and true affines."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from monai.data.meta_tensor import MetaTensor
from monai.transforms import Compose

from mri_minority.core.errors import DataError
from mri_minority.transforms.spatial import AXES, brain_transforms
from mri_minority.volumes.geometry import plane_affine
from mri_minority.volumes.volume import Volume

MAX_RESAMPLED = 50_000_000
"""Most voxels after resampling: a volume beyond it has wrong units, or a spacing far below its own is asked for."""


@dataclass(frozen=True)
class SliceSettings:
    """How volumes become slices.

    Args:
        spacing_mm: Target voxel spacing along R, A, S; -1 keeps an axis.
        size: In-plane size in voxels, in RAS axis order (axial: R then A).
        plane: "axial", "coronal" or "sagittal".
        heights: Lowest and highest normalised height within the foreground that is kept.
        ceiling: Intensity that maps to +1, in units of the foreground's 99.5th percentile.
        labels: Class name -> source label values, in class order; empty for images without labels.
        foreground: What slices are centred on and heights measured in: "labels" (all labelled voxels) or "head" (found
            by a threshold; label maps may then be empty).
    """

    spacing_mm: tuple[float, float, float]
    size: tuple[int, int]
    plane: str
    heights: tuple[float, float]
    ceiling: float
    labels: Mapping[str, tuple[int, ...]]
    foreground: str = "labels"

    def transforms(self) -> Compose:
        """The MONAI transforms these settings stand for."""
        regions = {name: list(values) for name, values in self.labels.items()}
        return brain_transforms(self.spacing_mm, self.size, self.plane, regions or None, self.ceiling, self.foreground)


@dataclass(frozen=True)
class CutSlices:
    """Slices of one volume.

    Args:
        image: float32 (n, I, H, W) in [-1, 1], one channel per volume.
        label: uint8 (n, H, W), 0 where nothing is labelled.
        height: Normalised height of each slice within the foreground (n,).
        index: Position of each slice along the slicing axis of the resampled volume (n,).
        affine: float64 (n, 4, 4), pixel (i, j, 0) -> RAS+ millimetres.
        scale: Of every channel, the intensity in source units that maps to the ceiling divided by `ceiling`.
    """

    image: npt.NDArray[np.float32]
    label: npt.NDArray[np.uint8]
    height: npt.NDArray[np.float64]
    index: npt.NDArray[np.int64]
    affine: npt.NDArray[np.float64]
    scale: tuple[float, ...]


def cut_slices(volumes: Sequence[Volume], settings: SliceSettings) -> CutSlices:
    """Apply the transforms and cut a head into slices.

    Args:
        volumes: The image channels, all on the grid of the first, whose label map counts.
        settings: How to cut.

    Raises:
        DataError: The volume has no foreground, lacks a needed label, or has no slice in the wanted heights.
    """
    volume = volumes[0]
    if settings.labels and volume.label is None:
        raise DataError(f"expected a label map beside {volume.series}, found none; add one or leave the volume out")
    _check_resampled_size(volume, settings)
    affine = torch.as_tensor(volume.affine)
    data = {"image": MetaTensor(torch.as_tensor(np.stack([one.image for one in volumes])), affine=affine)}
    if settings.labels:
        data["label"] = MetaTensor(torch.as_tensor(np.asarray(volume.label, dtype=np.float32))[None], affine=affine)
    try:
        done = settings.transforms()(data)
    except RuntimeError as error:
        # MONAI wraps what a transform raises; our own errors must reach the quarantine as they are.
        if isinstance(error.__cause__, DataError):
            raise error.__cause__ from error
        raise
    axis = AXES[settings.plane]
    image = np.moveaxis(done["image"].as_tensor().numpy(), axis + 1, 0)
    mask = np.moveaxis(done["mask"].as_tensor().numpy()[0], axis, 0) > 0
    label = np.zeros(mask.shape, np.uint8)
    if settings.labels:
        label = np.moveaxis(done["label"].as_tensor().numpy()[0], axis, 0).round().astype(np.uint8)
    filled = np.flatnonzero(mask.any(axis=(1, 2)))
    low, high = int(filled[0]), int(filled[-1]) + 1
    height = (np.arange(low, high) + 0.5 - low) / (high - low)
    kept = (height >= settings.heights[0]) & (height <= settings.heights[1])
    index = np.arange(low, high)[kept]
    if not len(index):
        raise DataError(f"expected slices at heights {settings.heights}, found none in {volume.series}")
    volume_affine = np.asarray(done["image"].affine, dtype=np.float64)
    planes = np.stack([plane_affine(volume_affine, axis, int(i)) for i in index])
    return CutSlices(
        np.ascontiguousarray(image[index]),
        np.ascontiguousarray(label[index]),
        height[kept],
        index,
        planes,
        done["scale"],
    )


def _check_resampled_size(volume: Volume, settings: SliceSettings) -> None:
    """Refuse a volume that would fill the memory when resampled."""
    wanted = [new if new > 0 else old for new, old in zip(settings.spacing_mm, volume.spacing_mm, strict=True)]
    sides = [max(1.0, n * old / new) for n, old, new in zip(volume.image.shape, volume.spacing_mm, wanted, strict=True)]
    if math.prod(sides) > MAX_RESAMPLED:
        raise DataError(
            f"expected at most {MAX_RESAMPLED} voxels after resampling {volume.series}, {volume.image.shape} voxels of "
            f"{' x '.join(f'{mm:.3g}' for mm in volume.spacing_mm)} mm would become {math.prod(sides):.3g}; check the "
            "header's units and the recipe's `spacing_mm`"
        )
