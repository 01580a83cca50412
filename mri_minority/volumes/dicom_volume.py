"""The pixels of a DICOM series as a volume."""

import hashlib
import math
from itertools import groupby

import numpy as np
import numpy.typing as npt
from pydicom.filereader import read_file_meta_info
from pydicom.pixels.utils import iter_pixels

from mri_minority.core.errors import DataError
from mri_minority.volumes.atomic import sha256_of, shown
from mri_minority.volumes.dicom import DicomSeries, foreign_parser
from mri_minority.volumes.dicom_frames import Frame
from mri_minority.volumes.geometry import MAX_INTENSITY, MAX_VOXELS, check_affine, to_ras
from mri_minority.volumes.volume import Volume


def read_dicom_volume(series: DicomSeries) -> Volume:
    """Read the frames of a series into the project's convention: RAS+ axes, millimetres, rescaled float32.

    Nothing but pixels and geometry is taken from the files.

    Raises:
        DataError: The series has a problem, a file is damaged or compressed in a way that cannot be read here, or the
            geometry cannot be a head's.
    """
    if series.problem:
        raise DataError(series.problem)
    shape = series.shape
    if math.prod(shape) > MAX_VOXELS:
        raise DataError(f"expected at most {MAX_VOXELS} voxels in {series.series}, its headers claim {shape}")
    affine = series.affine()
    check_affine(affine, series.series, shape)
    _check_sizes(series)
    values = np.empty(shape, np.float32, order="F")
    hashed = hashlib.sha256()
    numbered = sorted(enumerate(series.frames), key=lambda item: (str(item[1].file), item[1].number))
    for file, frames in groupby(numbered, key=lambda item: item[1].file):
        hashed.update(sha256_of(file).encode())
        _fill(values, list(frames))
    if not all((np.abs(values[:, :, k]) < MAX_INTENSITY).all() for k in range(shape[2])):
        raise DataError(f"expected finite intensities in {series.series}, found others; check the rescale slope")
    image, canonical = to_ras(values, affine)
    return Volume(image, None, canonical, series.subject, series.series, hashed.hexdigest())


def _check_sizes(series: DicomSeries) -> None:
    """Refuse, before anything is allocated, a file that is too small for the uncompressed pixels it claims."""
    for file, frames in groupby(sorted(series.frames, key=lambda f: str(f.file)), key=lambda f: f.file):
        frame = next(frames)
        claimed = frame.rows * frame.columns * frame.frames * frame.bits // 8
        with foreign_parser(file.name):
            packed = read_file_meta_info(file).TransferSyntaxUID.is_compressed
            size = file.stat().st_size
        if (not packed and size < claimed) or claimed > 4 * MAX_VOXELS:
            raise DataError(
                f"expected a whole DICOM file, {shown(file.name)} is too small: its header claims {claimed} bytes of "
                f"pixels, it has {size}; copy it again"
            )


def _fill(values: npt.NDArray[np.float32], numbered: list[tuple[int, Frame]]) -> None:
    """Read the frames of one file into their places."""
    file = numbered[0][1].file
    with foreign_parser(file.name):
        pixels = iter_pixels(file, indices=[frame.number for _, frame in numbered], raw=True)
        for (place, frame), plane in zip(numbered, pixels, strict=True):
            if plane.shape != (frame.rows, frame.columns):
                raise DataError(
                    f"expected {frame.rows} x {frame.columns} pixels in {shown(file.name)}, found {plane.shape}; "
                    "is it damaged?"
                )
            with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is found by the caller
                values[:, :, place] = plane.T.astype(np.float32) * np.float32(frame.slope) + np.float32(frame.intercept)
