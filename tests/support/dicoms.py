"""DICOM series made for tests: any orientation, classic or enhanced, with whatever header a test wants."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import EnhancedMRImageStorage, ExplicitVRLittleEndian, MRImageStorage, generate_uid

TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def no_change(header: Dataset, number: int) -> None:
    """Leave a header as it is."""


def write_series(
    folder: Path,
    values: npt.NDArray[np.generic],
    affine: npt.NDArray[np.float64],
    change: Callable[[Dataset, int], None] = no_change,
    patient: str = "patient-1",
    uid: str = "1",
    order: list[int] | None = None,
    slope: float = 1.0,
    intercept: float = 0.0,
) -> list[Path]:
    """Write one classic file per slice.

    Args:
        folder: Where to; made.
        values: (columns, rows, slices), whole numbers of 16 bits.
        affine: (4, 4), voxel -> RAS+ millimetres; columns 0 and 1 perpendicular.
        change: Called with every header and its number before it is written.
        patient: PatientID.
        uid: Seed of the UIDs of study and series.
        order: Names of the files, as numbers: by default the slices' own.
        slope: RescaleSlope.
        intercept: RescaleIntercept.

    Returns:
        The files, in the order of the slices.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for number in range(values.shape[2]):
        header = _header(values, affine, patient, uid)
        header.SOPClassUID = MRImageStorage
        header.SOPInstanceUID = generate_uid(entropy_srcs=[uid, str(number)])
        header.InstanceNumber = number + 1
        header.update(_place(affine, number))
        header.update(_measures(affine))
        header.RescaleSlope, header.RescaleIntercept = slope, intercept
        header.PixelData = np.ascontiguousarray(values[:, :, number].T).astype("<i2").tobytes()
        change(header, number)
        path = folder / f"{(order or list(range(values.shape[2])))[number]:04d}.dcm"
        _save(header, path)
        files.append(path)
    return files


def write_enhanced(
    path: Path,
    values: npt.NDArray[np.generic],
    affine: npt.NDArray[np.float64],
    order: list[int] | None = None,
    slope: float = 1.0,
) -> Path:
    """Write one enhanced multi-frame file, its frames in any order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    frames = order or list(range(values.shape[2]))
    header = _header(values, affine, "patient-1", "enhanced")
    header.SOPClassUID, header.SOPInstanceUID = EnhancedMRImageStorage, generate_uid(entropy_srcs=["enhanced"])
    header.NumberOfFrames = len(frames)
    shared, orientation, transformation = Dataset(), Dataset(), Dataset()
    orientation.ImageOrientationPatient = _place(affine, 0).ImageOrientationPatient
    transformation.RescaleSlope, transformation.RescaleIntercept = slope, 0
    shared.PlaneOrientationSequence = Sequence([orientation])
    shared.PixelMeasuresSequence = Sequence([_measures(affine)])
    shared.PixelValueTransformationSequence = Sequence([transformation])
    header.SharedFunctionalGroupsSequence = Sequence([shared])
    groups = []
    for number in frames:
        position, group = Dataset(), Dataset()
        position.ImagePositionPatient = _place(affine, number).ImagePositionPatient
        group.PlanePositionSequence = Sequence([position])
        groups.append(group)
    header.PerFrameFunctionalGroupsSequence = Sequence(groups)
    header.PixelData = b"".join(np.ascontiguousarray(values[:, :, n].T).astype("<i2").tobytes() for n in frames)
    _save(header, path)
    return path


def head(shape: tuple[int, int, int] = (24, 28, 10)) -> npt.NDArray[np.int16]:
    """A bright egg in the dark, with a mark that tells every direction."""
    grid = np.meshgrid(*[np.linspace(-1.2, 1.2, n) for n in shape], indexing="ij")
    values = np.where(sum(axis**2 for axis in grid) < 1, 400, 10).astype(np.int16)
    values[shape[0] // 4, shape[1] // 3, shape[2] // 2] = 900
    return values


def _header(values: npt.NDArray[np.generic], affine: npt.NDArray[np.float64], patient: str, uid: str) -> Dataset:
    header = Dataset()
    header.Modality, header.PatientID, header.PatientName = "MR", patient, "Doe^Jane"
    header.StudyInstanceUID = generate_uid(entropy_srcs=["study", uid, patient])
    header.SeriesInstanceUID = generate_uid(entropy_srcs=["series", uid])
    header.SeriesDescription = "t1_mprage_sag"
    header.ImageType = ["ORIGINAL", "PRIMARY", "M"]
    header.Columns, header.Rows = values.shape[0], values.shape[1]
    header.SamplesPerPixel, header.PhotometricInterpretation = 1, "MONOCHROME2"
    header.BitsAllocated, header.BitsStored, header.HighBit, header.PixelRepresentation = 16, 16, 15, 1
    return header


def _place(affine: npt.NDArray[np.float64], number: int) -> Dataset:
    world = TO_LPS @ affine
    row, column = (world[:3, a] / np.linalg.norm(world[:3, a]) for a in (0, 1))
    result = Dataset()
    result.ImagePositionPatient = [decimal(v) for v in world[:3, 3] + number * world[:3, 2]]
    result.ImageOrientationPatient = [decimal(v) for v in (*row, *column)]
    return result


def _measures(affine: npt.NDArray[np.float64]) -> Dataset:
    result = Dataset()
    result.PixelSpacing = [decimal(np.linalg.norm(affine[:3, a])) for a in (1, 0)]
    result.SliceThickness = decimal(np.linalg.norm(affine[:3, 2]))
    return result


def decimal(value: float) -> str:
    """A number in the 16 characters that DICOM allows."""
    return f"{float(value):.9f}"[:16]


def _save(header: Dataset, path: Path) -> None:
    header.file_meta = FileMetaDataset()
    header.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    header.file_meta.MediaStorageSOPClassUID = header.SOPClassUID
    header.file_meta.MediaStorageSOPInstanceUID = header.SOPInstanceUID
    header.save_as(path, enforce_file_format=True)
