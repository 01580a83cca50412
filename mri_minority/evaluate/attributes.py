"""Measurable anatomy: shares, areas, counts and asymmetry of the labels of a slice."""

import re
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt
from skimage.measure import label as connected

from mri_minority.core.errors import UsageError

KINDS = ("share", "area_mm2", "count", "asymmetry")
"""What can be measured of a label: `<label>_<kind>`."""


def attribute_names(label_names: Sequence[str]) -> list[str]:
    """All attributes of a label set."""
    return [f"{name}_{kind}" for name in label_names for kind in KINDS]


def size_attribute(label: str, label_names: Sequence[str]) -> str:
    """How large a class is: its share of the labelled area; its area where it is the only class, whose share is 1."""
    return f"{label}_{'share' if len(label_names) > 1 else 'area_mm2'}"


def size_attributes(names: Iterable[str]) -> list[str]:
    """Those among some attributes that say how large each class is."""
    labels = [name.removesuffix("_share") for name in names if name.endswith("_share")]
    return [size_attribute(label, labels) for label in labels]


def measure(
    name: str, labels: npt.NDArray[np.uint8], label_names: Sequence[str], pixel_area_mm2: float
) -> npt.NDArray[np.float64]:
    """Measure one attribute on label maps.

    Args:
        name: `<label>_share` (of the labelled area), `<label>_area_mm2`, `<label>_count` (connected pieces of 4 or more
            pixels) or `<label>_asymmetry` (|right - left| / all, about the labelled area's mid-line; 0 when absent).
        labels: (N, H, W), first axis right.
        label_names: Names of classes 1, 2, ...
        pixel_area_mm2: Area of a pixel.

    Returns:
        float64 (N,).

    Raises:
        UsageError: There is no such attribute.
    """
    match = re.fullmatch(rf"(.+)_({'|'.join(KINDS)})", name)
    if not match or match[1] not in label_names:
        raise UsageError(f"expected an attribute among {', '.join(attribute_names(label_names))}, found {name!r}")
    inside = labels == list(label_names).index(match[1]) + 1
    area: npt.NDArray[np.float64] = inside.sum(axis=(1, 2)).astype(np.float64)
    if match[2] == "area_mm2":
        area *= pixel_area_mm2
        return area
    if match[2] == "share":
        share: npt.NDArray[np.float64] = np.zeros_like(area)
        labelled = (labels > 0).sum(axis=(1, 2))
        np.divide(area, labelled, out=share, where=labelled > 0)
        return share
    if match[2] == "count":
        return np.array([_pieces(plane) for plane in inside], dtype=np.float64)
    return np.array([_asymmetry(part, whole) for part, whole in zip(inside, labels > 0, strict=True)])


def _pieces(plane: npt.NDArray[np.bool_]) -> int:
    sizes = np.bincount(connected(plane, connectivity=2).ravel())[1:]
    return int((sizes >= 4).sum())


def _asymmetry(part: npt.NDArray[np.bool_], whole: npt.NDArray[np.bool_]) -> float:
    if not part.any():
        return 0.0
    columns = np.flatnonzero(whole.any(axis=1))
    middle = (columns[0] + columns[-1]) / 2
    position = np.arange(part.shape[0])
    per_row = part.sum(axis=1)
    right, left = per_row[position > middle].sum(), per_row[position < middle].sum()
    return float(abs(int(right) - int(left)) / max(1, int(right) + int(left)))
