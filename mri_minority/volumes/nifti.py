"""NIfTI in: checked before anything is allocated, one convention afterwards. NIfTI out: the same bytes every time."""

import gzip
import hashlib
import io
import json
import logging
import math
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from nibabel.nifti1 import Nifti1Extension, Nifti1Header, Nifti1Image
from nibabel.nifti2 import Nifti2Header
from nibabel.orientations import aff2axcodes
from nibabel.spatialimages import HeaderDataError
from nibabel.volumeutils import array_from_file

from mri_minority.core.errors import DataError
from mri_minority.volumes.atomic import sha256_of, shown, write_bytes_atomic
from mri_minority.volumes.geometry import MAX_INTENSITY, MAX_VOXELS, Affine, check_affine, off_grid_mm, to_ras
from mri_minority.volumes.volume import Volume

MAX_OTHER_BYTES = 64 * 1024**2
"""Most that may lie before the voxels (header extensions) or after them."""

GRID_TOLERANCE_MM = 1e-3
MAX_NOT_FINITE = 0.01
MAX_DESCRIPTION = 79

_DEFLATE_RATIO = 1032
"""No deflate stream grows by more than this, so a small file cannot hold what its header claims."""

_IMAGE_RATIO = 100
_SMALL_BYTES = 32 * 1024**2
"""A large file that grows by more than this is no picture of a head: it holds hardly anything but one value."""

_BROKEN = (HeaderDataError, OSError, EOFError, zlib.error, ValueError, OverflowError, MemoryError)
_QUIET = logging.Logger("nifti header", level=logging.CRITICAL + 1)


def read_volume(image: Path, label: Path | None, subject: str, series: str, channel: int | None = None) -> Volume:
    """Read an image and its label map into the project's convention.

    Args:
        image: .nii or .nii.gz, 3-D (trailing axes of one are dropped, 2-D becomes one slice), any orientation.
        label: Integer map on the same grid (its axes may be stored in another order), or None.
        subject: Key of the subject.
        series: Name of the acquisition.
        channel: Which volume of a 4-D image, from 0; None refuses 4-D. A 3-D image is read whatever this says.

    Returns:
        The volume: axes closest to RAS+, affine in millimetres, intensities with slope and intercept applied.
        Values that are not finite (or beyond any scanner) are 0, when there are few.

    Raises:
        DataError: Not NIfTI, truncated or damaged, RGB or complex, 4-D, a header that cannot be true, an affine that
            is no geometry, 1 % or more NaN or infinite, or a label map that is not of whole numbers or lies on
            another grid.
    """
    array, affine, volumes = _read(image, np.dtype(np.float32), channel)
    share = _zero_where_not_finite(array)
    if share >= MAX_NOT_FINITE:
        raise DataError(
            f"expected finite intensities in {shown(image.name)}, found {share:.1%} NaN or infinite; convert the "
            "image again, or leave it out"
        )
    label_array: npt.NDArray[np.int32] | None = None
    if label is not None:
        label_array, label_affine, _ = _read(label, np.dtype(np.int32), None, array.shape)
        _check_same_grid(image, array.shape, affine, label, label_array.shape, label_affine)
    sha256 = sha256_of(image)
    if volumes > 1:  # two volumes of one file are two images
        sha256 = hashlib.sha256(f"{sha256}/{channel}".encode()).hexdigest()
    return Volume(array, label_array, affine, subject, series, sha256)


def read_labels(path: Path) -> Volume:
    """Read a label map that comes without its image; the volume's image is the map again.

    Raises:
        DataError: As :func:`read_volume`, of its label map.
    """
    array, affine, _ = _read(path, np.dtype(np.int32), None)
    return Volume(array.astype(np.float32), array, affine, path.name, path.name, sha256_of(path))


def nifti_bytes(array: npt.NDArray[Any], affine: Affine, description: str, trace: dict[str, Any] | None) -> bytes:
    """Encode an array as .nii.gz: float32 images or uint8 labels, sform and qform set, millimetres, no time stamp.

    Args:
        array: (X, Y, Z), or (H, W, 1) for one slice; float32 (finite) or uint8.
        affine: (4, 4), voxel -> RAS+ millimetres. A shear is in the sform only: a qform cannot hold one.
        description: ASCII, at most 79 characters.
        trace: JSON-able; stored as a comment extension (code 6), or None.

    Returns:
        The file's bytes, the same for the same arguments.

    Raises:
        DataError: An argument is not as described.
    """
    if array.ndim != 3 or array.size == 0 or array.dtype not in (np.float32, np.uint8):
        raise DataError(
            f"expected a float32 image or a uint8 label map with three axes, (H, W, 1) for a slice, found "
            f"{array.dtype} {array.shape}; convert it first"
        )
    if array.dtype == np.float32 and not np.isfinite(array).all():
        raise DataError("expected finite intensities to write, found NaN or infinite ones; do not export this image")
    if not description.isascii() or not description.isprintable() or len(description) > MAX_DESCRIPTION:
        raise DataError(f"expected a description of at most {MAX_DESCRIPTION} ASCII characters, found {description!a}")
    check_affine(affine, "the affine to write")
    picture = Nifti1Image(array, affine)
    picture.header.set_xyzt_units("mm")
    picture.header["descrip"] = description.encode("ascii")
    picture.set_sform(affine, code=1)
    picture.set_qform(affine, code=1, strip_shears=True)
    if trace is not None:
        try:
            text = json.dumps(trace, sort_keys=True, ensure_ascii=True, allow_nan=False).encode("ascii")
        except (TypeError, ValueError) as error:
            raise DataError(f"expected a trace of JSON values, found one that is not: {_first_line(error)}") from error
        picture.header.extensions.append(Nifti1Extension("comment", text))
    packed = io.BytesIO()
    with gzip.GzipFile(filename="", fileobj=packed, mode="wb", compresslevel=6, mtime=0) as stream:
        stream.write(picture.to_bytes())
    return packed.getvalue()


def write_nifti(
    path: Path, array: npt.NDArray[Any], affine: Affine, description: str, trace: dict[str, Any] | None = None
) -> None:
    """Write :func:`nifti_bytes` atomically.

    Raises:
        DataError: An argument is not as described there, or the file cannot be written.
    """
    write_bytes_atomic(path, nifti_bytes(array, affine, description, trace))


def axis_codes(affine: Affine) -> str:
    """Orientation as three letters, for example "RAS" or "PSR"."""
    return "".join(str(code) for code in aff2axcodes(affine))


def _read(
    path: Path, dtype: np.dtype[Any], channel: int | None, like: tuple[int, ...] | None = None
) -> tuple[npt.NDArray[Any], Affine, int]:
    """Scaled values (X, Y, Z) of the wanted type, affine (4, 4) in mm (both RAS+), volumes there are.

    Read plane by plane, so that a volume is in memory once. Whole numbers are wanted of a label map.
    """
    name = shown(path.name)
    try:
        if not path.is_file():
            raise DataError(f"expected a NIfTI file at {shown(path)}, found none; check the path")
        with path.open("rb") as file:
            packed = file.read(2) == b"\x1f\x8b"
            file.seek(0)
            stream: io.BufferedIOBase = gzip.GzipFile(fileobj=file) if packed else file
            with stream:
                header = _header(name, stream)
                shape, volumes = _checked_shape(name, header, channel)
                if like is not None and sorted(shape) != sorted(like):  # known before it is unpacked
                    raise DataError(_other_shape(name, shape, like))
                with np.errstate(invalid="ignore"):  # a NaN of the kind that warns is refused like any other
                    affine = np.asarray(header.get_best_affine(), dtype=np.float64)
                check_affine(affine, name, shape)
                slope, intercept = header.get_slope_inter()
                kind, offset = header.get_data_dtype(), int(header.get_data_offset())
                length = math.prod(shape) * kind.itemsize
                ratio = (_DEFLATE_RATIO if dtype.kind == "i" else _IMAGE_RATIO) if packed else 1
                _check_size(name, path.stat().st_size, ratio, offset, offset + volumes * length)
                skipped = length * (channel or 0) if volumes > 1 else 0
                stream.seek(offset + skipped)
                values = np.empty(shape, dtype, order="F")
                for k in range(shape[2]):
                    raw = array_from_file(shape[:2], kind, stream, stream.tell(), mmap=False)
                    values[:, :, k] = _scaled(name, raw, slope, intercept, dtype)
                _skip(stream, (volumes * length - skipped - length) if packed else 0)
                if packed:
                    _read_to_end(name, stream)
    except _BROKEN as error:
        raise DataError(
            f"expected a whole NIfTI file, {name} is damaged: {_first_line(error)}; copy or convert it again"
        ) from error
    return *to_ras(values, affine), volumes


def _scaled(
    name: str, raw: npt.NDArray[Any], slope: float | None, intercept: float | None, dtype: np.dtype[Any]
) -> npt.NDArray[Any]:
    """One plane in source units; of whole numbers if those are wanted."""
    exact = np.dtype(np.float64) if dtype.kind == "i" else dtype
    with np.errstate(over="ignore", invalid="ignore"):  # what becomes infinite or NaN is found by the caller
        plane = raw.astype(exact)
        if slope is not None:
            plane *= exact.type(slope)
            plane += exact.type(intercept or 0.0)
    if dtype.kind == "i":
        _check_whole(name, plane)
    return plane.astype(dtype)


def _zero_where_not_finite(array: npt.NDArray[np.float32]) -> float:
    """Put 0 where a value is none, or beyond any scanner; the share of such voxels."""
    count = 0
    for k in range(array.shape[2]):
        bad = ~(np.abs(array[:, :, k]) < MAX_INTENSITY)  # NaN compares to nothing
        count += int(bad.sum())
        array[:, :, k][bad] = 0
    return count / array.size


def _header(name: str, stream: io.BufferedIOBase) -> Nifti1Header:
    """The header, minor faults mended (nibabel's rules)."""
    block = stream.read(540)
    kinds: tuple[tuple[type[Nifti1Header], int, bytes, int], ...] = (
        (Nifti1Header, 348, b"n+1\0", 344),
        (Nifti2Header, 540, b"n+2\0", 4),
    )
    for kind, length, magic, at in kinds:
        if length in (int.from_bytes(block[:4], "little"), int.from_bytes(block[:4], "big")) and len(block) >= length:
            if block[at : at + 4] != magic:
                break
            header = kind(block[:length], check=False)
            header.check_fix(logger=_QUIET, error_level=40)
            return header
    raise DataError(f"expected a NIfTI file, {name} is not one (no NIfTI header in it); convert it to .nii.gz first")


def _checked_shape(name: str, header: Nifti1Header, channel: int | None) -> tuple[tuple[int, int, int], int]:
    """Shape of one volume, and how many there are."""
    found = tuple(int(n) for n in header.get_data_shape())
    shape = found
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) == 2:
        shape = (*shape, 1)
    several = len(shape) == 4 and channel is not None and min(shape) > 0
    if several and not 0 <= int(channel or 0) < shape[3]:
        raise DataError(f"expected a volume number below {shape[3]} for {name}, found {channel}; check the recipe")
    if (len(shape) != 3 and not several) or min(shape) < 1:
        raise DataError(
            f"expected one 3-D volume in {name}, found shape {found}; extract one volume first, or let the recipe "
            "choose one (`channel`)"
        )
    if math.prod(shape) > MAX_VOXELS:
        raise DataError(f"expected at most {MAX_VOXELS} voxels in {name}, its header claims {found}; is it damaged?")
    kind = header.get_data_dtype()
    if kind.fields is not None or kind.kind not in "iuf":
        what = "RGB" if kind.fields is not None else str(kind)
        raise DataError(f"expected one real number per voxel in {name}, found {what}; convert it to grey values first")
    return (shape[0], shape[1], shape[2]), shape[3] if several else 1


def _check_size(name: str, size: int, ratio: int, offset: int, claimed: int) -> None:
    if not 0 <= offset <= MAX_OTHER_BYTES:
        raise DataError(f"expected voxels soon after the header of {name}, it says byte {offset}; is it damaged?")
    if claimed > size * (ratio if claimed > _SMALL_BYTES or ratio == 1 else _DEFLATE_RATIO):
        raise DataError(
            f"expected a whole NIfTI file, {name} is too small: its header claims {claimed} bytes, its {size} bytes "
            f"{'are fewer' if ratio == 1 else 'cannot hold them'}; copy or convert it again"
        )


def _skip(stream: io.BufferedIOBase, count: int) -> None:
    """Read on without keeping anything, in pieces."""
    while count > 0:
        piece = stream.read(min(count, 1024**2))
        if not piece:
            raise EOFError("the file ends early")
        count -= len(piece)


def _read_to_end(name: str, stream: io.BufferedIOBase) -> None:
    """Read what follows the voxels: only at its end does a gzip file tell whether all of it was right."""
    left = MAX_OTHER_BYTES
    while piece := stream.read(65536):
        left -= len(piece)
        if left < 0:
            raise DataError(f"expected the end of {name} after its voxels, found over {MAX_OTHER_BYTES} bytes more")


def _check_whole(name: str, values: npt.NDArray[np.float64]) -> None:
    whole = np.isfinite(values) & (values == np.rint(values)) & (np.abs(values) < 2**31)
    if not whole.all():
        raise DataError(
            f"expected whole numbers in the label map {name}, found {float(values[~whole][0]):g}; "
            "resample it with nearest neighbour"
        )


def _check_same_grid(
    image: Path,
    image_shape: tuple[int, ...],
    image_affine: Affine,
    label: Path,
    label_shape: tuple[int, ...],
    label_affine: Affine,
) -> None:
    if image_shape != label_shape:
        raise DataError(_other_shape(shown(label.name), label_shape, image_shape))
    off_mm = off_grid_mm(image_affine, label_affine, image_shape)
    if off_mm > GRID_TOLERANCE_MM:
        raise DataError(
            f"expected label and image on one grid, {shown(label.name)} lies up to {off_mm:.3g} mm off "
            f"{shown(image.name)}; resample the label to the image's grid"
        )


def _other_shape(label: str, label_shape: tuple[int, ...], image_shape: tuple[int, ...]) -> str:
    return (
        f"expected label and image of one shape, found {label_shape} in {label} and {image_shape} in the image (RAS "
        "order); resample the label to the image's grid"
    )


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
