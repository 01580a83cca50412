"""Several images of one head become its channels: found together, on one grid, in one place."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import numpy.typing as npt
import pytest
from pydicom.dataset import Dataset

from mri_minority.core.errors import DataError
from mri_minority.slices.select import SliceSettings, cut_slices
from mri_minority.volumes.channels import chosen
from mri_minority.volumes.discover import discover
from mri_minority.volumes.phantom import write_cohort
from mri_minority.volumes.read import read_found
from mri_minority.volumes.registered import registered
from mri_minority.volumes.volume import Volume
from tests.support.dicoms import write_series

BOTH = ("T1", "FLAIR")
AFFINE = np.diag([2.0, 2.0, 2.0, 1.0])
SHAPE = (24, 28, 20)


def egg(shape: tuple[int, int, int] = SHAPE, bright: float = 100.0, shift: float = 0.0) -> npt.NDArray[np.float32]:
    """A head: an ellipsoid in the middle, or shifted by a share of its half axis along the first axis."""
    x, y, z = (np.linspace(-1.25, 1.25, n) for n in shape)
    inside = (x[:, None, None] - shift) ** 2 + y[:, None] ** 2 + z**2 < 1
    return np.where(inside, bright + 20 * x[:, None, None], 1).astype(np.float32)


def save(path: Path, values: npt.NDArray[np.generic], affine: npt.NDArray[np.float64] = AFFINE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.nifti1.Nifti1Image(values, affine).to_filename(path)
    return path


def volume(values: npt.NDArray[np.float32], affine: npt.NDArray[np.float64] = AFFINE, name: str = "a") -> Volume:
    return Volume(values, None, affine, "s", name, name)


@pytest.mark.parametrize("layout", ["flat", "nnunet", "bids", "list", "4-D", "named 4-D", "dicom"])
def test_channels_are_found_in_every_layout(layout: str, tmp_path: Path) -> None:
    one, two, label = egg(), egg(bright=60), (egg() > 50).astype(np.uint8)
    sequence: str | tuple[str, ...] = BOTH
    number: tuple[int, ...] | None = None
    if layout == "flat":
        save(tmp_path / "images" / "a_T1.nii.gz", one)
        save(tmp_path / "images" / "a_FLAIR.nii.gz", two)
        save(tmp_path / "labels" / "a_seg.nii.gz", label)
    elif layout == "bids":
        anat = tmp_path / "sub-01" / "ses-1" / "anat"
        save(anat / "sub-01_ses-1_T1w.nii.gz", one)
        save(anat / "sub-01_ses-1_FLAIR.nii.gz", two)
        save(anat / "sub-01_ses-1_dseg.nii.gz", label)
    elif layout == "nnunet":
        for name, values in (("a_0000", one), ("a_0001", two)):
            save(tmp_path / "imagesTr" / f"{name}.nii.gz", values)
        save(tmp_path / "labelsTr" / "a.nii.gz", label)
        (tmp_path / "dataset.json").write_text(json.dumps({"channel_names": {"0": "T1", "1": "FLAIR"}}))
    elif layout == "list":
        save(tmp_path / "x.nii.gz", one)
        save(tmp_path / "y.nii.gz", two)
        save(tmp_path / "l.nii.gz", label)
        case = {"image": ["x.nii.gz", "y.nii.gz"], "label": "l.nii.gz"}
        said = {"training": [case], "modality": {"0": "T1", "1": "FLAIR"}}
        (tmp_path / "dataset.json").write_text(json.dumps(said))
    elif layout == "dicom":
        for name, values in (("t1_mprage", one), ("t2_flair", two)):

            def change(header: Dataset, number: int, name: str = name) -> None:
                header.SeriesDescription, header.StudyInstanceUID = name, "1.2.3"

            write_series(tmp_path / name, values.astype(np.int16), AFFINE, change, uid=name)
        label = None
    else:
        save(tmp_path / "imagesTr" / "a.nii.gz", np.stack([one, two], axis=-1))
        save(tmp_path / "labelsTr" / "a.nii.gz", label)
        sequence, number = "", (0, 1)
        if layout == "named 4-D":
            case = {"image": "./imagesTr/a.nii.gz", "label": "./labelsTr/a.nii.gz"}
            said = {"training": [case], "modality": {"0": "T1", "1": "FLAIR"}}
            (tmp_path / "dataset.json").write_text(json.dumps(said))
            sequence, number = BOTH, None
    (item,) = chosen(discover([tmp_path]), sequence, number)
    assert item.problem is None
    volumes = read_found(item)
    assert len(volumes) == 2
    assert volumes[0].image.max() == pytest.approx(one.max(), abs=1)
    assert volumes[1].image.max() == pytest.approx(two.max(), abs=1)
    assert (volumes[0].label is None) == (label is None)
    # One order or the other gives other heads, and so other hashes.
    turned = (sequence[::-1], None) if isinstance(sequence, tuple) else (sequence, (1, 0))
    other = read_found(chosen(discover([tmp_path]), *turned)[0])
    assert other[0].image.max() == pytest.approx(two.max(), abs=1)
    assert other[0].sha256 != volumes[0].sha256


def test_a_head_that_lacks_a_channel_or_has_two_is_refused(tmp_path: Path) -> None:
    for name in ("a_T1", "a_FLAIR", "b_T1", "c_T1", "c_FLAIR", "c_flair"):
        save(tmp_path / f"{name}.nii.gz", egg())
    found = {item.series: item.problem for item in chosen(discover([tmp_path]), BOTH, None)}
    assert found["a"] is None
    assert "found 0 of FLAIR among T1 b_T1.nii.gz" in str(found["b"])
    assert "found 2 of FLAIR" in str(found["c"])


def test_two_label_maps_for_one_head_are_refused(tmp_path: Path) -> None:
    for name in ("a_T1", "a_FLAIR", "a_T1_seg", "a_FLAIR_seg"):
        save(tmp_path / f"{name}.nii.gz", egg())
    (item,) = chosen(discover([tmp_path]), BOTH, None)
    assert "one label map for all channels, found 2" in str(item.problem)


def test_what_lies_on_the_grid_already_is_left_alone() -> None:
    first, second = volume(egg()), volume(egg(bright=70))
    nudged = AFFINE.copy()
    nudged[0, 3] += 5e-4
    result = registered([first, volume(second.image, nudged)])
    assert result[1].image is second.image
    np.testing.assert_array_equal(result[1].affine, first.affine)


def test_another_grid_is_resampled_by_world_coordinates() -> None:
    """A linear ramp of the world is the same ramp on any grid, for a turned and flipped one too."""
    angle = np.deg2rad(9)
    turned = np.array(
        [[-1.5 * np.cos(angle), -np.sin(angle), 0, 60], [-1.5 * np.sin(angle), np.cos(angle), 0, -2], [0, 0, 1.2, -3]]
    )
    turned = np.vstack([turned, [0, 0, 0, 1]])
    shape = (64, 90, 50)
    world = np.einsum("ab,bxyz->axyz", turned[:3, :3], np.indices(shape)) + turned[:3, 3, None, None, None]
    middle = np.array([23.0, 27.0, 19.0])[:, None, None, None]
    inside = (((world - middle) / np.array([20, 22, 16])[:, None, None, None]) ** 2).sum(axis=0) < 1
    other = np.where(inside, 200 + world[0] - 2 * world[1] + 3 * world[2], 0).astype(np.float32)
    first = volume(egg())
    result = registered([first, volume(other, turned, "b")])[1]
    grid = np.indices(SHAPE) * 2.0
    deep = (((grid - middle) / np.array([20, 22, 16])[:, None, None, None]) ** 2).sum(axis=0) < 0.6
    expected = 200 + grid[0] - 2 * grid[1] + 3 * grid[2]
    np.testing.assert_allclose(result.image[deep], expected[deep], atol=1e-3)


@pytest.mark.parametrize(
    ("other", "affine", "words"),
    [
        (egg(shift=1.2), AFFINE, "share"),  # on the same grid, but elsewhere
        (egg(), AFFINE @ np.array([[1, 0, 0, 14], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]]), "covers"),
        (egg()[:12], AFFINE, "covers 50% of that in a"),  # half a head
        (np.zeros(SHAPE, np.float32), AFFINE, "share 0%"),
    ],
)
def test_images_that_are_not_registered_are_refused(
    other: npt.NDArray[np.float32], affine: npt.NDArray[np.float64], words: str
) -> None:
    with pytest.raises(DataError, match=words):
        registered([volume(egg()), volume(other, affine, "b")])


def test_a_skull_stripped_image_goes_with_a_whole_head() -> None:
    stripped = np.where(egg() > 95, egg(), 0).astype(np.float32)
    assert len(registered([volume(egg()), volume(stripped)])) == 2


def test_two_sequences_of_phantoms_are_cut_into_slices_that_agree(tmp_path: Path) -> None:
    """Fluid is dark in both, grey matter darker than white in T1 and brighter in FLAIR; each has its own scale."""
    write_cohort(tmp_path, 2, 5, 0.5, BOTH)
    settings = SliceSettings(
        (4.0, 4.0, 4.0), (48, 64), "axial", (0.3, 0.8), 1.2, {"grey": (1,), "white": (2,), "csf": (3,)}
    )
    for item in chosen(discover([tmp_path]), BOTH, None):
        cut = cut_slices(read_found(item), settings)
        assert cut.image.shape[1] == 2
        assert len(set(cut.scale)) == 2
        grey, white, fluid = (cut.image.transpose(1, 0, 2, 3)[:, cut.label == n].mean(axis=1) for n in (1, 2, 3))
        assert (fluid < np.minimum(grey, white) - 0.2).all()
        assert grey[0] < white[0] - 0.2
        assert grey[1] > white[1] + 0.1
        for channel in (0, 1):  # in units of its own bright tissue
            bright = np.percentile(cut.image[:, channel][cut.label > 0], 99.5)
            assert bright == pytest.approx(2 / 1.2 - 1, abs=0.05)


def test_channels_that_are_too_large_together_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mri_minority.volumes.registered.MAX_VOXELS", 20_000)
    with pytest.raises(DataError, match="at most 20000 voxels in all channels"):
        registered([volume(egg()), volume(egg())])
