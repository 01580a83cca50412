"""Exported slices, the data set around them, and the way files are put in place."""

import hashlib
import json
import os
import re
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
import pytest
import SimpleITK

from mri_minority import __version__
from mri_minority.core.errors import DataError
from mri_minority.export.dataset import (
    DataCard,
    of_whom,
    read_manifest,
    verify_dataset,
    write_data_card,
    write_manifest,
)
from mri_minority.export.nifti import DESCRIPTION, SliceFiles, export_slice
from mri_minority.volumes.atomic import (
    sha256_of,
    write_atomic,
    write_bytes_atomic,
    write_json_atomic,
    write_text_atomic,
)
from mri_minority.volumes.geometry import plane_affine
from mri_minority.volumes.nifti import write_nifti

IMAGE = np.random.default_rng(3).normal(100, 20, (1, 7, 5)).astype(np.float32)
LABEL = np.random.default_rng(4).integers(0, 4, (7, 5)).astype(np.uint8)
AXIAL = np.array([[2.0, 0, 0, -10], [0, 2, 0, -20], [0, 0, 5, 30], [0, 0, 0, 1]])
SAGITTAL = plane_affine(np.diag([0.5, 0.9, 1.2, 1.0]), 0, 4)
TRACE: dict[str, Any] = {"seed": 7, "item": 3, "levels": [2, 3]}
CARD = DataCard(2, ("ventricle", "other"), "method minority", "quickstart", 12, "Passed: 0 copies among 2.")


def same_trace(path: Path) -> dict[str, Any]:
    """The trace as SimpleITK and nibabel both find it in a file."""
    extension = nib.nifti1.load(path).header.extensions[0]
    assert extension.get_code() == 6
    stored = extension.get_content()
    text = (stored.decode("ascii") if isinstance(stored, bytes) else stored).rstrip("\0")
    trace: dict[str, Any] = json.loads(text)
    return trace


def test_files_of_a_slice(tmp_path: Path) -> None:
    row = export_slice(tmp_path, "synth_00003", IMAGE, LABEL, AXIAL, TRACE)
    assert row["image"] == "images/synth_00003.nii.gz"
    assert row["label"] == "labels/synth_00003.nii.gz"
    assert row["image_sha256"] == hashlib.sha256((tmp_path / row["image"]).read_bytes()).hexdigest()
    assert row["label_sha256"] == hashlib.sha256((tmp_path / row["label"]).read_bytes()).hexdigest()
    for file, values, dtype in ((row["image"], IMAGE[0], np.float32), (row["label"], LABEL, np.uint8)):
        picture = nib.nifti1.load(tmp_path / file)
        assert picture.get_data_dtype() == dtype
        assert np.array_equal(np.asarray(picture.dataobj), values[:, :, None])
        assert picture.header["descrip"].item().decode() == DESCRIPTION == f"SYNTHETIC mri-minority {__version__}"
        assert picture.affine == pytest.approx(AXIAL)
        assert same_trace(tmp_path / file) == {**TRACE, "true_thickness_mm": 5.0} == row["trace"]
    assert row["affine"] == AXIAL.tolist()
    assert row["true_thickness_mm"] == 5.0


def test_simpleitk_reads_a_slice(tmp_path: Path) -> None:
    """Cut sagittally too: a plain 2-D file could not be read there."""
    row = export_slice(tmp_path, "slice", IMAGE, LABEL, SAGITTAL, TRACE)
    picture = SimpleITK.ReadImage(str(tmp_path / row["image"]))
    assert picture.GetSize() == (7, 5, 1)
    assert picture.GetPixelIDValue() == SimpleITK.sitkFloat32
    assert np.array_equal(SimpleITK.GetArrayFromImage(picture)[0].T, IMAGE[0])
    assert picture.GetSpacing() == pytest.approx((0.9, 1.2, 1.2))
    assert picture.GetMetaData("descrip") == DESCRIPTION


def test_without_a_label(tmp_path: Path) -> None:
    row = export_slice(tmp_path, "slice", IMAGE, None, AXIAL, TRACE)
    assert (row["label"], row["label_sha256"]) == (None, None)
    assert [p.name for p in tmp_path.iterdir()] == ["images"]


def test_a_thin_slice_is_lifted_and_says_so(tmp_path: Path) -> None:
    row = export_slice(tmp_path, "slice", IMAGE, LABEL, SAGITTAL, TRACE)
    assert nib.nifti1.load(tmp_path / row["image"]).header.get_zooms() == pytest.approx((0.9, 1.2, 1.2))
    assert row["true_thickness_mm"] == same_trace(tmp_path / row["image"])["true_thickness_mm"] == 0.5
    assert "true_thickness_mm" not in TRACE


def test_a_leaning_third_axis_is_made_the_normal(tmp_path: Path) -> None:
    """A tilted gantry: the planes are 5 mm apart, however far the axis leans."""
    leaning = AXIAL.copy()
    leaning[:3, 2] = 0, 1.5, 5
    row = export_slice(tmp_path, "slice", IMAGE, LABEL, leaning, TRACE)
    assert np.array(row["affine"]) == pytest.approx(AXIAL)
    assert row["true_thickness_mm"] == 5.0


def test_the_same_slice_gives_the_same_bytes(tmp_path: Path) -> None:
    rows = [export_slice(tmp_path / n, "slice", IMAGE, LABEL, SAGITTAL, dict(TRACE)) for n in ("once", "again")]
    assert rows[0] == rows[1]
    for kind in ("images", "labels"):
        one, two = ((tmp_path / n / kind / "slice.nii.gz").read_bytes() for n in ("once", "again"))
        assert one == two


def test_channels_are_files_of_their_own(tmp_path: Path) -> None:
    """Numbered as nnU-Net does; the label map is one."""
    image = np.concatenate([IMAGE, IMAGE + 50])
    row = export_slice(tmp_path, "slice", image, LABEL, AXIAL, TRACE)
    assert row["image"] == ["images/slice_0000.nii.gz", "images/slice_0001.nii.gz"]
    assert row["label"] == "labels/slice.nii.gz"
    for name, sha256, plane in zip(row["image"], row["image_sha256"], image, strict=True):
        assert sha256_of(tmp_path / name) == sha256
        assert np.array_equal(np.asarray(nib.nifti1.load(tmp_path / name).dataobj)[:, :, 0], plane)
    save_manifest(tmp_path, [row])
    assert verify_dataset(tmp_path) == []
    (tmp_path / row["image"][1]).unlink()
    assert verify_dataset(tmp_path) == ["images/slice_0001.nii.gz is missing"]


@pytest.mark.parametrize("name", ["", ".hidden", "../up", "a/b", "a\\b", "a\nb", "a:b", "x" * 201, "é" * 101])
def test_a_name_that_is_no_file_name(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match="plain file name"):
        export_slice(tmp_path / "set", name, IMAGE, LABEL, AXIAL, TRACE)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("image", "label", "affine", "words"),
    [
        (IMAGE[0], None, AXIAL, r"float32 image \(I, H, W\) for slice, found float32 \(7, 5\)"),
        (IMAGE, LABEL[:6], AXIAL, r"label map \(7, 5\) for slice, found uint8 \(6, 5\)"),
        (IMAGE * np.float32(np.inf), None, AXIAL, "finite"),
        (IMAGE, LABEL, np.diag([1.0, 1, 0, 1]), "a plane and its normal"),
        (IMAGE, LABEL, np.diag([1.0, 0, 1, 1]), "a plane and its normal"),
        (IMAGE, LABEL, AXIAL * np.nan, "a plane and its normal"),
    ],
)
def test_a_slice_that_cannot_be_written(
    tmp_path: Path,
    image: npt.NDArray[np.float32],
    label: npt.NDArray[np.uint8] | None,
    affine: npt.NDArray[np.float64],
    words: str,
) -> None:
    with pytest.raises(DataError, match=words):
        export_slice(tmp_path / "set", "slice", image, label, affine, TRACE)
    assert not list(tmp_path.iterdir())


def data_set(folder: Path) -> list[SliceFiles]:
    rows = [
        export_slice(folder, "synth_00000", IMAGE, LABEL, AXIAL, TRACE),
        export_slice(folder, "synth_00001", IMAGE + 1, None, SAGITTAL, TRACE),
    ]
    save_manifest(folder, rows)
    write_data_card(folder, CARD)
    return rows


def save_manifest(folder: Path, rows: list[SliceFiles]) -> None:
    write_manifest(folder, {"synthetic": True, "seed": 7}, [dict(row) for row in rows])


def test_a_data_set_is_what_its_manifest_says(tmp_path: Path) -> None:
    rows = data_set(tmp_path)
    assert verify_dataset(tmp_path) == []
    manifest = read_manifest(tmp_path)
    assert manifest["slices"] == rows
    assert (manifest["seed"], manifest["synthetic"]) == (7, True)


def test_the_data_card_says_what_a_reader_must_know(tmp_path: Path) -> None:
    write_data_card(tmp_path, CARD)
    text = (tmp_path / "README.md").read_text(encoding="utf-8")
    for words in ("2 slices", "- 1: ventricle", "- 2: other", "12 subjects", CARD.audit, CARD.how, "quickstart"):
        assert words in text
    for heading in ("Intended use", "Out of scope", "Licence", "Copy audit"):
        assert f"## {heading}\n" in text
    assert re.search(r"Diagnosis; validation or testing", text)


def test_every_change_is_noticed(tmp_path: Path) -> None:
    rows = data_set(tmp_path)
    image = tmp_path / rows[0]["image"]
    data = bytearray(image.read_bytes())
    data[-1] ^= 1
    image.write_bytes(data)
    (tmp_path / "labels" / "synth_00000.nii.gz").unlink()
    write_nifti(tmp_path / "images" / "more.nii.gz", IMAGE[0][:, :, None], AXIAL, DESCRIPTION)
    (tmp_path / "notes.txt").touch()
    assert verify_dataset(tmp_path) == [
        "images/synth_00000.nii.gz has changed since it was written",
        "labels/synth_00000.nii.gz is missing",
        "images/more.nii.gz is not in the manifest",
        "notes.txt is not in the manifest",
    ]


@pytest.mark.parametrize(
    ("array", "affine", "description", "sentence"),
    [
        (IMAGE[0][:, :, None].repeat(2, axis=2), AXIAL, DESCRIPTION, "is not (H, W, 1)"),
        (LABEL[:, :, None], AXIAL, DESCRIPTION, "has the wrong data type"),
        (IMAGE[0][:, :, None], AXIAL, "T1 of a person", "is not marked synthetic"),
        (IMAGE[0][:, :, None], AXIAL @ np.diag([1, 1, 0.3, 1]), DESCRIPTION, "is thinner than its pixels are wide"),
        (IMAGE[0][:, :, None], AXIAL @ np.diag([1, 1.01, 1, 1]), DESCRIPTION, "lies elsewhere than the manifest says"),
    ],
)
def test_a_wrong_format_is_noticed_when_the_hash_is_right(
    tmp_path: Path,
    array: npt.NDArray[np.generic],
    affine: npt.NDArray[np.float64],
    description: str,
    sentence: str,
) -> None:
    rows = data_set(tmp_path)
    write_nifti(tmp_path / rows[0]["image"], array, affine, description)
    rows[0]["image_sha256"] = sha256_of(tmp_path / rows[0]["image"])
    save_manifest(tmp_path, rows)
    assert f"{rows[0]['image']}: {sentence}" in verify_dataset(tmp_path)


def test_what_is_no_data_set(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"manifest\.json"):
        verify_dataset(tmp_path)
    (tmp_path / "manifest.json").write_text("{", encoding="utf-8")
    with pytest.raises(DataError, match="damaged"):
        verify_dataset(tmp_path)


def test_json_bytes(tmp_path: Path) -> None:
    write_json_atomic(tmp_path / "a" / "b.json", {"b": [1, None], "a": "é"})
    assert (tmp_path / "a" / "b.json").read_bytes() == '{\n  "a": "é",\n  "b": [\n    1,\n    null\n  ]\n}\n'.encode()


def test_text_bytes(tmp_path: Path) -> None:
    """Line feeds stay line feeds on every system."""
    write_text_atomic(tmp_path / "a.txt", "é\n\r\n")
    assert (tmp_path / "a.txt").read_bytes() == b"\xc3\xa9\n\r\n"


def test_hash(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc" * 100_000)
    assert sha256_of(tmp_path / "a") == hashlib.sha256(b"abc" * 100_000).hexdigest()
    with pytest.raises(DataError, match="No such file"):
        sha256_of(tmp_path / "missing")


def test_a_writer_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    def fail(temporary: Path) -> None:
        assert temporary.parent == tmp_path  # the same file system, so the rename is one step
        assert temporary.name.startswith(".")
        temporary.write_bytes(b"half of it")
        raise KeyboardInterrupt

    write_bytes_atomic(tmp_path / "a.bin", b"old")
    with pytest.raises(KeyboardInterrupt):
        write_atomic(tmp_path / "a.bin", fail)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == {"a.bin": b"old"}


def test_bytes_are_on_the_disk_before_the_rename(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[tuple[str, int]] = []
    sync, replace = os.fsync, os.replace

    def note_sync(handle: int) -> None:
        steps.append(("fsync", os.fstat(handle).st_size))
        sync(handle)

    def note_replace(source: Path, target: Path) -> None:
        steps.append(("replace", source.stat().st_size))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", note_sync)
    monkeypatch.setattr(os, "replace", note_replace)
    write_bytes_atomic(tmp_path / "a.bin", b"12345")
    assert steps == [("fsync", 5), ("replace", 5)]


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(DataError, match=r"write .*slice\.nii\.gz, found: .*; check the folder") as refused:
        export_slice(tmp_path / "file", "slice", IMAGE, LABEL, AXIAL, TRACE)
    assert len(str(refused.value).splitlines()) == 1


@pytest.mark.parametrize("step", ["open", "fsync", "replace"])
def test_a_disk_that_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    """Stands in for a read-only folder and a full disk, which the superuser (a container's user) cannot make."""

    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    write_bytes_atomic(tmp_path / "a.bin", b"old")
    with monkeypatch.context() as context:
        context.setattr(os, step, refuse)
        with pytest.raises(DataError, match="No space left on device"):
            write_bytes_atomic(tmp_path / "a.bin", b"new")
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == {"a.bin": b"old"}


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="the superuser may write anywhere")
def test_a_read_only_folder(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(DataError, match="Permission denied"):
            export_slice(tmp_path, "slice", IMAGE, LABEL, AXIAL, TRACE)
    finally:
        tmp_path.chmod(0o700)


@pytest.mark.skipif(os.name == "nt", reason="permission bits of POSIX")
@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_the_umask_is_kept(tmp_path: Path, umask: int, mode: int) -> None:
    before = os.umask(umask)
    try:
        write_bytes_atomic(tmp_path / "a.bin", b"x")
    finally:
        os.umask(before)
    assert (tmp_path / "a.bin").stat().st_mode & 0o777 == mode


def test_a_card_says_whose_the_label_maps_are() -> None:
    """Drawn maps are nobody's, given ones may be; a manifest of another program need not say."""
    drawn, given = {"trace": {"label_from": "drawn"}}, {"trace": {"label_from": "training map"}}
    assert "None is of a person" in of_whom([{}, {"trace": {}}, drawn])
    assert "The label maps were not" in of_whom([drawn, given])
    assert "None is of a person" in of_whom([drawn, {**given, "synthetic": False}])
