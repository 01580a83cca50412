"""Cut a volume into slices with their labels, heights and true affines."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mri_minority.core.errors import DataError
from mri_minority.transforms.intensity import class_map, head_mask, in_model_units, scale_of
from mri_minority.transforms.spatial import AXES, box_about, boxed, resampled, target_grid
from mri_minority.volumes.geometry import plane_affine
from mri_minority.volumes.volume import Volume

MAX_RESAMPLED = 20_000_000
"""Most voxels of all channels together after resampling: beyond it units are wrong, or the spacing is tiny."""


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
    """Bring a head to the wanted spacing and intensities, and cut it into slices about its middle.

    Args:
        volumes: The image channels, all on the grid of the first, whose label map counts.
        settings: How to cut.

    Raises:
        DataError: The volume has no foreground, lacks a needed label, or has no slice in the wanted heights.
    """
    volume = volumes[0]
    if settings.labels and volume.label is None:
        raise DataError(f"expected a label map beside {volume.series}, found none; add one or leave the volume out")
    _check_resampled_size(volumes, settings)
    axis, may_be_empty = AXES[settings.plane], settings.foreground == "head"
    shape, affine = target_grid(volume.image.shape, volume.affine, settings.spacing_mm)
    images = [resampled(one.image, volume.affine, shape, affine, linear=True) for one in volumes]
    label = np.zeros(shape, np.uint8)
    if settings.labels:
        source = resampled(np.asarray(volume.label), volume.affine, shape, affine, linear=False)
        label = class_map(source, settings.labels, may_be_empty)
        del source  # an intermediate of four bytes a voxel
    mask = label > 0 if settings.labels and not may_be_empty else head_mask(images[0])
    filled = np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis)))
    low, high = int(filled[0]), int(filled[-1]) + 1
    height = (np.arange(low, high) + 0.5 - low) / (high - low)
    kept = (height >= settings.heights[0]) & (height <= settings.heights[1])
    index = np.arange(low, high)[kept]
    if not len(index):
        raise DataError(f"expected slices at heights {settings.heights}, found none in {volume.series}")
    scale = tuple(scale_of(image, mask) for image in images)
    start = box_about(mask, settings.size, axis)
    span = tuple(slice(int(index[0]), int(index[-1]) + 1) if a == axis else slice(None) for a in range(3))

    def planes_of(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        return np.moveaxis(boxed(values[span], start, settings.size, axis), axis, 0)

    planes = np.empty((len(index), len(images), *settings.size), np.float32)
    for channel, one in enumerate(scale):
        planes[:, channel] = in_model_units(planes_of(images.pop(0)), one, settings.ceiling)
    affine[:3, 3] += affine[:3, :3] @ np.array(start, dtype=float)
    affines = np.stack([plane_affine(affine, axis, int(i)) for i in index])
    return CutSlices(planes, np.ascontiguousarray(planes_of(label)), height[kept], index, affines, scale)


def _check_resampled_size(volumes: Sequence[Volume], settings: SliceSettings) -> None:
    """Refuse a head that would fill the memory when resampled."""
    volume = volumes[0]
    wanted = [new if new > 0 else old for new, old in zip(settings.spacing_mm, volume.spacing_mm, strict=True)]
    sides = [max(1.0, n * old / new) for n, old, new in zip(volume.image.shape, volume.spacing_mm, wanted, strict=True)]
    if len(volumes) * math.prod(sides) > MAX_RESAMPLED:
        raise DataError(
            f"expected at most {MAX_RESAMPLED} voxels after resampling {volume.series}, {len(volumes)} x "
            f"{volume.image.shape} voxels of {' x '.join(f'{mm:.3g}' for mm in volume.spacing_mm)} mm would become "
            f"{len(volumes) * math.prod(sides):.3g}; check the header's units and the recipe's `spacing_mm`"
        )
