"""What a list of images is known by."""

import shutil
from pathlib import Path

import numpy as np

from mri_minority.volumes.discover import discover
from mri_minority.volumes.fingerprint import fingerprint
from tests.support.dicoms import head, write_series

NOWHERE: frozenset[str] = frozenset()


def lab(folder: Path) -> Path:
    rng = np.random.default_rng(0)
    for name in ("images/a_T1.nii", "images/b_T1.nii", "labels/a_seg.nii", "labels/b_seg.nii"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(rng.bytes(200_000))
    (folder / "participants.tsv").write_text("participant_id\tsite\na\tHH\nb\tHH\n", encoding="utf-8")
    return folder


def of(*folders: Path, sites: frozenset[str] = NOWHERE) -> str:
    return fingerprint(discover([*folders]), sites)


def test_a_moved_folder_is_the_same_in_any_order(tmp_path: Path) -> None:
    here = of(lab(tmp_path / "one"))
    shutil.copytree(tmp_path / "one", tmp_path / "elsewhere" / "other")
    assert of(tmp_path / "elsewhere" / "other") == here
    found = discover([tmp_path / "one"])
    assert fingerprint(found[::-1], NOWHERE) == here


def test_every_change_counts(tmp_path: Path) -> None:
    seen = {of(lab(tmp_path / "lab")), of(tmp_path / "lab", sites=frozenset({"HH"}))}
    image, label = tmp_path / "lab" / "images" / "a_T1.nii", tmp_path / "lab" / "labels" / "a_seg.nii"
    for path in (image, label):  # other content of the same size
        path.write_bytes(path.read_bytes()[::-1])
        seen.add(of(tmp_path / "lab"))
    image.write_bytes(image.read_bytes() + b"x")
    seen.add(of(tmp_path / "lab"))
    label.unlink()
    seen.add(of(tmp_path / "lab"))
    image.rename(image.with_name("c_T1.nii"))
    seen.add(of(tmp_path / "lab"))
    (tmp_path / "lab" / "images" / "c_T1.nii").unlink()
    seen.add(of(tmp_path / "lab"))
    assert len(seen) == 8


def test_the_place_of_a_broken_file_does_not_count(tmp_path: Path) -> None:
    affine = np.diag([4.0, 4.0, 4.0, 1.0])
    for place in ("one", "other/place"):
        files = write_series(tmp_path / place, head((8, 8, 4)), affine, uid="a")
        (tmp_path / place / "broken.dcm").write_bytes(files[0].read_bytes()[:300])
    assert of(tmp_path / "one") == of(tmp_path / "other" / "place")
    files[1].write_bytes(files[1].read_bytes()[:-1] + b"\x07")
    assert of(tmp_path / "one") != of(tmp_path / "other" / "place")
