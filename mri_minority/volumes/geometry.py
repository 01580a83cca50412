"""Affines: what can be a head, one orientation for all, and planes whose pixels keep their world coordinates."""

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from nibabel.orientations import apply_orientation, inv_ornt_aff, io_orientation

from mri_minority.core.errors import DataError

MAX_VOXELS = 48_000_000
"""Most voxels of all channels of a head together: a header that claims more is refused before anything is allocated.

With it, a head takes less than 1 GiB while it is read and cut (`benchmarks/memory.md`). 512 x 512 x 180 are fewer.
"""

MAX_INTENSITY = 1e12
"""Beyond it a value is no measurement, and its square no float32."""

SPACING_MM = (0.01, 100.0)
EXTENT_MM = 2000.0
"""Spacing and field of view beyond which the units must be wrong; resampled, such a volume would fill the memory."""

Affine: TypeAlias = npt.NDArray[np.float64]


def to_ras(values: npt.NDArray[Any], affine: Affine) -> tuple[npt.NDArray[Any], Affine]:
    """Reorder and flip the axes of a volume (X, Y, Z) so that they are closest to right, anterior, superior.

    Returns:
        The values and their affine (4, 4): every voxel keeps its world coordinate.
    """
    orientation = io_orientation(affine)
    canonical = np.asarray(affine @ inv_ornt_aff(orientation, values.shape), dtype=np.float64)
    return apply_orientation(values, orientation), canonical


def check_affine(affine: Affine, where: str, shape: tuple[int, int, int] | None = None) -> None:
    """Refuse what is no geometry; with a shape, also what cannot be a head in millimetres."""
    finite = affine.shape == (4, 4) and bool(np.isfinite(affine).all()) and float(np.abs(affine).max()) < 1e6
    lengths = np.sqrt((affine[:3, :3] ** 2).sum(axis=0)) if finite else np.zeros(3)
    if lengths.min() == 0 or abs(np.linalg.det(affine[:3, :3] / lengths)) < 1e-4:
        raise DataError(
            f"expected an invertible affine in {where}, found {_shown(affine[:3])}; set the geometry with "
            "the tool that made the file"
        )
    if shape is None:
        return
    extent = float((lengths * shape).max())
    if lengths.min() < SPACING_MM[0] or lengths.max() > SPACING_MM[1] or extent > EXTENT_MM:
        raise DataError(
            f"expected voxels of {SPACING_MM[0]:g} to {SPACING_MM[1]:g} mm and at most {EXTENT_MM:g} mm across in "
            f"{where}, found {' x '.join(f'{n:.3g}' for n in lengths)} mm and {shape} voxels; check the units"
        )


def off_grid_mm(one: Affine, other: Affine, shape: tuple[int, ...]) -> float:
    """How far apart two affines put the voxels of a grid of this shape, at worst, in millimetres."""
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in shape])).reshape(3, -1)
    corners = np.vstack([corners, np.ones((1, corners.shape[1]))])
    return float(np.linalg.norm(((one - other) @ corners)[:3], axis=0).max())


def _shown(rows: npt.NDArray[np.float64]) -> str:
    return "; ".join(" ".join(f"{value:.4g}" for value in row) for row in rows)


def plane_affine(
    volume_affine: npt.NDArray[np.float64], axis: int, index: int, start: tuple[int, int] = (0, 0)
) -> npt.NDArray[np.float64]:
    """Affine of the plane cut perpendicular to one axis of a volume, and cropped.

    Args:
        volume_affine: (4, 4), voxel -> millimetres.
        axis: The axis that is fixed.
        index: Where it is fixed, in voxels.
        start: First pixel kept along each remaining axis; negative where the plane was padded.

    Returns:
        float64 (4, 4): pixel (i, j, 0) of the plane -> the same millimetres as in the volume. Columns 0 and 1 are
        the remaining axes in their order, column 2 is the plane's normal (see :func:`squared`).
    """
    order = [*[a for a in range(3) if a != axis], axis]
    result = np.eye(4)
    result[:3, :3] = volume_affine[:3, :3][:, order]
    result[:3, 3] = volume_affine[:3, 3] + index * volume_affine[:3, axis] + result[:3, :2] @ np.array(start, float)
    return squared(result)


def lift_thickness(affine: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.float64], float]:
    """Make a plane's through-plane spacing at least its largest in-plane spacing.

    Below it, nnU-Net takes the slicing axis for an in-plane one and plans a patch one pixel wide, silently. Pixels
    keep their world coordinates, because they all lie at k = 0.

    Returns:
        The affine (4, 4) and the true thickness in millimetres.
    """
    spacing_mm = np.sqrt((affine[:3, :3] ** 2).sum(axis=0))
    true_mm = float(spacing_mm[2])
    lifted = affine.copy()
    lifted[:3, 2] *= max(1.0, float(spacing_mm[:2].max()) / true_mm)
    return lifted, true_mm


def squared(affine: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Keep of column 2 what is perpendicular to the plane, so that a tilted stack gives slices any tool can read."""
    across = np.cross(affine[:3, 0], affine[:3, 1])
    length = float(np.linalg.norm(across))
    normal = across / length if length > 0 else across
    thickness = float(normal @ affine[:3, 2])
    if not abs(thickness) > 0:  # also when it is NaN
        raise DataError(f"expected an affine of a plane and its normal, found {affine[:3].tolist()}; check its columns")
    result = affine.copy()
    result[:3, 2] = normal * thickness
    return result
