"""NIfTI in: checked before anything is allocated, one convention afterwards. NIfTI out: the same bytes every time."""

import gzip
import io
import json
import zlib
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
from nibabel.filebasedimages import ImageFileError
from nibabel.nifti1 import Nifti1Extension, Nifti1Image
from nibabel.orientations import aff2axcodes, apply_orientation, inv_ornt_aff, io_orientation
from nibabel.spatialimages import HeaderDataError

from mri_minority.core.errors import DataError
from mri_minority.volumes.atomic import sha256_of, write_bytes_atomic
from mri_minority.volumes.volume import Volume

MAX_VOXELS = 1024**3
"""A header that claims more is refused before anything is allocated."""

_BROKEN = (ImageFileError, HeaderDataError, OSError, EOFError, zlib.error, ValueError, OverflowError)


def read_volume(image: Path, label: Path | None, subject: str, series: str) -> Volume:
    """Read an image and its label map into the project's convention.

    Args:
        image: .nii or .nii.gz, 3-D (a trailing axis of one is dropped, 2-D becomes one slice), any orientation.
        label: Integer map on the same grid, or None.
        subject: Key of the subject.
        series: Name of the acquisition.

    Raises:
        DataError: Not NIfTI, truncated, RGB, 4-D, an impossible header or affine, over 1 % NaN, or a label map that
            is not integer or lies on another grid.
    """
    array, affine = _read(image)
    bad = ~np.isfinite(array)
    if bad.mean() > 0.01:
        raise DataError(f"expected finite intensities, found {bad.mean():.1%} NaN or infinite in {image.name}")
    array = np.where(bad, 0, array).astype(np.float32)
    label_array: npt.NDArray[np.int32] | None = None
    if label is not None:
        values, label_affine = _read(label)
        _check_same_grid(image, array.shape, affine, label, values.shape, label_affine)
        if not np.isfinite(values).all() or not np.array_equal(values, np.round(values)):
            raise DataError(f"expected whole numbers in the label map, found fractions or NaN in {label.name}")
        label_array = values.astype(np.int32)
    orientation = io_orientation(affine)
    canonical = affine @ inv_ornt_aff(orientation, array.shape)
    array = np.ascontiguousarray(apply_orientation(array, orientation))
    if label_array is not None:
        label_array = np.ascontiguousarray(apply_orientation(label_array, orientation))
    return Volume(array, label_array, canonical, subject, series, sha256_of(image))


def nifti_bytes(
    array: npt.NDArray[Any], affine: npt.NDArray[np.float64], description: str, trace: dict[str, Any] | None
) -> bytes:
    """Encode an array as .nii.gz: float32 images or uint8 labels, sform and qform set, millimetres, no time stamp.

    Args:
        array: (X, Y, Z), float32 or uint8.
        affine: (4, 4), voxel -> RAS+ millimetres.
        description: ASCII, at most 79 characters.
        trace: Stored as a JSON comment extension.
    """
    if array.ndim != 3 or array.dtype not in (np.float32, np.uint8):
        raise ValueError(f"expected a 3-D float32 or uint8 array, got {array.ndim}-D {array.dtype}")
    picture = Nifti1Image(array, affine)
    picture.header.set_xyzt_units("mm")
    picture.header["descrip"] = description.encode("ascii", "replace")[:79]
    picture.set_sform(affine, code=1)
    picture.set_qform(affine, code=1, strip_shears=True)
    if trace is not None:
        text = json.dumps(trace, sort_keys=True, ensure_ascii=True).encode()
        picture.header.extensions.append(Nifti1Extension("comment", text))
    packed = io.BytesIO()
    with gzip.GzipFile(filename="", fileobj=packed, mode="wb", compresslevel=6, mtime=0) as stream:
        stream.write(picture.to_bytes())
    return packed.getvalue()


def write_nifti(
    path: Path,
    array: npt.NDArray[Any],
    affine: npt.NDArray[np.float64],
    description: str,
    trace: dict[str, Any] | None = None,
) -> None:
    """Write :func:`nifti_bytes` atomically."""
    write_bytes_atomic(path, nifti_bytes(array, affine, description, trace))


def axis_codes(affine: npt.NDArray[np.float64]) -> str:
    """Orientation as three letters, for example "RAS" or "PSR"."""
    return "".join(str(code) for code in aff2axcodes(affine))


def _read(path: Path) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Values as float64 (X, Y, Z) and affine (4, 4), after checking the header."""
    try:
        picture = nib.load(path)
    except _BROKEN as error:
        raise DataError(f"expected a NIfTI file, could not read {path.name}: {_first_line(error)}") from error
    if not isinstance(picture, Nifti1Image):
        raise DataError(f"expected a NIfTI file, found {type(picture).__name__} in {path.name}")
    shape = tuple(int(n) for n in picture.shape)
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) == 2:
        shape = (*shape, 1)
    if len(shape) != 3 or min(shape) < 1:
        raise DataError(f"expected one 3-D volume, found shape {picture.shape} in {path.name}; extract a volume first")
    if np.prod(shape, dtype=np.float64) > MAX_VOXELS:
        raise DataError(f"expected at most {MAX_VOXELS} voxels, the header of {path.name} claims {shape}")
    if picture.get_data_dtype().fields is not None or picture.get_data_dtype().kind == "c":
        raise DataError(f"expected one number per voxel, found RGB or complex data in {path.name}")
    affine = np.asarray(picture.affine, dtype=np.float64)
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-6:
        raise DataError(f"expected an invertible affine, found {affine[:3].round(3).tolist()} in {path.name}")
    try:
        values = np.asarray(picture.get_fdata(caching="unchanged", dtype=np.float64))
    except (*_BROKEN, MemoryError) as error:
        raise DataError(f"expected a whole NIfTI file, {path.name} is damaged: {_first_line(error)}") from error
    return values.reshape(shape), affine


def _check_same_grid(
    image: Path,
    image_shape: tuple[int, ...],
    image_affine: npt.NDArray[np.float64],
    label: Path,
    label_shape: tuple[int, ...],
    label_affine: npt.NDArray[np.float64],
) -> None:
    if image_shape != label_shape:
        raise DataError(
            f"expected label and image of one shape, found {label_shape} in {label.name} and {image_shape} in "
            f"{image.name}; resample the label"
        )
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in image_shape])).reshape(3, -1)
    corners = np.vstack([corners, np.ones((1, corners.shape[1]))])
    off_mm = float(np.abs((image_affine - label_affine) @ corners).max())
    if off_mm > 0.01:
        raise DataError(
            f"expected label and image on one grid, {label.name} lies up to {off_mm:.2f} mm off {image.name}; "
            "resample the label"
        )


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
