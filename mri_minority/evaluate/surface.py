"""How far two outlines lie apart: the 95th percentile of surface distances, in millimetres."""

import math

import numpy as np
import numpy.typing as npt
from scipy.ndimage import binary_erosion, distance_transform_edt

Mask = npt.NDArray[np.bool_]


def surface_distance_95(
    found: npt.NDArray[np.uint8], truth: npt.NDArray[np.uint8], value: int, spacing_mm: tuple[float, float]
) -> npt.NDArray[np.float64]:
    """Distance that 95 % of the outline's pixels keep within, slice by slice (N,), the worse of both directions.

    NaN where neither map has the class. Where only one has it there is no distance; such a slice counts as the diagonal
    of the picture, so that a missed structure is never better than a badly drawn one.

    Args:
        found: (N, H, W).
        truth: (N, H, W).
        value: The class.
        spacing_mm: Pixel size along both axes.

    Reference:
        As `monai.metrics.compute_hausdorff_distance(percentile=95)`, in a tenth of the time. The convention for missed
        structures follows the BraTS challenges.
    """
    height, width = found.shape[1:]
    diagonal = math.hypot(height * spacing_mm[0], width * spacing_mm[1])
    result = np.full(len(found), np.nan)
    for number, (a, b) in enumerate(zip(found == value, truth == value, strict=True)):
        if a.any() and b.any():
            result[number] = _distance_95(a, b, spacing_mm)
        elif a.any() or b.any():
            result[number] = diagonal
    return result


def _distance_95(a: Mask, b: Mask, spacing_mm: tuple[float, float]) -> float:
    # Distances between the two are the same in the box that holds both.
    rows, columns = (np.flatnonzero((a | b).any(axis=axis)) for axis in (1, 0))
    box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    edges = [_outline(mask[box]) for mask in (a, b)]
    to = [distance_transform_edt(~edge, sampling=spacing_mm) for edge in edges]
    return float(max(np.percentile(to[1][edges[0]], 95), np.percentile(to[0][edges[1]], 95)))


def _outline(mask: Mask) -> Mask:
    """Pixels of a structure that touch what is outside it, the picture's border included."""
    inner: Mask = np.asarray(binary_erosion(mask), dtype=bool)
    return np.logical_and(mask, np.logical_not(inner))
