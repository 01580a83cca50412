"""Intensities and labels: composite regions, the head, robust scaling."""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from scipy.ndimage import label as connected
from skimage.filters import threshold_otsu

from mri_minority.core.errors import DataError

_PERCENTILE = 99.5


def class_map(
    source: npt.NDArray[np.integer], regions: Mapping[str, Sequence[int]], may_be_empty: bool
) -> npt.NDArray[np.uint8]:
    """Turn source label values (X, Y, Z) into classes 1, 2, ...; everything else becomes 0.

    Args:
        source: Any whole numbers.
        regions: Class name -> source values, in class order.
        may_be_empty: Whether a map of nothing but zeros is fine (a patient without a lesion).

    Raises:
        DataError: There are no values of the regions.
    """
    classes = np.zeros(source.shape, np.uint8)
    found: set[int] = set()
    for k in range(source.shape[2]):  # plane by plane: a volume of labels may be large
        plane = source[:, :, k]
        found.update(np.unique(plane).tolist())
        for number, values in enumerate(regions.values(), start=1):
            classes[:, :, k][np.isin(plane, list(values))] = number
    known = {value for values in regions.values() for value in values}
    if not found & known and not (may_be_empty and not max(found, default=0) > 0):
        raise DataError(
            f"expected label values of {', '.join(regions)}, found only {sorted(found)[:20]}; "
            "check the recipe's `labels`, or let it find the head itself (`foreground: head`)"
        )
    return classes


def head_mask(image: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
    """Find the head: the largest piece of what is brighter than Otsu's threshold.

    Args:
        image: (X, Y, Z), any unit.

    Raises:
        DataError: All voxels are alike.

    Reference:
        N. Otsu, A threshold selection method from gray-level histograms, IEEE Trans. SMC 9 (1979).
    """
    low, high = float(image.min()), float(image.max())
    if not low < high:
        raise DataError(f"expected a head in the image, all voxels are {low:g}; leave the image out")
    bright = image > threshold_otsu(image.ravel())  # flat: three slices are no colours
    pieces, count = connected(bright, structure=np.ones((3, 3, 3)))
    # Plane by plane: counting all at once would take eight bytes a voxel.
    sizes = sum(np.bincount(plane.ravel(), minlength=count + 1) for plane in pieces)
    return np.asarray(pieces == 1 + int(np.asarray(sizes)[1:].argmax()), dtype=bool)


def scale_of(image: npt.NDArray[np.float32], mask: npt.NDArray[np.bool_]) -> float:
    """The 99.5th percentile of an image inside a mask: what its intensities are measured in.

    Raises:
        DataError: It is not above zero.
    """
    scale = float(np.percentile(image[mask], _PERCENTILE, overwrite_input=True))
    if scale <= 0:
        raise DataError(f"expected positive intensities inside the head, found a 99.5th percentile of {scale}")
    return scale


def in_model_units(image: npt.NDArray[np.float32], scale: float, ceiling: float) -> npt.NDArray[np.float32]:
    """Map intensities to [-1, 1]: zero to -1, `ceiling` times `scale` to +1, clipped."""
    unit = np.asarray(image / np.float32(scale), dtype=np.float32)
    np.clip(unit, 0, ceiling, out=unit)
    unit *= np.float32(2 / ceiling)
    unit -= np.float32(1)
    return unit
