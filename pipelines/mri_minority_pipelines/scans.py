"""Scans in files, brought onto a model's grid as `prepare` brought those that the model learnt from."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mri_minority.core.errors import DataError
from mri_minority.slices.select import MAX_RESAMPLED
from mri_minority.transforms.intensity import head_mask, in_model_units, scale_of
from mri_minority.transforms.spatial import AXES, resampled, target_grid
from mri_minority.volumes.atomic import shown
from mri_minority.volumes.geometry import plane_affine
from mri_minority.volumes.nifti import read_volume
from mri_minority_pipelines.label_maps import check_pixels, cut_as, fitted, middle_of


@dataclass(frozen=True)
class Place:
    """What a model's slices are measured by.

    Args:
        scale: Intensity that counts as one, in source units.
        centre: Pixel of the scan's planes that comes to the middle of the model's field.
    """

    scale: float
    centre: tuple[int, int]


@dataclass(frozen=True)
class Scan:
    """The planes of one file, with the model's pixels, in its own field of view.

    Args:
        planes: float32 (n, H, W), in source units.
        affines: float64 (n, 4, 4), pixel (i, j, 0) -> RAS+ millimetres.
        head: bool (n, H, W), what is bright enough to be head.
        is_cut: Whether the file was cut as the model's slices are; then its middle is theirs.
        sha256: Of the file.
    """

    planes: npt.NDArray[np.float32]
    affines: npt.NDArray[np.float64]
    head: npt.NDArray[np.bool_]
    is_cut: bool
    sha256: str

    def by_head(self, size: tuple[int, int]) -> Place:
        """Scale and centre of the head, as training has them with `foreground: head`.

        Raises:
            DataError: The head is not brighter than zero.
        """
        centre = (
            (size[0] // 2, size[1] // 2) if self.is_cut else middle_of(np.asarray(self.head.any(axis=0), dtype=bool))
        )
        return Place(scale_of(self.planes, self.head), centre)

    def heights(self) -> npt.NDArray[np.float64]:
        """Normalised height of every plane within the head (n,), as training has it with `foreground: head`.

        Below 0 and above 1 outside the head.
        """
        filled = np.flatnonzero(self.head.any(axis=(1, 2)))
        low, high = int(filled[0]), int(filled[-1]) + 1
        return np.asarray((np.arange(len(self.planes)) + 0.5 - low) / (high - low))

    def by_labels(self, index: npt.NDArray[np.int64], label: npt.NDArray[np.uint8], place: Place) -> Place:
        """Scale and centre of a labelled area, as training has them with `foreground: labels`.

        Args:
            index: Planes that were labelled (m,).
            label: uint8 (m, H, W) of these, of the model's size, cut at `place`.
            place: Where they were cut.

        Returns:
            `place` itself where nothing is labelled.

        Raises:
            DataError: The labelled area is not brighter than zero.
        """
        size, inside = (label.shape[1], label.shape[2]), label > 0
        if not inside.any():
            return place
        cut = np.stack([fitted(self.planes[i], self.affines[i], size, place.centre, 0.0)[0] for i in index])
        row, column = middle_of(np.asarray(inside.any(axis=0), dtype=bool))
        centre = (place.centre[0] - size[0] // 2 + row, place.centre[1] - size[1] // 2 + column)
        return Place(scale_of(cut, inside), centre)

    def cut(
        self, index: int, place: Place, size: tuple[int, int], ceiling: float
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float64]]:
        """A plane (H, W) of a model's size in its units [-1, 1], and its affine."""
        unit = in_model_units(self.planes[index], place.scale, ceiling)
        return fitted(unit, self.affines[index], size, place.centre, -1.0)


def read_scan(path: Path, settings: dict[str, Any]) -> Scan:
    """Read a NIfTI file and bring it to a model's voxel spacing.

    A file of one slice keeps its thickness: there is nothing to interpolate.

    Args:
        path: The file.
        settings: The model's way of preparing (`card["recipe"]["prepare"]`).

    Raises:
        DataError: The file is unusable, its pixels are too large, it would fill the memory, or it shows no head.
    """
    volume, name, axis = read_volume(path, None, path.name, path.name), shown(path.name), AXES[settings["plane"]]
    check_pixels(volume, settings["plane"], settings["spacing_mm"], name)
    is_cut = cut_as(volume, settings)
    x, y, z = (-1.0 if n == 1 else float(mm) for n, mm in zip(volume.image.shape, settings["spacing_mm"], strict=True))
    shape, affine = target_grid(volume.image.shape, volume.affine, (x, y, z))
    if np.prod(shape, dtype=float) > MAX_RESAMPLED:
        raise DataError(
            f"expected at most {MAX_RESAMPLED} voxels after resampling {name}, found {' x '.join(map(str, shape))}; "
            "check the header's units"
        )
    image = resampled(volume.image, volume.affine, shape, affine, linear=True)
    affines = np.stack([plane_affine(affine, axis, i) for i in range(shape[axis])])
    head = np.moveaxis(head_mask(image), axis, 0)
    return Scan(np.moveaxis(image, axis, 0), affines, head, is_cut, volume.sha256)
