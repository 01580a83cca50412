"""Cutting conserves the world: every labelled voxel of the file is in the slices, where it was."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from mri_minority.core.errors import DataError
from mri_minority.slices.select import CutSlices, SliceSettings, cut_slices
from mri_minority.volumes.geometry import lift_thickness, plane_affine
from mri_minority.volumes.nifti import read_volume
from mri_minority.volumes.phantom import write_cohort
from mri_minority.volumes.volume import Volume

LABELS = {"grey_matter": (1,), "white_matter": (2,), "ventricles": (3,)}


def _settings(spacing_mm: float, size: tuple[int, int], plane: str = "axial") -> SliceSettings:
    return SliceSettings((spacing_mm,) * 3, size, plane, (0.0, 1.0), 1.2, LABELS)


def _centre(cut: CutSlices) -> np.ndarray:
    points = [
        affine[:3, :3] @ [i, j, 0] + affine[:3, 3]
        for affine, mask in zip(cut.affine, cut.label, strict=True)
        for i, j in np.argwhere(mask == 3)
    ]
    return np.mean(points, axis=0)


@pytest.fixture(scope="module")
def heads(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Path, Path]]:
    """One head in each of the cohort's orientations (RAS, LAS, LPS, PSR, oblique)."""
    folder = tmp_path_factory.mktemp("heads")
    write_cohort(folder, 5, seed=1, rare_share=0.2)
    return list(zip(sorted((folder / "images").iterdir()), sorted((folder / "labels").iterdir()), strict=True))


@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
@pytest.mark.parametrize("number", range(5))
def test_at_the_files_spacing_nothing_moves(heads: list[tuple[Path, Path]], number: int, plane: str) -> None:
    """All ventricle voxels, none lost, and their centre to a hundredth of a millimetre, in every plane."""
    image, label = heads[number]
    source = nib.load(label)
    voxels = np.argwhere(np.asarray(source.dataobj) == 3)
    world = voxels @ source.affine[:3, :3].T + source.affine[:3, 3]
    cut = cut_slices([read_volume(image, label, "s", "s")], _settings(2.0, (112, 112), plane))
    assert (cut.label == 3).sum() == len(voxels)
    np.testing.assert_allclose(_centre(cut), world.mean(axis=0), atol=0.01)


@pytest.mark.parametrize("number", range(5))
def test_resampling_keeps_the_centre(heads: list[tuple[Path, Path]], number: int) -> None:
    """At 4 mm the ventricles stay where they are, to a fraction of a voxel (odd sizes included)."""
    image, label = heads[number]
    source = nib.load(label)
    world = np.argwhere(np.asarray(source.dataobj) == 3) @ source.affine[:3, :3].T + source.affine[:3, 3]
    cut = cut_slices([read_volume(image, label, "s", "s")], _settings(4.0, (56, 56)))
    np.testing.assert_allclose(_centre(cut), world.mean(axis=0), atol=1.0)


def test_heights_run_from_the_lowest_to_the_highest_labelled_slice() -> None:
    """Height is the middle of the slice as a share of the foreground's extent; outside slices are not cut."""
    label = np.zeros((16, 16, 20), np.int32)
    label[4:12, 4:12, 5:15] = 2
    image = np.where(label > 0, 100, 10).astype(np.float32)
    volume = Volume(image, label, np.diag([2.0, 2.0, 2.0, 1.0]), "s", "s", "0")
    settings = SliceSettings((2.0, 2.0, 2.0), (16, 16), "axial", (0.25, 0.75), 1.2, LABELS)
    cut = cut_slices([volume], settings)
    np.testing.assert_array_equal(cut.index, [7, 8, 9, 10, 11, 12])
    np.testing.assert_allclose(cut.height, (cut.index + 0.5 - 5) / 10)
    assert cut.height.min() >= 0.25
    assert cut.height.max() <= 0.75
    # White matter is uniform, so its 99.5th percentile is itself: 100 / (1.2 * 100) of the way from -1 to 1.
    np.testing.assert_allclose(cut.image[:, 0][cut.label == 2], 2 / 1.2 - 1, atol=1e-5)
    np.testing.assert_allclose(cut.affine[:, 2, 3], cut.index * 2.0)


def test_without_labels_the_head_is_found() -> None:
    """Otsu's threshold stands in for the mask, and the label is empty."""
    image = np.zeros((16, 16, 10), np.float32)
    image[3:13, 3:13, 2:8] = 50
    volume = Volume(image, None, np.diag([2.0, 2.0, 2.0, 1.0]), "s", "s", "0")
    cut = cut_slices([volume], SliceSettings((2.0, 2.0, 2.0), (16, 16), "axial", (0.0, 1.0), 1.0, {}))
    assert len(cut.image) == 6
    assert not cut.label.any()
    assert cut.scale == pytest.approx((50,))


def test_a_label_map_with_other_values_is_refused() -> None:
    """The message lists what was found."""
    label = np.full((8, 8, 8), 77, np.int32)
    volume = Volume(np.ones((8, 8, 8), np.float32), label, np.eye(4), "s", "s", "0")
    with pytest.raises(DataError, match="77"):
        cut_slices([volume], _settings(1.0, (8, 8)))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_plane_affine_agrees_with_the_volume(axis: int) -> None:
    """Pixel (i, j) of the plane is voxel (i, j with the index put in) of the volume, for a sheared affine."""
    affine = np.array([[2.0, 0.3, 0, -10], [0, 1.5, 0.2, 4], [0.1, 0, 3, 7], [0, 0, 0, 1]])
    plane = plane_affine(affine, axis, 5)
    voxel = np.insert(np.array([3.0, 4.0]), axis, 5.0)
    np.testing.assert_allclose(plane @ [3, 4, 0, 1], affine @ [*voxel, 1])


def test_thickness_is_lifted_and_pixels_stay() -> None:
    """Through-plane spacing becomes the largest in-plane one; what was thick enough is untouched."""
    thin = np.diag([0.9, 0.9, 0.5, 1.0])
    lifted, true_mm = lift_thickness(thin)
    assert true_mm == 0.5
    np.testing.assert_allclose(np.linalg.norm(lifted[:3, 2]), 0.9)
    np.testing.assert_array_equal(lifted[:, [0, 1, 3]], thin[:, [0, 1, 3]])
    thick = np.diag([0.9, 0.9, 5.0, 1.0])
    np.testing.assert_array_equal(lift_thickness(thick)[0], thick)
