"""NIfTI in and out: what is read, what is refused and in which words, what is written.

Sources are written by nibabel, or byte by byte where nibabel would not write them.
"""

import gzip
import hashlib
import json
import struct
import tracemalloc
import zlib
from pathlib import Path

import nibabel as nib
import numpy as np
import numpy.typing as npt
import pytest

from mri_minority.core.errors import DataError
from mri_minority.volumes.nifti import read_labels, read_volume, write_nifti
from mri_minority.volumes.volume import Volume

AFFINE = np.diag([1.0, 1.5, 2.0, 1.0])
SHAPE = (6, 5, 4)
VALUES = np.arange(120, dtype=np.int16).reshape(SHAPE)


def save(
    path: Path,
    values: npt.NDArray[np.generic] = VALUES,
    affine: npt.NDArray[np.float64] = AFFINE,
    kind: type[nib.nifti1.Nifti1Image] = nib.nifti1.Nifti1Image,
) -> Path:
    kind(values, affine, dtype=values.dtype).to_filename(path)
    return path


def patched(path: Path, *changes: tuple[int, str, float]) -> Path:
    """An uncompressed file with header fields overwritten: offset, struct format, value."""
    data = bytearray(nib.nifti1.Nifti1Image(VALUES, AFFINE).to_bytes())
    for offset, kind, value in changes:
        struct.pack_into(f"<{kind}", data, offset, value)
    path.write_bytes(gzip.compress(bytes(data)) if path.name.endswith(".gz") else bytes(data))
    return path


def read(image: Path, label: Path | None = None) -> Volume:
    return read_volume(image, label, "subject", "series")


def refusal(image: Path, label: Path | None = None) -> str:
    """The message of the refusal: always one line that names the file."""
    with pytest.raises(DataError) as refused:
        read(image, label)
    message = str(refused.value)
    assert len(message.splitlines()) == 1
    assert message.startswith("expected ")
    assert any(file.name in message for file in (image, label) if file is not None)
    return message


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
@pytest.mark.parametrize("kind", [nib.nifti1.Nifti1Image, nib.nifti2.Nifti2Image])
@pytest.mark.parametrize("dtype", ["u1", "<i2", ">i2", "u2", "i4", "f4", ">f8"])
def test_reads_what_nibabel_wrote(tmp_path: Path, name: str, kind: type[nib.nifti1.Nifti1Image], dtype: str) -> None:
    picture = kind(VALUES.astype(dtype), AFFINE, kind.header_class(endianness=">" if dtype[0] == ">" else "<"))
    picture.set_data_dtype(np.dtype(dtype))
    picture.to_filename(tmp_path / name)
    volume = read(tmp_path / name)
    assert volume.image.dtype == np.float32
    assert np.array_equal(volume.image, VALUES)
    assert np.array_equal(volume.affine, AFFINE)
    assert volume.label is None
    assert (volume.subject, volume.series) == ("subject", "series")
    assert volume.sha256 == hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()


def test_what_a_file_is_called_does_not_matter(tmp_path: Path) -> None:
    save(tmp_path / "packed.nii.gz").rename(tmp_path / "not packed by name.nii")
    assert np.array_equal(read(tmp_path / "not packed by name.nii").image, VALUES)


def test_image_and_label_come_out_in_ras(tmp_path: Path) -> None:
    """Image stored LAS, label stored PSR: the same places in the world."""
    label = (VALUES % 5).astype(np.uint8)
    flip = np.array([[-1.0, 0, 0, 5], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    save(tmp_path / "image.nii", VALUES[::-1], AFFINE @ flip)
    psr = np.array([[0, 0, 1.0, 0], [-1, 0, 0, 4], [0, 1, 0, 0], [0, 0, 0, 1]])
    stored = np.transpose(label[:, ::-1], (1, 2, 0))
    save(tmp_path / "label.nii.gz", stored, AFFINE @ psr)
    volume = read(tmp_path / "image.nii", tmp_path / "label.nii.gz")
    assert np.array_equal(volume.image, VALUES)
    assert np.array_equal(volume.label, label)
    assert volume.label is not None
    assert volume.label.dtype == np.int32
    assert volume.affine == pytest.approx(AFFINE)


def test_slope_and_intercept_are_applied(tmp_path: Path) -> None:
    image = patched(tmp_path / "a.nii", (112, "f", 0.5), (116, "f", -10.0))
    assert np.array_equal(read(image).image, VALUES * 0.5 - 10)
    label = patched(tmp_path / "l.nii.gz", (112, "f", 2.0), (116, "f", 1.0))
    assert np.array_equal(read(image, label).label, VALUES.astype(np.int32) * 2 + 1)


def test_a_slope_of_zero_means_no_scaling(tmp_path: Path) -> None:
    assert np.array_equal(read(patched(tmp_path / "a.nii", (112, "f", 0.0), (116, "f", 7.0))).image, VALUES)


def test_minor_faults_of_a_header_are_mended_in_silence(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A handedness of 0 (many converters write it) means 1."""
    image = patched(tmp_path / "a.nii", (76, "f", 0.0), (252, "h", 1), (254, "h", 0))
    assert read(image).affine == pytest.approx(AFFINE)
    assert capfd.readouterr().err == ""


def test_half_of_a_pair_is_refused(tmp_path: Path) -> None:
    """The voxels of "ni1" lie in another file; without a magic it is Analyze, which does not say left from right."""
    for magic in (b"ni1\0", b"\0\0\0\0"):
        image = patched(tmp_path / "a.nii", (344, "i", int.from_bytes(magic, "little")))
        assert "no NIfTI header" in refusal(image)


def test_header_extensions_are_skipped(tmp_path: Path) -> None:
    picture = nib.nifti1.Nifti1Image(VALUES, AFFINE)
    picture.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"x" * 5000))
    picture.to_filename(tmp_path / "a.nii.gz")
    assert np.array_equal(read(tmp_path / "a.nii.gz").image, VALUES)


def test_two_dimensions_become_one_slice(tmp_path: Path) -> None:
    volume = read(save(tmp_path / "a.nii.gz", VALUES[:, :, 0]), save(tmp_path / "l.nii.gz", VALUES[:, :, 1]))
    assert np.array_equal(volume.image, VALUES[:, :, :1])
    assert np.array_equal(volume.label, VALUES[:, :, 1:2])


def test_one_volume_in_four_dimensions_is_read(tmp_path: Path) -> None:
    assert np.array_equal(read(save(tmp_path / "a.nii.gz", VALUES[..., None])).image, VALUES)


def test_several_volumes_are_refused(tmp_path: Path) -> None:
    message = refusal(save(tmp_path / "a.nii.gz", np.stack([VALUES, VALUES], axis=-1)))
    assert "(6, 5, 4, 2)" in message
    assert "extract one volume" in message


def test_vectors_are_refused(tmp_path: Path) -> None:
    assert "(6, 5, 4, 1, 3)" in refusal(save(tmp_path / "a.nii.gz", np.stack([VALUES[..., None]] * 3, axis=-1)))


def test_colours_and_complex_numbers_are_refused(tmp_path: Path) -> None:
    colours = np.zeros(SHAPE, dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    assert "found RGB" in refusal(save(tmp_path / "colours.nii.gz", colours))
    assert "found complex64" in refusal(save(tmp_path / "complex.nii.gz", VALUES.astype(np.complex64)))


def truncated(path: Path, length: int) -> Path:
    noise = np.random.default_rng(0).integers(0, 30000, (20, 20, 20)).astype(np.int16)
    data = save(path, noise).read_bytes()
    assert len(data) > 10000  # noise does not compress, so every length below cuts it short
    path.write_bytes(data[:length])
    return path


@pytest.mark.parametrize("length", [0, 1, 2, 3, 9, 10, 11, 18, 60, 200, 400, 5000, 10000, -20, -9, -8, -7, -4, -1])
def test_a_truncated_gzip_file_is_refused(tmp_path: Path, length: int) -> None:
    refusal(truncated(tmp_path / "a.nii.gz", length))


@pytest.mark.parametrize("length", [0, 1, 4, 100, 347, 348, 351, 352, 353, 5000, -1])
def test_a_truncated_file_is_refused(tmp_path: Path, length: int) -> None:
    refusal(truncated(tmp_path / "a.nii", length))


@pytest.mark.parametrize("at", [0.1, 0.5, 0.9])
def test_a_changed_byte_in_a_gzip_file_is_noticed(tmp_path: Path, at: float) -> None:
    """Stored without compression the voxels still unpack; only the check sum at the end tells."""
    raw = save(tmp_path / "a.nii").read_bytes()
    packed = bytearray(gzip.compress(raw, compresslevel=0, mtime=0))
    packed[int(400 + at * (len(packed) - 420))] ^= 1
    (tmp_path / "a.nii.gz").write_bytes(packed)
    assert "damaged" in refusal(tmp_path / "a.nii.gz")


@pytest.mark.parametrize(
    "data",
    [
        b"\x1f\x8b",
        b"\x1f\x8bgarbage" * 100,
        b"garbage" * 100,
        b"\0" * 1000,
        b"\xff" * 1000,
        gzip.compress(b"garbage" * 100, mtime=0),
        struct.pack("<i", 348) + b"\xff" * 1000,  # Analyze, or worse
        struct.pack("<i", 348) + b"\0" * 340 + b"ni1\0" + b"\0" * 1000,  # the header half of a pair
        struct.pack("<i", 348) + b"\xff" * 340 + b"n+1\0" + b"\0" * 1000,
        struct.pack("<i", 540) + b"n+2\0\r\n\x1a\n" + b"\xff" * 1000,
        zlib.compress(b"garbage" * 100),
    ],
)
@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_garbage_is_refused(tmp_path: Path, data: bytes, name: str) -> None:
    (tmp_path / name).write_bytes(data)
    refusal(tmp_path / name)


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "folder.nii.gz").mkdir()
    assert "found none" in refusal(tmp_path / "folder.nii.gz")
    assert "found none" in refusal(tmp_path / "missing.nii.gz")


def test_a_name_of_two_lines_stays_on_one(tmp_path: Path) -> None:
    (tmp_path / "a\nb.nii.gz").write_bytes(b"garbage")
    with pytest.raises(DataError, match=r"'a\\nb\.nii\.gz'") as refused:
        read(tmp_path / "a\nb.nii.gz")
    assert len(str(refused.value).splitlines()) == 1


def refused_without_memory(image: Path, most_bytes: int = 4 * 1024**2) -> str:
    tracemalloc.start()
    try:
        message = refusal(image)
        assert tracemalloc.get_traced_memory()[1] < most_bytes
    finally:
        tracemalloc.stop()
    return message


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
@pytest.mark.parametrize(
    ("side", "words"),
    [(32767, "claims (32767, 32767, 32767)"), (364, "claims (364, 364, 364)"), (363, "too small")],
)
def test_a_header_that_claims_too_much_costs_no_memory(tmp_path: Path, name: str, side: int, words: str) -> None:
    image = patched(tmp_path / name, (42, "h", side), (44, "h", side), (46, "h", side))
    assert words in refused_without_memory(image)


def test_a_gzip_bomb_costs_no_memory(tmp_path: Path) -> None:
    """A small file whose voxels are followed by, or begin after, a great many zeros."""
    raw = nib.nifti1.Nifti1Image(VALUES, AFFINE).to_bytes()
    packer = zlib.compressobj(9, wbits=31)
    zeros = bytes(1024**2)
    bomb = packer.compress(raw) + b"".join(packer.compress(zeros) for _ in range(70)) + packer.flush()
    (tmp_path / "after.nii.gz").write_bytes(bomb)
    assert "bytes more" in refused_without_memory(tmp_path / "after.nii.gz")
    assert "byte 536870912" in refused_without_memory(patched(tmp_path / "before.nii.gz", (108, "f", 2.0**29)))


def test_a_bomb_of_one_value_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    """48 million voxels of nothing in 47 kB: all there, and no picture of a head."""
    packer = zlib.compressobj(9, wbits=31)
    header = bytearray(nib.nifti1.Nifti1Image(np.zeros((1, 1, 1), np.uint8), AFFINE).to_bytes()[:352])
    for n in range(3):
        struct.pack_into("<h", header, 42 + 2 * n, 363)
    zeros = bytes(363 * 363)
    bomb = packer.compress(bytes(header)) + b"".join(packer.compress(zeros) for _ in range(363)) + packer.flush()
    (tmp_path / "a.nii.gz").write_bytes(bomb)
    assert "cannot hold them" in refused_without_memory(tmp_path / "a.nii.gz")


@pytest.mark.parametrize(("slope", "intercept"), [(2.0, np.nan), (2.0, np.inf)])
def test_a_scaling_that_is_no_number_is_refused(tmp_path: Path, slope: float, intercept: float) -> None:
    assert "damaged" in refusal(patched(tmp_path / "a.nii", (112, "f", slope), (116, "f", intercept)))


def test_a_value_beyond_any_scanner_counts_as_not_finite(tmp_path: Path) -> None:
    image = read(with_bad(tmp_path / "a.nii.gz", 9, 1e30)).image
    assert (image == 0).sum() == 9


@pytest.mark.parametrize("side", [0, -3])
def test_a_header_without_voxels_is_refused(tmp_path: Path, side: int) -> None:
    assert f"(6, {side}, 4)" in refusal(patched(tmp_path / "a.nii", (44, "h", side)))


BY_SFORM = ((254, "h", 1), (252, "h", 0))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ([*BY_SFORM, (280, "f", np.nan)], "invertible"),
        ([*BY_SFORM, (292, "f", np.inf)], "invertible"),
        ([*BY_SFORM, (280, "f", 0.0)], "invertible"),
        ([*BY_SFORM, (280, "f", 1e30)], "invertible"),
        ([*BY_SFORM, (280, "f", 1.0), (300, "f", 0.0), (296, "f", 1.0)], "invertible"),
        ([*BY_SFORM, (280, "f", 1e-3)], "check the units"),
        ([*BY_SFORM, (280, "f", 101.0)], "check the units"),
    ],
)
def test_an_affine_that_is_no_geometry_is_refused(
    tmp_path: Path, changes: list[tuple[int, str, float]], words: str
) -> None:
    assert words in refusal(patched(tmp_path / "a.nii", *changes))


def test_a_field_of_view_beyond_any_scanner_is_refused(tmp_path: Path) -> None:
    image = save(tmp_path / "a.nii.gz", np.zeros((30, 2, 2), np.uint8), np.diag([80.0, 1, 1, 1]))
    assert "at most 2000 mm across" in refusal(image)


def with_bad(path: Path, count: int, value: float) -> Path:
    values = np.ones((10, 10, 10), np.float64)
    values.ravel()[:count] = value
    return save(path, values)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e300])
def test_a_few_values_that_are_not_finite_become_zero(tmp_path: Path, value: float) -> None:
    image = read(with_bad(tmp_path / "a.nii.gz", 9, value)).image
    assert (image == 0).sum() == 9
    assert (image == 1).sum() == 991


@pytest.mark.parametrize("value", [np.nan, -np.inf, 1e300])
def test_many_values_that_are_not_finite_are_refused(tmp_path: Path, value: float) -> None:
    assert "1.0% NaN or infinite" in refusal(with_bad(tmp_path / "a.nii.gz", 10, value))


def test_a_label_of_another_shape_is_refused(tmp_path: Path) -> None:
    message = refusal(save(tmp_path / "a.nii.gz"), save(tmp_path / "l.nii.gz", VALUES[:, :, :3]))
    assert "(6, 5, 3) in l.nii.gz and (6, 5, 4) in the image" in message


@pytest.mark.parametrize(("change", "fits"), [(0.0009, True), (0.0011, False), (-3.0, False)])
def test_a_label_that_is_shifted_is_refused(tmp_path: Path, change: float, fits: bool) -> None:
    moved = AFFINE.copy()
    moved[1, 3] += change
    image, label = save(tmp_path / "a.nii.gz"), save(tmp_path / "l.nii.gz", affine=moved)
    if fits:
        assert np.array_equal(read(image, label).label, VALUES)
    else:
        assert f"up to {abs(change):.3g} mm off a.nii.gz" in refusal(image, label)


def test_a_label_of_another_spacing_is_measured_at_the_corners(tmp_path: Path) -> None:
    """0.0003 mm a voxel passes next to the origin, and is 0.0015 mm at the sixth."""
    image = save(tmp_path / "a.nii.gz")
    label = save(tmp_path / "l.nii.gz", affine=np.diag([1.0003, 1.5, 2, 1]))
    assert "up to 0.0015 mm off" in refusal(image, label)


@pytest.mark.parametrize("value", [0.5, np.nan, np.inf, 2.0**31])
def test_a_label_that_is_not_of_whole_numbers_is_refused(tmp_path: Path, value: float) -> None:
    values = VALUES.astype(np.float64)
    values[1, 2, 3] = value
    message = refusal(save(tmp_path / "a.nii.gz"), save(tmp_path / "l.nii.gz", values))
    assert "whole numbers in the label map l.nii.gz" in message
    assert f"found {value:g}" in message


def test_large_label_values_are_exact(tmp_path: Path) -> None:
    """Above 2^24 a float32 would round them."""
    values = VALUES.astype(np.int32) + 2**30 + 1
    assert np.array_equal(read(save(tmp_path / "a.nii"), save(tmp_path / "l.nii", values)).label, values)


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("image", "label", "spacing_mm"),
    [
        ("ixi/images/IXI175-HH-1570_T1", "ixi/labels/IXI175-HH-1570_DLMUSE", (2.0, 2.0, 2.0)),
        ("lgg/images/TCGA_CS_4941_19960909_FLAIR", "lgg/labels/TCGA_CS_4941_19960909_lesion", (1.875, 1.875, 5.0)),
    ],
)
def test_public_data_agree_with_nibabel(
    real_data: Path, image: str, label: str, spacing_mm: tuple[float, float, float]
) -> None:
    files = [real_data / f"{name}.nii.gz" for name in (image, label)]
    volume = read(*files)
    theirs = [nib.funcs.as_closest_canonical(nib.nifti1.load(file)) for file in files]
    assert np.array_equal(volume.image, theirs[0].get_fdata(dtype=np.float32))
    assert np.array_equal(volume.label, np.asarray(theirs[1].dataobj))
    assert volume.affine == pytest.approx(theirs[0].affine, abs=1e-6)
    assert volume.spacing_mm == pytest.approx(spacing_mm)


IMAGE = np.linspace(0, 3, 12, dtype=np.float32).reshape(4, 3, 1)


def test_what_is_written(tmp_path: Path) -> None:
    affine = np.array([[0, 0, 2.0, 3], [-1, 0, 0, 4], [0, 1.5, 0, 5], [0, 0, 0, 1]])
    path = tmp_path / "new" / "a.nii.gz"
    write_nifti(path, IMAGE, affine, "SYNTHETIC test", {"seed": 3, "name": "hübsch"})
    picture = nib.nifti1.load(path)
    header = picture.header
    assert picture.shape == (4, 3, 1)
    assert header.get_data_dtype() == np.float32
    assert np.array_equal(np.asarray(picture.dataobj), IMAGE)
    assert (int(header["sform_code"]), int(header["qform_code"])) == (1, 1)
    assert header.get_sform() == pytest.approx(affine)
    assert header.get_qform() == pytest.approx(affine, abs=1e-5)
    assert header.get_xyzt_units()[0] == "mm"
    assert header["descrip"].item() == b"SYNTHETIC test"
    assert [extension.get_code() for extension in header.extensions] == [6]
    stored = header.extensions[0].get_content()
    text = stored if isinstance(stored, bytes) else stored.encode()
    assert json.loads(text.rstrip(b"\0")) == {"seed": 3, "name": "hübsch"}


def test_labels_stay_bytes(tmp_path: Path) -> None:
    write_nifti(tmp_path / "l.nii.gz", np.array([[[0, 255, 7]]], np.uint8), AFFINE, "x", None)
    picture = nib.nifti1.load(tmp_path / "l.nii.gz")
    assert picture.get_data_dtype() == np.uint8
    assert np.asarray(picture.dataobj).tolist() == [[[0, 255, 7]]]
    assert not picture.header.extensions


def test_the_same_arguments_give_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_nifti(tmp_path / "a.nii.gz", IMAGE, AFFINE, "x", {"b": 1, "a": [2.5, None]})
    monkeypatch.setattr("time.time", lambda: 2_000_000_000.0)
    write_nifti(tmp_path / "another name.nii.gz", IMAGE.copy(order="F"), AFFINE.copy(), "x", {"a": [2.5, None], "b": 1})
    data = (tmp_path / "a.nii.gz").read_bytes()
    assert data == (tmp_path / "another name.nii.gz").read_bytes()
    assert data[:4] == b"\x1f\x8b\x08\x00"  # no file name in it
    assert data[4:8] == b"\0\0\0\0"  # no time in it


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    write_nifti(tmp_path / "a.nii.gz", IMAGE, AFFINE, "x" * 79)
    volume = read(tmp_path / "a.nii.gz")
    assert np.array_equal(volume.image, IMAGE)
    assert volume.affine == pytest.approx(AFFINE)


@pytest.mark.parametrize(
    ("array", "affine", "description", "trace", "words"),
    [
        (IMAGE[:, :, 0], AFFINE, "x", None, r"found float32 \(4, 3\)"),
        (IMAGE[:0], AFFINE, "x", None, r"found float32 \(0, 3, 1\)"),
        (IMAGE.astype(np.float64), AFFINE, "x", None, "found float64"),
        (IMAGE.astype(np.int16), AFFINE, "x", None, "found int16"),
        (IMAGE * np.float32(np.nan), AFFINE, "x", None, "finite intensities"),
        (IMAGE, AFFINE * np.nan, "x", None, "invertible affine"),
        (IMAGE, np.diag([1.0, 1, 0, 1]), "x", None, "invertible affine"),
        (IMAGE, np.eye(3), "x", None, "invertible affine"),
        (IMAGE, AFFINE, "x" * 80, None, "at most 79 ASCII"),
        (IMAGE, AFFINE, "naïve", None, "at most 79 ASCII"),
        (IMAGE, AFFINE, "two\nlines", None, "at most 79 ASCII"),
        (IMAGE, AFFINE, "x", {"score": float("nan")}, "JSON"),
        (IMAGE, AFFINE, "x", {"score": np.float32(1)}, "JSON"),
    ],
)
def test_what_cannot_be_written(
    tmp_path: Path,
    array: npt.NDArray[np.generic],
    affine: npt.NDArray[np.float64],
    description: str,
    trace: dict[str, object] | None,
    words: str,
) -> None:
    with pytest.raises(DataError, match=words):
        write_nifti(tmp_path / "a.nii.gz", array, affine, description, trace)
    assert not list(tmp_path.iterdir())


@pytest.mark.filterwarnings("error")
def test_a_signalling_nan_in_the_sform_is_refused_in_silence(tmp_path: Path) -> None:
    save(tmp_path / "a.nii")
    data = bytearray((tmp_path / "a.nii").read_bytes())
    data[280:284] = b"\x01\x00\xa0\x7f"  # srow_x[0]
    (tmp_path / "a.nii").write_bytes(data)
    assert "invertible affine" in refusal(tmp_path / "a.nii")


def test_a_large_map_of_a_few_lesions_is_read(tmp_path: Path) -> None:
    """It packs more than a hundredfold, which no image does."""
    values = np.zeros((512, 512, 160), np.uint8)
    values[200:210, 200:210, 80:90] = 1
    nib.nifti1.Nifti1Image(values, np.diag([0.5, 0.5, 1.0, 1.0])).to_filename(tmp_path / "lesions.nii.gz")
    assert (tmp_path / "lesions.nii.gz").stat().st_size * 100 < values.nbytes
    found = read_labels(tmp_path / "lesions.nii.gz")
    assert found.label is not None
    assert int(found.label.sum()) == int(found.image.sum()) == 1000
