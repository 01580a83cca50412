"""Scans that are labelled: where they lie and what they are measured by, whatever grid they come on."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from mri_minority.slices.select import SliceSettings, cut_slices
from mri_minority.volumes.phantom import LABELS, PhantomSubject, make_subject
from mri_minority.volumes.volume import Volume
from mri_minority_pipelines.events import Event
from mri_minority_pipelines.model_folder import find_model
from mri_minority_pipelines.scans import read_scan
from mri_minority_pipelines.stages import label
from tests.support.tiny import silent

CPU = torch.device("cpu")
MODEL = find_model("embedded")
SETTINGS = MODEL.card()["recipe"]["prepare"]
SIZE = (96, 112)


def save(path: Path, array: np.ndarray, affine: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, affine), path)
    return path


def slab(head: PhantomSubject, finer: int) -> tuple[np.ndarray, np.ndarray]:
    """Two planes of a phantom in a wider field than a model's, every voxel cut into so many along each axis."""
    middle = head.image.shape[2] // 2
    image = np.pad(head.image[:, :, middle : middle + 2], ((4, 4), (7, 4), (0, 0)), mode="edge")
    affine = head.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ [-4, -7, middle] + affine[:3, :3] @ np.full(3, (1 / finer - 1) / 2)
    affine[:3, :3] /= finer
    for axis in range(3):
        image = np.repeat(image, finer, axis=axis)
    return image, affine


def labels_at(folder: Path, points: np.ndarray) -> np.ndarray:
    """Classes that the written label maps have at places in the world (n, 3), each from the nearest slice."""
    maps = [nib.load(path) for path in sorted((folder / "labels").iterdir())]
    planes, height = [np.asarray(one.dataobj) for one in maps], np.array([one.affine[2, 3] for one in maps])
    found = np.zeros(len(points), np.uint8)
    for number, point in enumerate(points):
        nearest = int(np.abs(height - point[2]).argmin())
        at = np.rint(nib.affines.apply_affine(np.linalg.inv(maps[nearest].affine), point)).astype(int)[:2]
        if (at >= 0).all() and (at < maps[nearest].shape[:2]).all():
            found[number] = planes[nearest][at[0], at[1], 0]
    return found


@pytest.mark.slow
def test_a_scan_of_other_voxels_gets_the_same_label_map(tmp_path: Path) -> None:
    """The same head in voxels of 1 and of 2 mm: the classes lie at the same places of the world."""
    config = MODEL.recipe().sample.model_copy(update={"steps": 3, "precision": "float32"})
    head = make_subject(3, 1, rare=True)
    for finer in (2, 1):
        image, affine = slab(head, finer)
        save(tmp_path / f"in{finer}" / "head.nii.gz", image, affine)
        label.run(tmp_path / f"in{finer}", MODEL, tmp_path / f"out{finer}", config, 1, 0, CPU, silent)
    places = nib.affines.apply_affine(affine, np.argwhere(np.ones((*image.shape[:2], 1))))
    fine, coarse = (labels_at(tmp_path / f"out{finer}", places) for finer in (2, 1))
    for value in (1, 2, 3):
        assert (coarse == value).sum() > 20
        both = ((fine == value) & (coarse == value)).sum()
        assert 2 * both / ((fine == value).sum() + (coarse == value).sum()) > 0.9


@pytest.mark.parametrize("foreground", ["labels", "head"])
@pytest.mark.parametrize("mm", [1.6, 3.0])
def test_a_scan_is_cut_as_prepare_cuts_it(foreground: str, mm: float, tmp_path: Path) -> None:
    """Where its labelled area is known, or only its head is asked for: the same pixels at the same places."""
    head = make_subject(3, 2, rare=False, spacing_mm=mm)
    classes = {name: (value,) for name, value in LABELS.items()}
    volume = Volume(head.image, head.label.astype(np.int32), head.affine, "a", "a", "0")
    cut = cut_slices([volume], SliceSettings((2.0, 2.0, 2.0), SIZE, "axial", (0.0, 1.0), 1.2, classes, foreground))
    scan = read_scan(save(tmp_path / "head.nii.gz", head.image, head.affine), SETTINGS)
    place = scan.by_head(SIZE)
    if foreground == "head":
        np.testing.assert_allclose(scan.heights()[cut.index], cut.height)
    else:
        known, affine = cut.label, cut.affine[0]
        shift = np.rint(np.linalg.solve(affine[:3, :3], scan.affines[0][:3, 3] - affine[:3, 3]))[:2].astype(int)
        first = [place.centre[a] - SIZE[a] // 2 + shift[a] for a in (0, 1)]
        at_place = np.stack([np.roll(plane, [-n for n in first], axis=(0, 1)) for plane in known])
        place = scan.by_labels(cut.index, at_place, place)
    for number, index in enumerate(cut.index):
        image, affine = scan.cut(int(index), place, SIZE, 1.2)
        # Where prepare's box leaves the volume its zeros are the darkest, as here.
        np.testing.assert_allclose(image, cut.image[number, 0], atol=1e-5)
        np.testing.assert_allclose(affine, cut.affine[number], atol=1e-4)  # files hold float32


def test_nothing_of_an_interrupted_run_is_taken_over(tmp_path: Path) -> None:
    """Not even where it was about other images."""
    config = MODEL.recipe().sample.model_copy(update={"steps": 2, "precision": "float32"})
    plane = np.zeros((*SIZE, 1), np.float32)
    plane[30:70, 30:80] = 100
    for name in ("first", "second"):
        save(tmp_path / name / "a.nii.gz", plane + len(name), np.diag([2.0, 2.0, 2.0, 1.0]))
    save(tmp_path / "first" / "b.nii.gz", plane, np.diag([2.0, 2.0, 2.0, 1.0]))

    class Stopped(Exception):
        """Ctrl-C."""

    def stop(event: Event) -> None:
        if event.stage == "label" and event.done > 0:
            raise Stopped

    with pytest.raises(Stopped):
        label.run(tmp_path / "first", MODEL, tmp_path / "out", config, 1, 0, CPU, stop)
    assert not (tmp_path / "out").exists()
    label.run(tmp_path / "second", MODEL, tmp_path / "out", config, 1, 0, CPU, silent)
    said = json.loads((tmp_path / "out" / "labels.json").read_text(encoding="utf-8"))
    named = {f"{row['name']}.nii.gz" for row in said["slices"]}
    for kind in ("labels", "spread"):
        assert {path.name for path in (tmp_path / "out" / kind).iterdir()} == named
