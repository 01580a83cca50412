"""DICOM in: files grouped into series and sorted by where they lie; no field that names a person is kept."""

import hashlib
import math
import os
import re
import warnings
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from threading import RLock
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom
from pydicom.filereader import read_file_meta_info
from pydicom.uid import DeflatedExplicitVRLittleEndian

from mri_minority.core.errors import DataError
from mri_minority.volumes.atomic import shown
from mri_minority.volumes.dicom_frames import Frame, frames_of
from mri_minority.volumes.geometry import Affine
from mri_minority.volumes.sites import scanner_of

_ENDING = re.compile(r"\.(dcm|dicom|ima)$", re.IGNORECASE)
_FLAIR = re.compile(r"FLAIR", re.IGNORECASE)
_SEQUENCE = re.compile(r"T1|T2|PD", re.IGNORECASE)
_SAME_DIRECTION = 1e-4
_SAME_PLACE_MM = 0.01
_UNEVEN = 0.02
MAX_FRAMES = 4096
_PIXELS = [tag + kind for tag in (b"\xe0\x7f\x10\x00", b"\x7f\xe0\x00\x10") for kind in (b"OW", b"OB")]
"""How pixel data begin, where a header says of what kind its elements are (explicit VR)."""
_ONE_AT_A_TIME = RLock()
"""Python's warning filters belong to the whole process: two threads must not change them at once."""

# What is read of a header. Of these, PatientID and the UIDs are only hashed, the descriptions only searched for the
# name of a sequence and the maker for those of makers; names, dates, addresses and everything else that says who it is
# are not even parsed.
_TAGS = [
    *("SOPClassUID", "Modality", "ImageType", "BurnedInAnnotation", "PatientIdentityRemoved"),
    *("SeriesInstanceUID", "StudyInstanceUID", "PatientID", "SeriesDescription", "ProtocolName"),
    *("Rows", "Columns", "BitsAllocated", "SamplesPerPixel", "NumberOfFrames", "RescaleSlope", "RescaleIntercept"),
    *("ImageOrientationPatient", "ImagePositionPatient", "PixelSpacing", "SliceThickness", "SpacingBetweenSlices"),
    *("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence", "Manufacturer", "MagneticFieldStrength"),
]


@dataclass(frozen=True)
class DicomSeries:
    """One volume: the frames of one series that lie in one direction, in order along their normal.

    Args:
        frames: The frames, lowest position along the normal first.
        subject: Hashed key of the patient; the same for all series of one patient that were found together.
        series: Hashed key of the series; says nothing of what the header says.
        sequence: "T1", "T2", "FLAIR" or "PD" where the description says so, or None.
        anonymous: Whether every header says that the patient's identity was removed.
        scanner: Maker and field strength, see :func:`mri_minority.volumes.sites.scanner_of`.
        study: Hashed key of the examination.
        problem: Why it cannot be used, or None.
    """

    frames: tuple[Frame, ...]
    subject: str
    series: str
    sequence: str | None
    anonymous: bool
    scanner: str
    study: str
    problem: str | None = None

    @property
    def shape(self) -> tuple[int, int, int]:
        """Columns, rows, frames: the order of the array's axes."""
        return self.frames[0].columns, self.frames[0].rows, len(self.frames)

    def affine(self) -> Affine:
        """(4, 4), voxel (column, row, frame) -> RAS+ millimetres (DICOM's own world is LPS+)."""
        first, last = self.frames[0], self.frames[-1]
        result = np.eye(4)
        result[:3, 0] = np.array(first.orientation[:3]) * first.spacing_mm[1]
        result[:3, 1] = np.array(first.orientation[3:]) * first.spacing_mm[0]
        if len(self.frames) > 1:
            result[:3, 2] = (np.array(last.position) - first.position) / (len(self.frames) - 1)
        else:
            result[:3, 2] = first.normal() * first.thickness_mm
        result[:3, 3] = first.position
        return np.diag([-1.0, -1.0, 1.0, 1.0]) @ result


@contextmanager
def foreign_parser(name: str) -> Iterator[None]:
    """Let pydicom loose on a file that may be hostile: whatever it raises becomes one line without the file's text.

    pydicom promises no exception classes for damaged files, and its messages quote values of the header. Those must
    not reach a log, so only the kind of the error is passed on.

    Raises:
        DataError: Reading failed.
    """
    try:
        with _ONE_AT_A_TIME, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except DataError:
        raise
    except Exception as error:
        raise DataError(
            f"expected a whole DICOM file, {shown(name)} is damaged or not supported ({type(error).__name__}); copy it "
            "again, or convert the series with dcm2niix"
        ) from None


def find_series(*folders: Path) -> tuple[list[DicomSeries], list[tuple[Path, str]]]:
    """Find the MR series in folders and all below them, whatever the files are called and however they are mixed.

    A patient's key is the same in all that are found together, so folders that belong together must be given together.

    Returns:
        The series in a stable order, and the files that look like DICOM but cannot be read, with the reason.
    """
    groups: list[_Group] = []
    by_uid: defaultdict[str, list[_Group]] = defaultdict(list)
    broken: list[tuple[Path, str]] = []
    for path in _each_once(folders):
        try:
            with foreign_parser(path.name):
                header = _header(path)
                if not _is_image(path, header):
                    continue
                frames = frames_of(path, header)
                said = _Said.of(header)
        except DataError as error:
            broken.append((path, str(error)))
            continue
        for frame in frames:
            group = next((g for g in by_uid[said.uid] if g.frames[0].along(frame, _SAME_DIRECTION)), None)
            if group is None:
                group = _Group(said, [])
                by_uid[said.uid].append(group)
                groups.append(group)
            group.frames.append(frame)
            group.said = group.said.joined(said)
    keys = _subjects(groups)
    return [_finished(group, keys[group.said.patient], number) for number, group in _numbered(groups)], broken


@dataclass
class _Group:
    said: "_Said"
    frames: list[Frame]


@dataclass(frozen=True)
class _Said:
    """What the headers of a group say, beside geometry."""

    uid: str
    study: str
    patient: str
    sequence: str | None
    anonymous: bool
    scanner: str
    problem: str | None

    @classmethod
    def of(cls, header: pydicom.Dataset) -> "_Said":
        study, uid = str(header.get("StudyInstanceUID", "")), str(header.get("SeriesInstanceUID", ""))
        words = f"{header.get('SeriesDescription', '')} {header.get('ProtocolName', '')}"
        found = _FLAIR.search(words) or _SEQUENCE.search(words)  # "t2_flair" is no T2
        problem = None
        if str(header.get("Modality", "")) != "MR":
            problem = f"expected modality MR, found {_code(header.get('Modality'))}; leave the series out"
        elif "LOCALIZER" in str(header.get("ImageType", "")):
            problem = "expected a series of slices, found a localizer; leave it out"
        elif str(header.get("BurnedInAnnotation", "")).strip().upper() == "YES":
            problem = "expected pixels without text, the header says that text is burned in; leave it out"
        elif not uid:
            problem = "expected a SeriesInstanceUID, found none: which files belong together is unknown"
        return cls(
            uid=uid,
            study=study,
            patient=str(header.get("PatientID", "") or "").strip() or f"study {study}",
            sequence=found.group(0).upper() if found else None,
            anonymous=str(header.get("PatientIdentityRemoved", "")).strip().upper() == "YES",
            scanner=scanner_of(header),
            problem=problem,
        )

    def joined(self, other: "_Said") -> "_Said":
        problem = self.problem or other.problem
        if self.patient != other.patient:
            problem = "expected one patient in a series, found two under one SeriesInstanceUID; separate them"
        return replace(self, problem=problem, anonymous=self.anonymous and other.anonymous)


def has_dicom(folder: Path) -> bool:
    """Whether a file in a folder or below looks like DICOM."""
    return next(_dicom_files(folder), None) is not None


def _each_once(folders: tuple[Path, ...]) -> Iterator[Path]:
    """Files of all folders; of folders within each other, each file once."""
    seen: set[Path] = set()
    for path in (path for folder in folders for path in _dicom_files(folder)):
        place = path.parent.resolve() / path.name
        if place not in seen:
            seen.add(place)
            yield path


def _dicom_files(folder: Path) -> Iterator[Path]:
    """Files below a folder that begin like DICOM or are called so; hidden ones are left out."""
    for here, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            path = Path(here) / name
            if not name.startswith(".") and path.is_file() and (_ENDING.search(name) or _has_preamble(path)):
                yield path


def _has_preamble(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False  # what cannot be read and is not called DICOM either is no concern of ours


def _header(path: Path) -> pydicom.Dataset:
    """The wanted elements of a header; pixel data are not read."""
    if not _has_preamble(path):
        raise DataError(f"expected a DICOM file (DICM after 128 bytes), {shown(path.name)} is not one; copy it again")
    if read_file_meta_info(path).get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:
        # It would be unpacked whole before anything of it could be checked.
        raise DataError(f"expected pixel data that are not deflated in {shown(path.name)}; convert it with dcmconv")
    with path.open("rb") as file:
        header = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=list(_TAGS))
        begins = file.read(6)
    if "Rows" in header and begins not in _PIXELS and not header.original_encoding[0]:
        raise DataError(
            f"expected pixel data of whole numbers after the header of {shown(path.name)}, found none; copy it again"
        )
    return header


def _is_image(path: Path, header: pydicom.Dataset) -> bool:
    """Whether it is an image, not a report, a presentation state or a directory.

    Raises:
        DataError: It says that it is an image and has no rows, as a truncated file has none, or says nothing.
    """
    if "Rows" in header:
        return True
    kind = header.file_meta.get("MediaStorageSOPClassUID")
    if kind is None or "Image Storage" in kind.name:
        raise DataError(f"expected an image in {shown(path.name)}, found no rows of pixels; copy it again")
    return False


def _numbered(groups: list[_Group]) -> Iterator[tuple[int, _Group]]:
    """Groups with their number among those of the same series."""
    seen: defaultdict[str, int] = defaultdict(int)
    for group in groups:
        seen[group.said.uid] += 1
        yield seen[group.said.uid], group


def _subjects(groups: list[_Group]) -> dict[str, str]:
    """Patient -> hashed key.

    A hash of a hospital number alone could be undone by trying all numbers. The lowest UID of the patient's studies
    goes in with it: nobody can guess that one.
    """
    studies: dict[str, str] = {}
    for group in groups:
        said = group.said
        studies[said.patient] = min(said.study, studies.get(said.patient, said.study))
    return {patient: "subject-" + _digest(f"{patient}\n{study}") for patient, study in studies.items()}


def _finished(group: _Group, subject: str, number: int) -> DicomSeries:
    """Sort the frames and look for what is wrong with them."""
    said = group.said
    normal = group.frames[0].normal()  # one for all: every header is rounded on its own
    frames = sorted(group.frames, key=lambda frame: (float(normal @ frame.position), str(frame.file), frame.number))
    heights_mm = np.array([normal @ frame.position for frame in frames])
    series = "series-" + _digest(said.uid) + (f"-{number}" if number > 1 else "")
    problem = said.problem or _mixed(frames) or _unevenly_placed(frames, heights_mm)
    study = "study-" + _digest(f"{subject}\n{said.study}")
    return DicomSeries(tuple(frames), subject, series, said.sequence, said.anonymous, said.scanner, study, problem)


def _mixed(frames: list[Frame]) -> str | None:
    """Whether matrix sizes or pixel spacings differ."""
    kinds = {(f.columns, f.rows, *(round(mm, 4) for mm in f.spacing_mm)) for f in frames}
    if len(kinds) > 1:
        sorts = "; ".join(f"{c} x {r} of {x} x {y} mm" for c, r, y, x in sorted(kinds)[:3])
        return f"expected one matrix size and pixel spacing in a series, found {len(kinds)} ({sorts}); separate them"
    if len(frames) > MAX_FRAMES:
        return f"expected at most {MAX_FRAMES} slices in a series, found {len(frames)}; is it a volume?"
    return None


def _unevenly_placed(frames: list[Frame], heights_mm: npt.NDArray[np.float64]) -> str | None:
    """Whether slices, in order, lie twice in one place, are missing, or are not at even steps on one line."""
    if len(frames) == 1:
        return None if frames[0].thickness_mm > 0 else "expected a slice thickness above zero, found none"
    steps = np.diff(heights_mm)
    if steps.min() < _SAME_PLACE_MM:
        count = int((steps < _SAME_PLACE_MM).sum())
        return (
            f"expected one slice in each place, found {count} in the place of another (copies, echoes or time points); "
            "separate them"
        )
    usual = float(np.median(steps))
    allowed_mm = max(2 * _SAME_PLACE_MM, _UNEVEN * usual)
    gaps = [step for step in steps if step > usual + allowed_mm]
    if gaps and all(abs(gap / usual - round(gap / usual)) < 0.1 for gap in gaps):
        missing = sum(round(gap / usual) - 1 for gap in gaps)
        return f"expected slices every {usual:.4g} mm, {missing} are missing (steps of up to {max(gaps):.4g} mm)"
    places = np.array([frame.position for frame in frames])
    line = places[0] + np.arange(len(places))[:, None] * (places[-1] - places[0]) / (len(places) - 1)
    off_mm = float(np.linalg.norm(places - line, axis=1).max())
    if off_mm > allowed_mm:
        return (
            f"expected slices at even steps on one line, found them up to {off_mm:.3g} mm off (steps of "
            f"{steps.min():.4g} to {steps.max():.4g} mm); resample the series first"
        )
    return None


def _code(value: Any) -> str:
    """A coded value, if it is one: a hostile header may hold a name in its place."""
    text = str(value)
    return text if re.fullmatch(r"[A-Z]{2,8}", text) else "something else"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()[: math.ceil(48 / 4)]
