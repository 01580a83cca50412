"""Geometry: another voxel spacing, and a box of fixed size about the head. Affines follow."""

from typing import Any

import numpy as np
import numpy.typing as npt
from monai.data.utils import compute_shape_offset, zoom_affine

AXES = {"sagittal": 0, "coronal": 1, "axial": 2}
"""Which axis of an RAS+ volume a slicing plane is perpendicular to."""

Affine = npt.NDArray[np.float64]


def target_grid(
    shape: tuple[int, ...], affine: Affine, spacing_mm: tuple[float, float, float]
) -> tuple[tuple[int, int, int], Affine]:
    """Shape and affine (4, 4) of a volume at another spacing: the same directions, the same first voxel (as MONAI's).

    Args:
        shape: (X, Y, Z).
        affine: (4, 4), voxel -> millimetres.
        spacing_mm: Along the three axes; -1 keeps one.
    """
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    wanted = [new if new > 0 else old for new, old in zip(spacing_mm, lengths, strict=True)]
    target = np.asarray(zoom_affine(affine, wanted, diagonal=False), dtype=np.float64)
    found, offset = compute_shape_offset(shape, affine, target, scale_extent=False)
    target[:3, 3] = np.asarray(offset)[:3]
    return (int(found[0]), int(found[1]), int(found[2])), target


def resampled(
    values: npt.NDArray[Any], affine: Affine, shape: tuple[int, int, int], target: Affine, linear: bool
) -> npt.NDArray[Any]:
    """A volume on a grid with the same directions: axis by axis, plane by plane, so that memory stays small.

    Args:
        values: (X, Y, Z).
        affine: (4, 4), of the values.
        shape: Of the result.
        target: (4, 4), of the result; from :func:`target_grid`.
        linear: Interpolate linearly; else take the nearest voxel. Outside, the border goes on.

    Returns:
        The type of `values`, of shape `shape`.
    """
    step = np.linalg.inv(affine) @ target
    result = np.empty(shape, values.dtype)
    at = [step[a, a] * np.arange(shape[a]) + step[a, 3] for a in range(3)]
    at = [np.clip(places, 0, n - 1) for places, n in zip(at, values.shape, strict=True)]
    if not linear:
        x, y, z = (np.rint(places).astype(np.intp) for places in at)
        for k, one in enumerate(z):
            result[:, :, k] = values[:, :, one][np.ix_(x, y)]
        return result
    last = [n - 1 for n in values.shape]
    low = [np.floor(places).astype(np.intp) for places in at]
    high = [np.minimum(first + 1, end) for first, end in zip(low, last, strict=True)]
    share = [places - first for places, first in zip(at, low, strict=True)]
    for k in range(shape[2]):
        plane = _mixed(values[:, :, low[2][k]], values[:, :, high[2][k]], share[2][k])
        plane = _mixed(plane[low[0]], plane[high[0]], share[0][:, None])
        result[:, :, k] = _mixed(plane[:, low[1]], plane[:, high[1]], share[1])
    return result


def box_about(mask: npt.NDArray[np.bool_], size: tuple[int, int], axis: int) -> tuple[int, int, int]:
    """First voxel, perhaps outside, of a box of in-plane size (H, W) about the middle of a mask (X, Y, Z).

    Along the slicing axis it starts at 0, for that axis is kept whole.
    """
    start = [0, 0, 0]
    for a, wanted in zip([a for a in range(3) if a != axis], size, strict=True):
        filled = np.flatnonzero(mask.any(axis=tuple(b for b in range(3) if b != a)))
        start[a] = (int(filled[0]) + int(filled[-1]) + 1) // 2 - wanted // 2
    return start[0], start[1], start[2]


def boxed(values: npt.NDArray[Any], start: tuple[int, int, int], size: tuple[int, int], axis: int) -> npt.NDArray[Any]:
    """Cut that box out of a volume (X, Y, Z); 0 where the volume has ended."""
    sides = [*size]
    sides.insert(axis, values.shape[axis])
    result = np.zeros(sides, values.dtype)
    low = [max(0, s) for s in start]
    high = [min(n, s + side) for n, s, side in zip(values.shape, start, sides, strict=True)]
    inside = tuple(slice(a - s, b - s) for a, b, s in zip(low, high, start, strict=True))
    result[inside] = values[tuple(slice(a, b) for a, b in zip(low, high, strict=True))]
    return result


def _mixed(
    one: npt.NDArray[Any], other: npt.NDArray[Any], share: npt.NDArray[np.float64] | np.float64
) -> npt.NDArray[np.float64]:
    first = one.astype(np.float64)
    mixed: npt.NDArray[np.float64] = first + share * (other - first)
    return mixed
