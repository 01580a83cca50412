"""The public data sets go in with nothing but a recipe's name, and what is in their label maps is in the slices."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from mri_minority.slices.store import SliceStore
from mri_minority_pipelines.config import load_recipe
from mri_minority_pipelines.inspect import describe
from mri_minority_pipelines.stages import prepare
from tests.support.tiny import silent


@pytest.mark.slow
@pytest.mark.real_data
@pytest.mark.parametrize(
    ("folder", "recipe", "volumes", "geometry"),
    [
        ("ms", "flair_lesion_3mm", 2, "axial, pixels of 2 x 2 mm, slices 3 mm apart"),
        ("ms", "flair_lesion", 2, "axial, pixels of 2 x 2 mm, slices 1 mm apart"),
        ("dicom", "t1_unlabelled", 1, "axial, pixels of 2 x 2 mm, slices 2 mm apart"),
        ("lgg", "flair_lesion", 88, "axial, pixels of 2 x 2 mm, slices 5 mm apart"),
        ("ixi", "brain_t1_2mm", 148, "axial, pixels of 2 x 2 mm, slices 2 mm apart"),
    ],
)
def test_a_recipe_is_enough(
    real_data: Path, tmp_path: Path, folder: str, recipe: str, volumes: int, geometry: str
) -> None:
    config = load_recipe(recipe).prepare
    report = prepare.run(config, [real_data / folder], tmp_path / "store", silent, workers=2)
    assert (report.volumes, report.quarantined) == (volumes, 0)
    store = SliceStore(tmp_path / "store")
    assert describe(tmp_path / "store")["geometry"] == geometry
    image, label = store.read(np.arange(len(store.rows)))
    assert image.min() >= -1
    assert image.max() <= 1
    assert not label.any() or label.max() == len(config.labels)
    if recipe.startswith("flair"):
        empty = float((label == 0).all(axis=(1, 2)).mean())
        assert 0.2 < empty < 0.9
        for series in sorted({row.series for row in store.rows})[:5]:
            _holds_the_lesion(real_data / folder / "labels", store, series, label)


def _holds_the_lesion(labels: Path, store: SliceStore, series: str, label: np.ndarray) -> None:
    """Every labelled pixel lies on a lesion voxel of the file, and they amount to the lesion of those slices."""
    (file,) = labels.glob(f"{series.removesuffix('_FLAIR')}_*")
    source = nib.funcs.as_closest_canonical(nib.nifti1.load(file))
    mine = [n for n, row in enumerate(store.rows) if row.series == series]
    affines = np.array([store.rows[n].affine for n in mine]).reshape(-1, 4, 4)
    heights_mm = affines[:, 2, 3]
    thickness_mm = float(np.linalg.norm(affines[0, :3, 2]))
    theirs = np.argwhere(np.asarray(source.dataobj) > 0) @ source.affine[:3, :3].T + source.affine[:3, 3]
    reach_mm = thickness_mm / 2 + 1e-3
    theirs = theirs[(theirs[:, 2] >= heights_mm.min() - reach_mm) & (theirs[:, 2] <= heights_mm.max() + reach_mm)]
    ours = np.concatenate(
        [np.argwhere(label[n] == 1) @ affine[:3, :2].T + affine[:3, 3] for n, affine in zip(mine, affines, strict=True)]
    )
    voxels = np.rint(np.linalg.solve(source.affine, np.c_[ours, np.ones(len(ours))].T)[:3]).astype(int)
    assert (np.asarray(source.dataobj)[tuple(voxels)] > 0).mean() > 0.95
    volume = len(ours) * abs(np.linalg.det(affines[0, :3, :3]))
    assert volume == pytest.approx(len(theirs) * abs(np.linalg.det(source.affine[:3, :3])), rel=0.2)
