"""Places and names that go wrong: each ends in a quarantine row or one line, and leaves nothing half-written."""

import gzip
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from typer.testing import CliRunner, Result

from mri_minority.slices.store import SliceStore
from mri_minority_cli.app import app
from tests.support.dicoms import head, write_series

AFFINE = np.diag([4.0, 4.0, 4.0, 1.0])
RECIPE = """
name: odd
about: for tests
prepare: {spacing_mm: [4, 4, 4], size: [32, 32], heights: [0.2, 0.8], strata: 1, labels: {egg: [1]}}
"""


def lab(folder: Path, names: list[str]) -> Path:
    """Images with label maps under the given names."""
    for kind in ("images", "labels"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names):
        values = head((24, 28, 20)) + number
        nib.nifti1.Nifti1Image(values, AFFINE).to_filename(folder / "images" / f"{name}_T1.nii.gz")
        label = (values > 100).astype(np.uint8)
        nib.nifti1.Nifti1Image(label, AFFINE).to_filename(folder / "labels" / f"{name}_seg.nii.gz")
    return folder


def prepare(source: Path, out: Path, *more: str) -> Result:
    recipe = out.parent / "odd.yaml"
    recipe.write_text(RECIPE, encoding="utf-8")
    return CliRunner().invoke(app, ["prepare", str(source), "--out", str(out), "--recipe", str(recipe), *more])


def refused_in_one_line(result: Result) -> str:
    assert result.exit_code == 3, result.output
    lines = [line for line in result.stderr.splitlines() if not line.startswith("prepare:")]
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    return lines[0]


ODD = ["two words", "it's", 'said "no"', "line\nbreak", "tab\tbed", "Ünï cödé 脳", "100%s", "[a]*", "$(date)", "-rf"]


@pytest.mark.parametrize("workers", ["1", "3"])
def test_odd_names_go_in_and_bad_files_come_out_by_name(tmp_path: Path, workers: str) -> None:
    """All ten subjects are in the store; each kind of bad file is a row of the quarantine, whole and on one line."""
    source = lab(tmp_path / 'it\'s a\n"lab" ü', [*ODD, "shape", "empty", "nan", "flat", "cut", "bomb", "text", "shift"])
    images, labels = source / "images", source / "labels"

    def save(values: np.ndarray, path: Path, affine: np.ndarray = AFFINE) -> None:
        nib.nifti1.Nifti1Image(values, affine).to_filename(path)

    save(np.ones((24, 28, 19), np.uint8), labels / "shape_seg.nii.gz")
    save(np.zeros((24, 28, 20), np.uint8), labels / "empty_seg.nii.gz")
    save(np.full((24, 28, 20), np.nan, np.float32), images / "nan_T1.nii.gz")
    save(np.zeros((24, 28, 20), np.float32), images / "flat_T1.nii.gz")
    file = images / "cut_T1.nii.gz"
    file.write_bytes(file.read_bytes()[:-20])
    claims = bytearray(gzip.decompress((images / "bomb_T1.nii.gz").read_bytes()))
    claims[42:48] = b"\xff\x7f" * 3
    (images / "bomb_T1.nii.gz").write_bytes(gzip.compress(bytes(claims)))
    (images / "text_T1.nii.gz").write_text("hello", encoding="utf-8")
    moved = AFFINE.copy()
    moved[0, 3] += 1
    save(np.ones((24, 28, 20), np.uint8), labels / "shift_seg.nii.gz", moved)
    result = prepare(source, tmp_path / "my store", "--workers", workers)
    assert result.exit_code == 0, result.output
    store = SliceStore(tmp_path / "my store")
    assert {row.subject for row in store.rows} == set(ODD)
    lines = (tmp_path / "my store" / "quarantine.tsv").read_text(encoding="utf-8").split("\n")
    reasons = {line.split("\t")[0].rsplit("/", 1)[1].split("_")[0]: line.split("\t")[1] for line in lines[1:-1]}
    for name, words in {
        "shape": "one shape",
        "empty": "found only [0]",
        "nan": "NaN",
        "flat": "positive intensities",
        "cut": "damaged",
        "bomb": "claims (32767, 32767, 32767)",
        "text": "no NIfTI header",
        "shift": "mm off",
    }.items():
        assert words in reasons.pop(name)
    assert reasons == {}


def test_any_number_of_workers_gives_the_same_store(tmp_path: Path) -> None:
    source = lab(tmp_path / "lab", [f"p{n}" for n in range(7)])
    stores = []
    for workers in ("1", "4"):
        assert prepare(source, tmp_path / workers, "--workers", workers).exit_code == 0
        files = [p for p in (tmp_path / workers).rglob("*") if p.is_file()]
        stores.append({p.relative_to(tmp_path / workers): p.read_bytes() for p in files})
    assert stores[0] == stores[1]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written_to(tmp_path: Path) -> None:
    source = lab(tmp_path / "lab", ["a", "b"])
    closed = tmp_path / "closed"
    closed.mkdir()
    (tmp_path / "odd.yaml").write_text(RECIPE, encoding="utf-8")
    closed.chmod(0o555)
    words = ["prepare", str(source), "--out", str(closed / "store"), "--recipe", str(tmp_path / "odd.yaml")]
    assert "ermission" in refused_in_one_line(CliRunner().invoke(app, words))
    closed.chmod(0o755)


def test_a_file_where_the_store_should_go(tmp_path: Path) -> None:
    source = lab(tmp_path / "lab", ["a", "b"])
    (tmp_path / "taken").write_text("mine", encoding="utf-8")
    assert "something else" in refused_in_one_line(prepare(source, tmp_path / "taken"))
    assert (tmp_path / "taken").read_text() == "mine"


@pytest.mark.skipif(sys.platform != "linux", reason="limits the size of files")
@pytest.mark.parametrize("most_bytes", [64, 100, 2000, 20_000])
def test_a_full_disk_is_one_line_and_no_store(tmp_path: Path, most_bytes: int) -> None:
    """No file may grow beyond a limit: what the system says then is what it says when a disk is full."""
    source = lab(tmp_path / "lab", ["a", "b", "c"])
    (tmp_path / "odd.yaml").write_text(RECIPE, encoding="utf-8")
    words = [sys.executable, "-m", "mri_minority_cli", "prepare", "lab", "--out", "store", "--recipe", "odd.yaml"]
    result = subprocess.run(
        words,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes)),
    )
    if result.returncode == 0:
        assert most_bytes == 20_000
        return
    assert result.returncode == 3, result.stderr
    assert "Traceback" not in result.stderr
    lines = [line for line in result.stderr.splitlines() if not line.startswith("prepare:")]
    assert [line.startswith("error: ") for line in lines] == [True]
    assert not (tmp_path / "store").exists()
    again = prepare(source, tmp_path / "store")
    assert again.exit_code == 0, again.output
    assert SliceStore(tmp_path / "store").header["volumes"] == 3


def test_a_dicom_folder_with_everything_wrong(tmp_path: Path) -> None:
    """One good series among bad ones: the good one goes in, every other is a row."""
    recipe = RECIPE.replace("labels: {egg: [1]}", "foreground: head")
    (tmp_path / "odd.yaml").write_text(recipe, encoding="utf-8")
    source = tmp_path / "clinic"
    for name in ("good", "gap", "twice", "cut"):
        files = write_series(source / name, head((24, 28, 20)), AFFINE, uid=name, patient=name)
        if name == "gap":
            files[7].unlink()
        elif name == "twice":
            shutil.copy(files[3], source / name / "copy.dcm")
        elif name == "cut":
            files[9].write_bytes(files[9].read_bytes()[:-100])
    (source / "notes.txt").write_text("hello", encoding="utf-8")
    words = ["prepare", str(source), "--out", str(tmp_path / "store"), "--recipe", str(tmp_path / "odd.yaml")]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    assert SliceStore(tmp_path / "store").header["volumes"] == 1
    text = (tmp_path / "store" / "quarantine.tsv").read_text(encoding="utf-8")
    assert all(word in text for word in ("1 are missing", "in the place of another", "damaged"))
    assert len(text.splitlines()) == 4
