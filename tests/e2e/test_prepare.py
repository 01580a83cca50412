"""From volumes to slices: what is in the store is what was in the heads."""

import gzip
import shutil
from pathlib import Path

import numpy as np
import pytest

from mri_minority.core.errors import DataError
from mri_minority.slices.store import SliceStore
from mri_minority_pipelines.config import Recipe
from mri_minority_pipelines.stages import prepare
from tests.support.tiny import silent


def test_split_is_by_subject_and_strata_cover_everything(store: SliceStore) -> None:
    """No subject is on both sides; every slice has a stratum and its height lies in it."""
    sides = {split: {row.subject for row in store.rows if row.split == split} for split in ("train", "holdout")}
    assert not sides["train"] & sides["holdout"]
    assert len(sides["holdout"]) == 3
    edges = [0.3, *store.header["strata"]["edges"][0]]
    for row in store.rows:
        assert edges[row.stratum] - 1e-9 <= row.height <= edges[row.stratum + 1] + 1e-9


def test_intensities_are_in_order(store: SliceStore) -> None:
    """Fluid is darkest and white matter brightest after scaling, and nothing leaves [-1, 1]."""
    image, label = store.read(np.arange(len(store.rows)))
    grey, white, fluid = (image[:, 0][label == value].mean() for value in (1, 2, 3))
    assert fluid < grey - 0.2
    assert grey < white - 0.2
    assert image.min() >= -1
    assert image.max() <= 1
    assert 0.3 < white < 0.9


def test_bad_files_are_named_and_the_rest_goes_on(cohort: Path, recipe: Recipe, tmp_path: Path) -> None:
    """A truncated file, a text file, and an image without its label end in the quarantine, not in a traceback."""
    lab = tmp_path / "lab"
    shutil.copytree(cohort, lab)
    images = sorted((lab / "images").iterdir())
    images[0].write_bytes(images[0].read_bytes()[:5000])
    images[1].write_bytes(gzip.compress(b"not an image at all"))
    for label in (lab / "labels").glob(f"{images[2].name.split('_')[0]}_*"):
        label.unlink()
    report = prepare.run(recipe.prepare, [lab], tmp_path / "store", silent)
    assert report.quarantined == 3
    assert report.volumes == 11
    quarantine = (tmp_path / "store" / "quarantine.tsv").read_text(encoding="utf-8")
    assert all(image.name in quarantine for image in images[:3])
    assert "label" in quarantine


def test_nothing_usable_is_an_error_and_leaves_no_store(recipe: Recipe, tmp_path: Path) -> None:
    """One line, and no half-written store."""
    (tmp_path / "lab" / "images").mkdir(parents=True)
    (tmp_path / "lab" / "images" / "a_T1.nii.gz").write_bytes(b"broken")
    with pytest.raises(DataError, match="found none"):
        prepare.run(recipe.prepare, [tmp_path / "lab"], tmp_path / "store", silent)
    assert not (tmp_path / "store").exists()


def test_interrupted_preparation_goes_on(cohort: Path, recipe: Recipe, store: SliceStore, tmp_path: Path) -> None:
    """Stopped after seven volumes and repeated, it gives the rows and pixels of an uninterrupted run."""
    heard = 0

    def stop(event: object) -> None:
        nonlocal heard
        heard += 1
        if heard == 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare.run(recipe.prepare, [cohort], tmp_path / "store", stop)
    assert not (tmp_path / "store").exists()
    prepare.run(recipe.prepare, [cohort], tmp_path / "store", silent)
    again = SliceStore(tmp_path / "store")
    assert again.rows == store.rows
    everything = np.arange(len(store.rows))
    for ours, theirs in zip(again.read(everything), store.read(everything), strict=True):
        np.testing.assert_array_equal(ours, theirs)
