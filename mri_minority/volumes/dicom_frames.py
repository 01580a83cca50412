"""Where each frame of a DICOM file lies: from a classic header, or from the groups of an enhanced one."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom

from mri_minority.core.errors import DataError
from mri_minority.volumes.atomic import shown

_MAX_SIDE = 8192
_MAX_FRAMES_OF_A_FILE = 16384
_RIGHT_ANGLE = 1e-3


@dataclass(frozen=True)
class Frame:
    """One plane of pixels.

    Args:
        file: Where it is stored.
        number: Which frame of the file, from 0.
        frames: How many frames the file has.
        rows: Height of the matrix.
        columns: Width of the matrix.
        bits: Bits allocated per pixel.
        position: Centre of the first pixel, LPS+ millimetres.
        orientation: Direction of a row (three numbers) and of a column (three), LPS+.
        spacing_mm: Between rows, between columns.
        thickness_mm: Distance to the next slice, as the header says; 0 when it does not.
        slope: Intensity = slope x stored value + intercept.
        intercept: See slope.
    """

    file: Path
    number: int
    frames: int
    rows: int
    columns: int
    bits: int
    position: tuple[float, float, float]
    orientation: tuple[float, float, float, float, float, float]
    spacing_mm: tuple[float, float]
    thickness_mm: float
    slope: float
    intercept: float

    def normal(self) -> npt.NDArray[np.float64]:
        """Unit vector across the plane."""
        return np.cross(self.orientation[:3], self.orientation[3:])

    def along(self, other: "Frame", tolerance: float) -> bool:
        """Whether both planes are parallel, rows and columns included."""
        return bool(np.allclose(self.orientation, other.orientation, rtol=0, atol=tolerance))


def frames_of(path: Path, header: pydicom.Dataset) -> list[Frame]:
    """Every frame of a file.

    Args:
        path: The file.
        header: Its elements, without pixel data.

    Raises:
        DataError: A size, position, direction or spacing is missing or impossible.
    """
    name = shown(path.name)
    count = _whole(header, "NumberOfFrames", 1)
    rows, columns, bits = (_whole(header, key, 0) for key in ("Rows", "Columns", "BitsAllocated"))
    if not (0 < rows <= _MAX_SIDE and 0 < columns <= _MAX_SIDE and 0 < count <= _MAX_FRAMES_OF_A_FILE):
        raise DataError(
            f"expected 1 to {_MAX_SIDE} rows and columns and 1 to {_MAX_FRAMES_OF_A_FILE} frames in {name}, its header "
            f"claims {rows} x {columns} x {count}; is it damaged?"
        )
    if bits not in (8, 16, 32) or _whole(header, "SamplesPerPixel", 1) != 1:
        raise DataError(f"expected one grey value of 8, 16 or 32 bits per pixel in {name}; convert it first")
    per_frame = header.get("PerFrameFunctionalGroupsSequence")
    if not per_frame:
        if count != 1:
            raise DataError(f"expected a place for each of {count} frames in {name}, found none; convert it first")
        return [_frame(path, 0, 1, (rows, columns, bits), [header])]
    if len(per_frame) != count:
        raise DataError(
            f"expected a place for each of {count} frames in {name}, found {len(per_frame)}; is it damaged?"
        )
    shared = list(header.get("SharedFunctionalGroupsSequence") or [])
    return [_frame(path, n, count, (rows, columns, bits), [group, *shared]) for n, group in enumerate(per_frame)]


def _frame(
    path: Path, number: int, count: int, matrix: tuple[int, int, int], groups: Sequence[pydicom.Dataset]
) -> Frame:
    position = _numbers(_find(groups, "PlanePositionSequence", "ImagePositionPatient"), 3)
    orientation = _numbers(_find(groups, "PlaneOrientationSequence", "ImageOrientationPatient"), 6)
    spacing_mm = _numbers(_find(groups, "PixelMeasuresSequence", "PixelSpacing"), 2)
    if position is None or orientation is None or spacing_mm is None:
        raise DataError(
            f"expected position, orientation and pixel spacing in {shown(path.name)}, found no usable ones; convert "
            "the series with a tool that knows this scanner"
        )
    row, column = np.array(orientation[:3]), np.array(orientation[3:])
    lengths = np.linalg.norm(row), np.linalg.norm(column)
    if max(abs(lengths[0] - 1), abs(lengths[1] - 1), abs(row @ column)) > _RIGHT_ANGLE:
        raise DataError(f"expected two perpendicular unit vectors as orientation in {shown(path.name)}; is it damaged?")
    if min(spacing_mm) <= 0:
        raise DataError(
            f"expected a pixel spacing above zero in {shown(path.name)}, found {spacing_mm}; is it damaged?"
        )
    thickness = _numbers(_find(groups, "PixelMeasuresSequence", "SpacingBetweenSlices"), 1) or _numbers(
        _find(groups, "PixelMeasuresSequence", "SliceThickness"), 1
    )
    slope, intercept = (
        _scaling(path, _find(groups, "PixelValueTransformationSequence", keyword), default)
        for keyword, default in (("RescaleSlope", 1.0), ("RescaleIntercept", 0.0))
    )
    x, y, z = position
    a, b, c, d, e, f = orientation
    return Frame(
        file=path,
        number=number,
        frames=count,
        rows=matrix[0],
        columns=matrix[1],
        bits=matrix[2],
        position=(x, y, z),
        orientation=(a, b, c, d, e, f),
        spacing_mm=(spacing_mm[0], spacing_mm[1]),
        thickness_mm=abs(thickness[0]) if thickness else 0.0,
        slope=slope,
        intercept=intercept,
    )


def _scaling(path: Path, value: Any, default: float) -> float:
    """A slope or intercept: the default where there is none; an unusable one is refused, never replaced."""
    if value is None:
        return default
    numbers = _numbers(value, 1)
    if numbers is None:
        raise DataError(f"expected a number as rescale slope and intercept in {shown(path.name)}; is it damaged?")
    return numbers[0]


def _find(groups: Sequence[pydicom.Dataset], sequence: str, keyword: str) -> Any:
    """An element of a classic header, or of the first functional group that has it."""
    for group in groups:
        if keyword in group:
            return group[keyword].value
        items = group.get(sequence)
        if items and keyword in items[0]:
            return items[0][keyword].value
    return None


def _numbers(value: Any, count: int) -> tuple[float, ...] | None:
    """So many finite numbers, or None."""
    if value is None or isinstance(value, str | bytes):
        return None
    values = [value] if count == 1 and not isinstance(value, Sequence) else list(value)
    if len(values) != count:
        return None
    numbers = tuple(float(v) for v in values)
    return numbers if all(math.isfinite(number) and abs(number) < 1e6 for number in numbers) else None


def _whole(header: pydicom.Dataset, keyword: str, default: int) -> int:
    value = header.get(keyword, default)
    return default if value is None else int(value)
