"""Geometry: another voxel spacing, and a box of fixed size about the head. Affines follow."""

from typing import Any

import numpy as np
import numpy.typing as npt
from monai.data.utils import compute_shape_offset, zoom_affine
from scipy.ndimage import map_coordinates

AXES = {"sagittal": 0, "coronal": 1, "axial": 2}
"""Which axis of an RAS+ volume a slicing plane is perpendicular to."""

Affine = npt.NDArray[np.float64]


def target_grid(
    shape: tuple[int, ...], affine: Affine, spacing_mm: tuple[float, float, float]
) -> tuple[tuple[int, int, int], Affine]:
    """Shape and affine (4, 4) of a volume at another spacing, as MONAI's `Spacing` has it.

    The directions stay, but a shear goes: afterwards all axes are perpendicular.

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
    """A volume on another grid, plane by plane, so that memory stays small.

    Args:
        values: (X, Y, Z).
        affine: (4, 4), of the values.
        shape: Of the result.
        target: (4, 4), of the result; see :func:`target_grid`.
        linear: Interpolate linearly; else take the nearest voxel. Outside, the border goes on.

    Returns:
        The type of `values`, of shape `shape`.
    """
    step = np.linalg.inv(affine) @ target
    plane = np.indices((*shape[:2], 1), dtype=np.float64)
    inside = np.einsum("ab,bxyz->axyz", step[:3, :2], plane[:2]) + step[:3, 3, None, None, None]
    result = np.empty(shape, values.dtype)
    for k in range(shape[2]):
        at = inside + k * step[:3, 2, None, None, None]
        # Rounding first: what lies half-way goes to the even voxel, as everywhere else.
        at = at if linear else np.rint(at)
        result[:, :, [k]] = map_coordinates(values, at, values.dtype, order=int(linear), mode="nearest")
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
