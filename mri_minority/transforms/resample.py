"""Another voxel size for a volume or a label map, in its own orientation; what lies where in the world stays."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
from scipy.ndimage import affine_transform, gaussian_filter

from mri_minority.volumes.volume import Volume

SAME = 0.02
"""Share by which a spacing may differ and still count as the same."""


def at_spacing(volume: Volume, spacing_mm: Sequence[float]) -> Volume:
    """A volume at another spacing, its outer edge where it was.

    Images are interpolated linearly; of a label map every class is, and the largest wins. Where voxels get larger,
    both are smoothed first, so that thin structures do not drop out between the new voxels.

    Args:
        volume: In any orientation.
        spacing_mm: Wanted distance of voxels along each axis (3,); 0 or less keeps an axis. So does an axis of one
            voxel: there is nothing to interpolate.

    Returns:
        The same object where no axis changes.
    """
    factor = np.ones(3)
    for axis, (found, wanted) in enumerate(zip(volume.spacing_mm, spacing_mm, strict=True)):
        if wanted > 0 and volume.image.shape[axis] > 1 and abs(found / wanted - 1) > SAME:
            factor[axis] = wanted / found
    if (factor == 1).all():
        return volume
    affine = volume.affine.copy()
    affine[:3, :3] = affine[:3, :3] * factor
    affine[:3, 3] += volume.affine[:3, :3] @ ((factor - 1) / 2)
    label = None
    if volume.label is not None:
        values = np.unique(volume.label)
        votes = [_linear((volume.label == value).astype(np.float32), factor) for value in values]
        label = values[np.argmax(votes, axis=0)].astype(volume.label.dtype)
    return replace(volume, image=_linear(volume.image, factor), label=label, affine=affine)


def _linear(values: npt.NDArray[np.float32], factor: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    """Values at (index + 1/2) factor - 1/2 of every new index."""
    size = tuple(max(1, round(n / f)) for n, f in zip(values.shape, factor, strict=True))
    smooth = gaussian_filter(values, np.clip((factor - 1) / 2, 0, None), mode="nearest")
    return np.asarray(
        affine_transform(smooth, factor, (factor - 1) / 2, size, order=1, mode="nearest"), dtype=np.float32
    )
