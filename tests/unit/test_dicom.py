"""DICOM in: what is put together, what is refused and in which words, and that nobody is named.

Sources are written by pydicom; SimpleITK (GDCM) is the oracle for values.
"""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK
from pydicom.dataset import Dataset
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, JPEG2000Lossless, RLELossless

from mri_minority.core.errors import DataError
from mri_minority.volumes.dicom import DicomSeries, find_series
from mri_minority.volumes.dicom_volume import read_dicom_volume
from mri_minority.volumes.discover import Found, discover
from mri_minority.volumes.read import read_found
from tests.support.dicoms import decimal, head, no_change, write_enhanced, write_series

AFFINE = np.array([[0.9, 0, 0, -61.3], [0, 1.1, 0, 45.6], [0, 0, 3.0, 7.85], [0, 0, 0, 1.0]])
HEAD = head()


def only(folder: Path) -> DicomSeries:
    series, broken = find_series(folder)
    assert broken == []
    assert len(series) == 1
    return series[0]


def test_a_series_is_read_whatever_the_order_of_its_files(tmp_path: Path) -> None:
    order = [3, 9, 0, 1, 7, 2, 8, 6, 5, 4]
    write_series(tmp_path / "deep" / "er", HEAD, AFFINE, order=order, slope=2.0, intercept=-5.0)
    volume = read_dicom_volume(only(tmp_path))
    np.testing.assert_array_equal(volume.image, HEAD * 2.0 - 5.0)
    np.testing.assert_allclose(volume.affine, AFFINE, atol=1e-6)
    assert volume.label is None


def test_names_without_ending_and_other_files_beside(tmp_path: Path) -> None:
    files = write_series(tmp_path, HEAD, AFFINE)
    for file in files:
        file.rename(tmp_path / file.stem)
    (tmp_path / "README").write_text("notes", encoding="utf-8")
    (tmp_path / ".hidden.dcm").write_bytes(b"x")
    np.testing.assert_array_equal(read_dicom_volume(only(tmp_path)).image, HEAD)


def test_an_enhanced_file_is_read_whatever_the_order_of_its_frames(tmp_path: Path) -> None:
    write_enhanced(tmp_path / "enhanced.dcm", HEAD, AFFINE, order=[3, 9, 0, 1, 7, 2, 8, 6, 5, 4], slope=3.0)
    volume = read_dicom_volume(only(tmp_path))
    np.testing.assert_array_equal(volume.image, HEAD * 3.0)
    np.testing.assert_allclose(volume.affine, AFFINE, atol=1e-6)


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless])
def test_lossless_compression_is_read(tmp_path: Path, syntax: UID) -> None:
    if syntax == JPEG2000Lossless:
        pytest.importorskip("openjpeg", reason="the extra `dicom` is not installed")
    values = head((64, 72, 6))
    for file in write_series(tmp_path, values, AFFINE):
        header = pydicom.dcmread(file)
        header.compress(syntax, generate_instance_uid=False)
        header.save_as(file)
    np.testing.assert_array_equal(read_dicom_volume(only(tmp_path)).image, values)


def test_a_deflated_file_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    file = write_series(tmp_path, HEAD, AFFINE)[0]
    header = pydicom.dcmread(file)
    header.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    header.save_as(file)
    _, broken = find_series(tmp_path)
    assert [path for path, _ in broken] == [file]
    assert "deflated" in broken[0][1]


def test_values_agree_with_itk(tmp_path: Path) -> None:
    files = write_series(tmp_path, HEAD, AFFINE, slope=1.5, intercept=3.0)
    theirs = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage([str(file) for file in files]))
    # Their axes run left and posterior, (z, y, x); this affine runs right and anterior, so DICOM says it backwards.
    np.testing.assert_allclose(read_dicom_volume(only(tmp_path)).image, theirs.transpose(2, 1, 0), rtol=1e-6)


def test_mixed_series_are_separated_and_one_patient_stays_one(tmp_path: Path) -> None:
    write_series(tmp_path, HEAD, AFFINE, uid="a", patient="p1")
    write_series(tmp_path, HEAD[:, :, :5], AFFINE, uid="b", patient="p1", order=[20, 21, 22, 23, 24])
    write_series(tmp_path / "x", HEAD, AFFINE, uid="c", patient="p2")
    series, _ = find_series(tmp_path)
    assert [len(s.frames) for s in series] == [10, 5, 10]
    assert series[0].subject == series[1].subject != series[2].subject
    assert len({s.series for s in series}) == 3
    assert [s.problem for s in series] == [None] * 3


def test_two_orientations_under_one_uid_are_two_volumes(tmp_path: Path) -> None:
    turned = AFFINE[:, [1, 2, 0, 3]]
    write_series(tmp_path / "a", HEAD, AFFINE, uid="same")
    write_series(tmp_path / "b", HEAD, turned, uid="same")
    series, _ = find_series(tmp_path)
    assert [s.problem for s in series] == [None, None]
    assert series[0].series != series[1].series


def test_keys_cannot_be_found_by_trying_numbers(tmp_path: Path) -> None:
    """The same hospital number with another study's UID gives another key."""
    write_series(tmp_path / "a", HEAD, AFFINE, uid="a", patient="1234567")
    write_series(tmp_path / "b", HEAD, AFFINE, uid="b", patient="1234567")
    first, second = (only(tmp_path / name) for name in "ab")
    assert first.subject != second.subject
    together, _ = find_series(tmp_path)
    assert len({s.subject for s in together}) == 1


def test_a_patient_in_two_folders_is_one(tmp_path: Path) -> None:
    """Given together, folders are read together: one key, and one volume of a series that lies in both."""
    write_series(tmp_path / "a", HEAD, AFFINE, uid="a", patient="1234567")
    write_series(tmp_path / "b", HEAD, AFFINE, uid="b", patient="1234567")
    for number in range(5, 10):
        (tmp_path / "a" / f"{number:04d}.dcm").rename(tmp_path / "b" / f"1{number:04d}.dcm")
    found = discover([tmp_path / "a", tmp_path / "b", tmp_path / "b"])
    assert [(len(item.dicom.frames), item.problem) for item in found if item.dicom] == [(10, None), (10, None)]
    assert len({item.subject for item in found}) == 1
    assert {item.subject for item in discover([tmp_path])} == {item.subject for item in found}


def remove(*numbers: int) -> Callable[[list[Path]], None]:
    def change(files: list[Path]) -> None:
        for number in numbers:
            files[number].unlink()

    return change


def copy_one(files: list[Path]) -> None:
    shutil.copy(files[4], files[4].with_name("copy.dcm"))


def setting(keyword: str, value: object, number: int | None = None) -> Callable[[Dataset, int], None]:
    def change(header: Dataset, n: int) -> None:
        if number is None or n == number:
            setattr(header, keyword, value)

    return change


def shifted(header: Dataset, number: int) -> None:
    if number == 4:
        x, y, z = header.ImagePositionPatient
        header.ImagePositionPatient = [x, decimal(float(y) + 0.5), z]


@pytest.mark.parametrize(
    ("change", "files", "words"),
    [
        (no_change, remove(4), "1 are missing"),
        (no_change, remove(2, 5, 6), "3 are missing"),
        (no_change, copy_one, "1 in the place of another"),
        (setting("PixelSpacing", [1.0, 1.0], 3), remove(), "one matrix size and pixel spacing"),
        (setting("Modality", "CT"), remove(), "expected modality MR, found CT"),
        (setting("Modality", "DOE JANE"), remove(), "found something else"),
        (setting("ImageType", ["ORIGINAL", "PRIMARY", "LOCALIZER"]), remove(), "localizer"),
        (setting("BurnedInAnnotation", "YES"), remove(), "burned in"),
        (setting("PatientID", "another", 3), remove(), "found two under one"),
        (setting("SeriesInstanceUID", ""), remove(), "SeriesInstanceUID"),
        (setting("ImagePositionPatient", ["0", "0", "9.3"], 1), remove(), "even steps on one line"),
        (shifted, remove(), "even steps on one line"),
    ],
)
def test_a_series_that_is_no_volume_is_refused(
    tmp_path: Path, change: Callable[[Dataset, int], None], files: Callable[[list[Path]], None], words: str
) -> None:
    files(write_series(tmp_path, HEAD, AFFINE, change))
    problem = only(tmp_path).problem
    assert problem is not None
    assert words in problem
    assert len(problem.splitlines()) == 1
    (found,) = discover([tmp_path])
    with pytest.raises(DataError, match="expected"):
        read_found(found)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (setting("Rows", 0), "claims 0 x 24"),
        (setting("Rows", 65535), "claims 65535 x 24"),
        (setting("NumberOfFrames", 2**31 - 1), "claims 28 x 24 x 2147483647"),
        (setting("NumberOfFrames", 3), "a place for each of 3 frames"),
        (setting("ImageOrientationPatient", ["1", "0", "0", "1", "0", "0"]), "perpendicular"),
        (setting("ImageOrientationPatient", ["2", "0", "0", "0", "1", "0"]), "perpendicular"),
        (setting("ImagePositionPatient", None), "position, orientation and pixel spacing"),
        (setting("PixelSpacing", ["0", "1"]), "pixel spacing above zero"),
        (setting("SamplesPerPixel", 3), "one grey value"),
        (setting("BitsAllocated", 12), "one grey value"),
        (setting("RescaleIntercept", "1\\2"), "rescale slope"),
    ],
)
def test_a_file_with_an_impossible_header_is_named(
    tmp_path: Path, change: Callable[[Dataset, int], None], words: str
) -> None:
    files = write_series(tmp_path, HEAD, AFFINE, change)
    series, broken = find_series(tmp_path)
    assert series == []
    assert [path for path, _ in broken] == files
    assert all(words in reason and file.name in reason for file, reason in broken)


def test_rows_that_the_file_does_not_hold_are_refused(tmp_path: Path) -> None:
    write_series(tmp_path, HEAD, AFFINE, setting("Rows", 1000))
    with pytest.raises(DataError, match="too small: its header claims 48000 bytes"):
        read_dicom_volume(only(tmp_path))


def readable(item: Found) -> bool:
    try:
        read_found(item)
    except DataError:
        return False
    return True


def test_a_truncated_file_is_never_half_a_slice(tmp_path: Path) -> None:
    """Cut at any byte: named as damaged, or the pixels are refused, or the slice is missing; never read."""
    files = write_series(tmp_path, HEAD[:, :, :5], AFFINE)
    data = files[2].read_bytes()
    for length in [0, 1, 127, 128, 131, 132, 140, 300, 500, 700, 900, len(data) - 1000, len(data) - 2, len(data) - 1]:
        files[2].write_bytes(data[:length])
        assert not [item for item in discover([tmp_path]) if readable(item)], length


def test_a_message_quotes_nothing_of_a_damaged_header(tmp_path: Path) -> None:
    file = write_series(tmp_path, HEAD, AFFINE)[0]
    file.write_bytes(file.read_bytes().replace(b"-61.3", b"DOE^J"))
    data = bytearray(file.read_bytes())
    at = data.index(b"DS", data.index(b"\x20\x00\x32\x00"))
    data[at + 4 : at + 12] = b"DOE^JANE"
    file.write_bytes(data)
    _, broken = find_series(tmp_path)
    assert [path for path, _ in broken] == [file]
    assert "DOE" not in broken[0][1]


def test_only_broken_files_are_still_found(tmp_path: Path) -> None:
    (tmp_path / "a.dcm").write_bytes(b"")
    (found,) = discover([tmp_path])
    assert found.problem is not None
    assert "DICM" in found.problem


def test_a_single_slice_has_the_thickness_of_its_header(tmp_path: Path) -> None:
    write_series(tmp_path, HEAD[:, :, :1], AFFINE)
    volume = read_dicom_volume(only(tmp_path))
    assert volume.spacing_mm == pytest.approx((0.9, 1.1, 3.0))


@pytest.mark.real_data
def test_public_series_agrees_with_itk(real_data: Path) -> None:
    folder = real_data / "dicom" / "t1_structural"
    series = only(folder)
    volume = read_dicom_volume(series)
    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    theirs = reader.Execute()
    world = volume.affine @ [100, 200, 50, 1]
    x, y, z = theirs.TransformPhysicalPointToIndex([-world[0], -world[1], world[2]])
    assert volume.image.shape == (274, 384, 128)
    assert volume.image[100, 200, 50] == theirs[x, y, z]
    assert (series.sequence, series.anonymous) == ("T1", False)
