"""Several images of one head as the channels of one: on the grid of the first, and in the same place."""

import hashlib
from dataclasses import replace

import numpy as np
import numpy.typing as npt
from scipy.ndimage import affine_transform, binary_fill_holes
from skimage.filters import threshold_otsu

from mri_minority.core.errors import DataError
from mri_minority.volumes.geometry import MAX_VOXELS, Affine, off_grid_mm
from mri_minority.volumes.nifti import GRID_TOLERANCE_MM
from mri_minority.volumes.volume import Volume

LEAST_COVER = 0.95
"""Share of the first image's head that every other image must cover."""

LEAST_OVERLAP = 0.85
"""Share of the smaller head that must lie in the larger one. Skull-stripped and whole heads may be mixed; images that
were never registered, or are flipped, fall below it unless they are close by chance."""

_COARSE = 48


def registered(volumes: list[Volume]) -> tuple[Volume, ...]:
    """Bring every image to the grid of the first, by world coordinates (linear interpolation, 0 outside).

    An image that lies there already, to within 1e-3 mm, is left as it is.

    Raises:
        DataError: An image does not cover the head, or shows it elsewhere.
    """
    first = volumes[0]
    voxels = max(len(volumes) * first.image.size, sum(volume.image.size for volume in volumes))
    if voxels > MAX_VOXELS:
        raise DataError(f"expected at most {MAX_VOXELS} voxels in all channels of {first.series}, found {voxels}")
    result = [first]
    for other in volumes[1:]:
        to_other = np.linalg.inv(other.affine) @ first.affine
        if (
            other.image.shape == first.image.shape
            and off_grid_mm(first.affine, other.affine, first.image.shape) <= GRID_TOLERANCE_MM
        ):
            image = other.image
        else:
            _check_cover(first, other, to_other)
            image = affine_transform(
                other.image, to_other[:3, :3], to_other[:3, 3], output_shape=first.image.shape, order=1
            )
        _check_overlap(first, other.series, image)
        result.append(replace(other, image=image, affine=first.affine, label=None))
    return tuple(result)


def joint_sha256(volumes: tuple[Volume, ...]) -> str:
    """Hash of all the files; of a single one its own."""
    if len(volumes) == 1:
        return volumes[0].sha256
    return hashlib.sha256("".join(volume.sha256 for volume in volumes).encode()).hexdigest()


def _check_cover(first: Volume, other: Volume, to_other: Affine) -> None:
    steps = _steps(first.image)
    voxels = np.argwhere(_head(first.image, steps)) * steps
    there = voxels @ to_other[:3, :3].T + to_other[:3, 3]
    inside = np.all((there > -0.5) & (there < np.array(other.image.shape) - 0.5), axis=1)
    covered = float(inside.sum()) / max(1, len(voxels))  # no head, no cover
    if covered < LEAST_COVER:
        raise DataError(
            f"expected images that all cover the head, {other.series} covers {covered:.0%} of that in "
            f"{first.series}; register them, or give an image with a larger field of view"
        )


def _check_overlap(first: Volume, name: str, image: npt.NDArray[np.float32]) -> None:
    steps = _steps(image)
    one, two = _head(first.image, steps), _head(image, steps)
    smaller = min(one.sum(), two.sum())
    overlap = float((one & two).sum() / smaller) if smaller else 0.0
    if overlap < LEAST_OVERLAP:
        raise DataError(
            f"expected registered images, the heads in {first.series} and {name} share {overlap:.0%} of the smaller "
            "one; register them first"
        )


def _steps(image: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
    """Voxels to step over along each axis so that few are left."""
    return np.array([max(1, n // _COARSE) for n in image.shape])


def _head(image: npt.NDArray[np.float32], steps: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """What is brighter than Otsu's threshold, holes filled, on every few voxels."""
    coarse = image[:: steps[0], :: steps[1], :: steps[2]]
    if not coarse.min() < coarse.max():
        return np.zeros(coarse.shape, dtype=bool)
    return np.asarray(binary_fill_holes(coarse > threshold_otsu(coarse.ravel())), dtype=bool)
