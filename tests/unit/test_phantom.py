"""The phantom cohort: reproducible, rare in exactly one way, and right in world coordinates whatever the storage."""

import csv
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import numpy.typing as npt
import pytest

from mri_minority.core.errors import UsageError
from mri_minority.volumes.phantom import (
    LABELS,
    ORIENTATIONS,
    CohortEntry,
    PhantomSubject,
    make_subject,
    write_cohort,
)

SEED = 20
COHORT = 6  # every storage orientation, and both image types
GREY, WHITE, VENTRICLES = LABELS["grey_matter"], LABELS["white_matter"], LABELS["ventricles"]
nib: Any = nibabel  # its functions carry no annotations
Mask = npt.NDArray[np.bool_]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cohort")


@pytest.fixture(scope="module")
def cohort(folder: Path) -> list[CohortEntry]:
    return write_cohort(folder, COHORT, SEED)


@pytest.fixture(scope="module")
def made(cohort: list[CohortEntry]) -> list[PhantomSubject]:
    return [make_subject(SEED, index, entry.rare) for index, entry in enumerate(cohort, start=1)]


def _load(path: Path) -> tuple[Any, npt.NDArray[np.float64]]:
    picture: Any = nib.load(path)
    return picture, np.asarray(picture.dataobj)


def _neighbours(mask: Mask) -> Mask:
    grown = mask.copy()
    for axis in range(3):
        for step in (-1, 1):
            grown |= np.roll(mask, step, axis)  # no structure reaches the border of the grid
    return grown & ~mask


def _world_centroid(mask: Mask, affine: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    centroid: npt.NDArray[np.float64] = affine[:3, :3] @ np.argwhere(mask).mean(axis=0) + affine[:3, 3]
    return centroid


def _percent(subject: PhantomSubject) -> float:
    return 100 * float(np.mean(subject.label[subject.label > 0] == VENTRICLES))


def test_the_same_seed_and_index_give_the_same_head_and_others_do_not() -> None:
    first, again, other, reseeded = (make_subject(*key, False, 4.0) for key in ((1, 2), (1, 2), (1, 3), (2, 2)))
    assert np.array_equal(first.image, again.image)
    assert np.array_equal(first.label, again.label)
    assert np.array_equal(first.affine, again.affine)
    for different in (other, reseeded):
        assert np.mean(first.label != different.label) > 0.02


def test_a_subject_is_typed_as_promised() -> None:
    subject = make_subject(SEED, 1, False)
    assert subject.name == "phantom-001"
    assert subject.image.shape == subject.label.shape == (96, 112, 84)
    assert [a.dtype.name for a in (subject.image, subject.label, subject.affine)] == ["float32", "uint8", "float64"]
    assert set(np.unique(subject.label)) == {0, GREY, WHITE, VENTRICLES}
    assert subject.image.min() >= 0
    assert np.array_equal(subject.affine[:3, :3], np.diag([2.0, 2.0, 2.0]))
    assert subject.ventricle_percent_brain == pytest.approx(_percent(subject))


def test_ventricle_shares_of_rare_subjects_lie_beyond_every_ordinary_one() -> None:
    ordinary = [_percent(make_subject(SEED, index, False, 4.0)) for index in range(30)]
    rare = [_percent(make_subject(SEED, index, True, 4.0)) for index in range(30)]
    assert 1.7 < np.median(ordinary) < 2.4
    assert np.std(np.log(ordinary)) > 0.12  # there is a spread to take a percentile of
    assert min(rare) > 1.15 * max(ordinary)
    assert min(rare) > 1.9 * np.median(ordinary)
    assert max(rare) < 3.9 * np.median(ordinary)


def test_only_the_ventricles_make_a_rare_subject() -> None:
    ordinary, rare = (make_subject(SEED, 4, flag) for flag in (False, True))
    assert np.array_equal(ordinary.affine, rare.affine)
    assert ordinary.atrophy == rare.atrophy
    grown, shrunk = rare.label == VENTRICLES, ordinary.label == VENTRICLES
    assert grown.sum() > 1.8 * shrunk.sum()
    assert np.mean(grown[shrunk]) > 0.95  # they grow around where they were
    outside = ordinary.label == 0
    outside[16:-16, 12:-12, :-10] = False  # far from the brain nothing differs, not even the noise
    assert np.array_equal(ordinary.image[outside], rare.image[outside])
    # Tissue is displaced, not replaced: deep grey matter keeps its volume where the ventricles press on it.
    core = np.s_[34:62, 48:78, 34:48]
    assert np.sum(rare.label[core] == GREY) > 0.6 * np.sum(ordinary.label[core] == GREY)


@pytest.mark.parametrize("rare", [False, True])
def test_ventricles_are_surrounded_by_brain(rare: bool) -> None:
    for index in (1, 2, 3):
        label = make_subject(SEED, index, rare).label
        touched = label[_neighbours(label == VENTRICLES)]
        assert touched.size > 500
        assert set(np.unique(touched)) == {GREY, WHITE}
        assert np.mean(touched == WHITE) > 0.4


def test_intensities_are_those_of_a_t1(made: list[PhantomSubject]) -> None:
    for subject in made:
        grey, white, fluid = (subject.image[subject.label == value].mean() for value in (GREY, WHITE, VENTRICLES))
        assert white > 1.2 * grey > 1.2 * 1.4 * fluid
        corner = subject.image[:6, :6, -6:]
        assert 0 < corner.mean() < 0.1 * white  # air: only noise, and never negative


def test_brain_volumes_and_tissue_shares_are_plausible(made: list[PhantomSubject]) -> None:
    for subject in made:
        counts = np.bincount(subject.label.ravel(), minlength=4)
        assert 0.8e6 < counts[1:].sum() * 8 < 1.6e6  # mm3
        assert 1.0 < counts[GREY] / counts[WHITE] < 2.0
        edge = subject.label.copy()
        edge[2:-2, 2:-2, :-2] = 0
        assert not edge.any()  # inside the field of view, but for the brainstem, which may leave it downwards


def test_left_and_right_ventricles_are_alike(made: list[PhantomSubject]) -> None:
    for subject in made:
        ventricles = subject.label == VENTRICLES
        brain_x = np.argwhere(subject.label > 0)[:, 0].mean()
        x = np.argwhere(ventricles)[:, 0]
        assert 0.4 < np.mean(x < brain_x) < 0.6


def test_the_spacing_samples_the_same_anatomy() -> None:
    fine, coarse = (make_subject(SEED, 5, False, spacing) for spacing in (2.0, 3.0))
    distance = _world_centroid(fine.label > 0, fine.affine) - _world_centroid(coarse.label > 0, coarse.affine)
    assert np.linalg.norm(distance) < 0.5
    assert coarse.ventricle_percent_brain == pytest.approx(fine.ventricle_percent_brain, rel=0.06)


def test_every_orientation_is_written(cohort: list[CohortEntry]) -> None:
    assert {entry.orientation for entry in cohort} == set(ORIENTATIONS)
    types = set()
    for entry in cohort:
        image, _ = _load(entry.image_path)
        types.add(str(image.get_data_dtype()))
        codes = "".join(nib.orientations.aff2axcodes(image.affine))
        assert codes == ("RAS" if entry.orientation == "oblique" else entry.orientation)
        off_axis = np.abs(image.affine[:3, :3]).min(axis=0).max() > 1e-3
        assert off_axis == (entry.orientation == "oblique")
    assert types == {"int16", "float32"}


def test_image_and_label_files_share_one_grid(cohort: list[CohortEntry]) -> None:
    for entry in cohort:
        image, _ = _load(entry.image_path)
        label, values = _load(entry.label_path)
        assert image.shape == label.shape
        assert np.array_equal(image.affine, label.affine)
        assert label.get_data_dtype() == np.uint8
        assert set(np.unique(values)) == {0, GREY, WHITE, VENTRICLES}


def test_files_hold_the_made_subject_in_world_coordinates(
    cohort: list[CohortEntry], made: list[PhantomSubject]
) -> None:
    for entry, subject in zip(cohort, made, strict=True):
        image = nib.as_closest_canonical(_load(entry.image_path)[0])
        label = nib.as_closest_canonical(_load(entry.label_path)[0])
        values = np.asarray(label.dataobj)
        for tissue in (VENTRICLES, GREY):
            found = _world_centroid(values == tissue, label.affine)
            assert np.linalg.norm(found - _world_centroid(subject.label == tissue, subject.affine)) < 1.0
        if entry.orientation == "oblique":
            voxels = np.argwhere(subject.label == VENTRICLES)
            world = voxels @ subject.affine[:3, :3].T + subject.affine[:3, 3]
            inverse = np.linalg.inv(label.affine)
            there = np.rint(world @ inverse[:3, :3].T + inverse[:3, 3]).astype(int)
            assert np.mean(values[tuple(there.T)] == VENTRICLES) > 0.75
            continue
        assert np.array_equal(values, subject.label)
        assert np.allclose(label.affine, subject.affine, atol=1e-4)
        step = 0.51 if image.get_data_dtype() == np.int16 else 0.0
        assert np.abs(np.asarray(image.dataobj) - subject.image).max() <= step


def test_participants_say_who_is_rare(folder: Path, cohort: list[CohortEntry], made: list[PhantomSubject]) -> None:
    with (folder / "participants.tsv").open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream, delimiter="\t"))
    assert list(rows[0]) == ["participant_id", "ventricle_percent_brain", "enlarged"]
    assert [row["participant_id"] for row in rows] == [f"phantom-{index:03d}" for index in range(1, COHORT + 1)]
    assert [row["enlarged"] for row in rows].count("1") == 1  # 5 % of six is none; at least one all the same
    for row, subject in zip(rows, made, strict=True):
        assert (row["enlarged"] == "1") == subject.rare
        assert float(row["ventricle_percent_brain"]) == pytest.approx(_percent(subject), rel=0.05)
    percent = {row["enlarged"]: 0.0 for row in rows}
    for row in rows:
        percent[row["enlarged"]] = max(percent[row["enlarged"]], float(row["ventricle_percent_brain"]))
    assert percent["1"] > 1.2 * percent["0"]
    names = {path.name for path in (folder / "images").iterdir()} | {p.name for p in (folder / "labels").iterdir()}
    assert {"phantom-001_T1.nii.gz", "phantom-001_seg.nii.gz"} < names
    assert len(names) == 2 * COHORT


def test_a_cohort_is_written_the_same_twice(folder: Path, cohort: list[CohortEntry], tmp_path: Path) -> None:
    again = write_cohort(tmp_path, 2, SEED, rare_share=1.0)
    assert [entry.rare for entry in again] == [True, True]
    repeat = write_cohort(tmp_path / "repeat", 2, SEED, rare_share=1.0)
    for one, two in zip(again, repeat, strict=True):
        assert one.image_path.read_bytes() == two.image_path.read_bytes()
        assert one.label_path.read_bytes() == two.label_path.read_bytes()


def test_arguments_out_of_range_are_usage_errors(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"spacing of 0\.5 to 6 mm; got seed 0, index 1, 60"):
        make_subject(0, 1, False, 60)
    with pytest.raises(UsageError, match="seed >= 0"):
        make_subject(-1, 1, False)
    with pytest.raises(UsageError, match="at least 1 subject"):
        write_cohort(tmp_path, 0, 0)
