"""Lesion maps on grids of their own: where they come to lie in a model's heads, of which they show nothing."""

from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from mri_minority.core.errors import DataError
from mri_minority.diffusion.gaussian import GaussianWorld
from mri_minority.diffusion.state import BIT, groups_for
from mri_minority.slices.select import CutSlices
from mri_minority.slices.store import SliceStore, StoreWriter
from mri_minority.slices.strata import fit_strata
from mri_minority_pipelines.insertions import donors_in
from mri_minority_pipelines.label_maps import read_label_maps
from mri_minority_pipelines.model_folder import EMBEDDED, ModelFolder, find_model, save_world

SIZE = (40, 48)
EVERY = (0.0, 1.0)
LOW_MM, HIGH_MM = -60.0, 80.0
"""World heights of the drawn head's ends."""

MIDDLE_MM = (4.0, -12.0)
"""Where the middle of the field lies in the world, right and anterior."""


def heads(count: int) -> np.ndarray:
    """Drawn heads (n, H, W) in [-1, 1]: bright ellipses in the middle of the field."""
    row, column = np.indices(SIZE)
    inside = ((row - 20) / 16) ** 2 + ((column - 24) / 20) ** 2 < 1
    return np.repeat(np.where(inside, 0.5, -1.0)[None], count, axis=0).astype(np.float32)


@pytest.fixture
def model(tmp_path: Path) -> ModelFolder:
    """What a card and a world say of a lesion model of four strata: 4 mm pixels, heads from -60 to 80 mm."""
    folder = ModelFolder(tmp_path / "model")
    folder.path.mkdir()
    strata = fit_strata(np.linspace(0.001, 0.999, 100), EVERY, 4, 1)
    planes = []
    for middle in strata.middles(0.0):
        plane = np.diag([4.0, 4.0, 5.0, 1.0])
        plane[:2, 3] = np.array(MIDDLE_MM) - 4.0 * np.array(SIZE) / 2
        plane[2, 3] = LOW_MM + middle * (HIGH_MM - LOW_MM)
        planes.append(plane.tolist())
    settings = {"size": list(SIZE), "spacing_mm": [4.0, 4.0, -1.0], "plane": "axial", "heights": [0.0, 1.0]}
    folder.write_card(
        {
            "label_names": ["lesion"],
            "strata": strata.as_json(),
            "planes": planes,
            "recipe": {"prepare": {**settings, "foreground": "head"}},
        }
    )
    mean = torch.stack([torch.as_tensor(heads(4)), torch.full((4, *SIZE), -BIT)], dim=1)
    pixels, groups = 2 * SIZE[0] * SIZE[1], groups_for(1, 1)
    eye = torch.eye(1).repeat(4, 1, 1)
    save_world(
        folder.path / "world.safetensors",
        GaussianWorld(mean, torch.zeros(pixels, 1), eye, torch.ones(4, 2), groups),
    )
    return folder


@dataclass(frozen=True)
class Stack:
    """A lesion map's grid.

    Args:
        shape: (X, Y, Z).
        spacing_mm: Along the three axes.
        lowest: World coordinates of the middle of voxel (0, 0, 0).
    """

    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    lowest: tuple[float, float, float]

    def save(self, path: Path, lesion_mm: tuple[float, float, float], radius_mm: float = 11.0) -> Path:
        """A ball at a place in the world."""
        affine = np.diag([*self.spacing_mm, 1.0])
        affine[:3, 3] = self.lowest
        world = nib.affines.apply_affine(affine, np.stack(np.indices(self.shape), axis=-1))
        ball = (np.linalg.norm(world - np.array(lesion_mm), axis=-1) < radius_mm).astype(np.uint8)
        nib.save(nib.Nifti1Image(ball, affine), path)
        return path


THIN = Stack((90, 100, 100), (2.0, 2.0, 2.0), (-80.0, -120.0, -89.5))


def stratum_of(height_mm: float) -> int:
    return int((height_mm - LOW_MM) / (HIGH_MM - LOW_MM) * 4)


@pytest.mark.parametrize("lesion_mm", [(34.0, -40.0, 1.0), (-20.0, 18.0, 51.0)])
def test_a_thin_volume_lies_where_its_affine_says(
    lesion_mm: tuple[float, float, float], model: ModelFolder, tmp_path: Path
) -> None:
    """In the field and among the strata, not in the middle of the one and guessed among the other."""
    found = read_label_maps(THIN.save(tmp_path / "map.nii.gz", lesion_mm), model, EVERY)
    for one in found:
        assert one.stratum == stratum_of(one.affine[2, 3])
        assert one.trace["label_height_from"] == "world"
        assert abs(one.affine[2, 3] - lesion_mm[2]) <= 11
    middle = next(one for one in found if abs(one.affine[2, 3] - lesion_mm[2]) <= 1)
    wanted = (np.array(lesion_mm[:2]) - MIDDLE_MM) / 4 + np.array(SIZE) / 2
    np.testing.assert_allclose(np.argwhere(middle.label).mean(axis=0), wanted, atol=0.75)
    at = nib.affines.apply_affine(middle.affine, [*np.argwhere(middle.label).mean(axis=0), 0])
    np.testing.assert_allclose(at[:2], lesion_mm[:2], atol=1.0)  # whatever pixel it has, its place stays


def test_a_single_slice_lies_where_its_affine_says(model: ModelFolder, tmp_path: Path) -> None:
    one = Stack((90, 100, 1), (2.0, 2.0, 5.0), (-80.0, -120.0, 60.0))
    (found,) = read_label_maps(one.save(tmp_path / "map.nii.gz", (10.0, 10.0, 60.0)), model, EVERY)
    assert found.stratum == 3
    assert read_label_maps(tmp_path / "map.nii.gz", model, (0.7, 1.0))[0].stratum == 3
    with pytest.raises(DataError, match="found none"):
        read_label_maps(tmp_path / "map.nii.gz", model, (0.0, 0.7))


@pytest.mark.parametrize("count", [20, 60])
def test_a_thick_stack_shows_the_head_from_end_to_end(count: int, model: ModelFolder, tmp_path: Path) -> None:
    """Its heights along the world may be made up, as LGG's are; the place in the stack is what training measured."""
    stack = Stack((80, 90, count), (2.0, 2.0, 5.0), (-76.0, -102.0, 0.0))
    lesion_mm = (20.0, -30.0, 5.0 * (0.6 * count))
    found = read_label_maps(stack.save(tmp_path / "map.nii.gz", lesion_mm), model, EVERY)
    assert {one.trace["label_height_from"] for one in found} == {"stack"}
    assert [one.stratum for one in found] == [int(4 * (one.trace["label_index"] + 0.5) / count) for one in found]
    part = Stack((80, 90, 8), (2.0, 2.0, 5.0), (-76.0, -102.0, 31.0))  # of a head: its affine must do
    found = read_label_maps(part.save(tmp_path / "part.nii.gz", (20.0, -30.0, 40.0)), model, EVERY)
    assert [one.stratum for one in found] == [stratum_of(one.affine[2, 3]) for one in found]


@pytest.mark.parametrize(
    ("lesion_mm", "moved_mm", "says"),
    [
        ((0.0, 0.0, 10.0), (0.0, 0.0, 300.0), "mm away"),
        ((0.0, 0.0, 10.0), (150.0, 0.0, 0.0), "field"),
        ((0.0, 0.0, 10.0), (0.0, 70.0, 0.0), "inside the heads"),
    ],
)
def test_a_map_that_lies_elsewhere_is_refused(
    lesion_mm: tuple[float, float, float],
    moved_mm: tuple[float, float, float],
    says: str,
    model: ModelFolder,
    tmp_path: Path,
) -> None:
    lowest = tuple(a + b for a, b in zip(THIN.lowest, moved_mm, strict=True))
    away = Stack(THIN.shape, THIN.spacing_mm, (lowest[0], lowest[1], lowest[2]))
    there = tuple(a + b for a, b in zip(lesion_mm, moved_mm, strict=True))
    away.save(tmp_path / "map.nii.gz", (there[0], there[1], there[2]))
    with pytest.raises(DataError, match=f"(?s){says}.*affine"):
        read_label_maps(tmp_path / "map.nii.gz", model, EVERY)


@pytest.mark.parametrize("spacing_mm", [(-1.0, 2.0, 2.0), (2.0, -1.0, 2.0), (2.0, 2.0, -1.0), (-1.0, -1.0, -1.0)])
def test_donors_are_measured_in_their_own_pixels(spacing_mm: tuple[float, float, float], tmp_path: Path) -> None:
    """20 mm2 of lesion are 5 pixels of 2 x 2 mm in any plane; fewer lend no shape."""
    plane = {-3.0: "axial"}.get(sum(spacing_mm)) or ("sagittal", "coronal", "axial")[spacing_mm.index(-1.0)]
    settings = {"size": list(SIZE), "spacing_mm": list(spacing_mm), "plane": plane, "ceiling": 1.2}
    settings["foreground"] = "head"
    strata = fit_strata(np.linspace(0.1, 0.9, 10), EVERY, 1, 1)
    affine = np.diag([2.0, 2.0, 7.0, 1.0])
    writer = StoreWriter(tmp_path / "store", SIZE)
    for name, wide in (("anna", 4), ("berta", 5), ("clara", 6)):
        lesion = np.zeros((1, *SIZE), np.uint8)
        lesion[0, 20, 20 : 20 + wide] = 1
        cut = CutSlices(heads(1)[:, None], lesion, np.array([0.5]), np.array([0]), affine[None], (1.0,))
        writer.append(cut, name, name, name, "train")
    header = {"settings": settings, "label_names": ["lesion"], "channel_names": [""], "strata": strata.as_json()}
    writer.finish([0] * 3, header)
    card = {
        "recipe": {"prepare": settings},
        "label_names": ["lesion"],
        "channel_names": [""],
        "strata": strata.as_json(),
        "planes": [affine.tolist()],
    }
    donors = donors_in(SliceStore(tmp_path / "store"), card, "lesion", needed=True)
    assert donors is not None
    assert [donors.bases.store.rows[row].subject for row in donors.rows] == ["berta", "clara"]


def test_labels_smaller_than_a_pixel_are_refused(tmp_path: Path) -> None:
    """Of the packaged model, whose heads are found by their labels: nothing is left to find them by."""
    label = np.zeros((200, 200, 1), np.uint8)
    label[100, 100] = 3
    nib.save(nib.Nifti1Image(label, np.diag([0.4, 0.4, 2.0, 1.0])), tmp_path / "dot.nii.gz")
    with pytest.raises(DataError, match="nothing is left"):
        read_label_maps(tmp_path, find_model(EMBEDDED), (0.0, 1.0))
