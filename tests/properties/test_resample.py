"""Resampling keeps the world: a linear ramp stays that ramp, a ball its place and size, whatever the grid."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mri_minority.transforms.resample import at_spacing
from mri_minority.volumes.volume import Volume


def volume_of(image: np.ndarray, label: np.ndarray | None, affine: np.ndarray) -> Volume:
    return Volume(image.astype(np.float32), label, affine, "s", "a", "0" * 64)


def world_of(affine: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """World coordinates (X, Y, Z, 3) of every voxel."""
    index = np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij"), axis=-1)
    return index @ affine[:3, :3].T + affine[:3, 3]


spacings = st.tuples(*[st.floats(0.7, 3.0)] * 3)


@settings(max_examples=25, deadline=None)
@given(spacings, spacings, st.floats(0, 0.6))
def test_the_world_stays(before: tuple[float, ...], after: tuple[float, ...], tilt: float) -> None:
    turn = np.array([[np.cos(tilt), -np.sin(tilt), 0], [np.sin(tilt), np.cos(tilt), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag(before)
    affine[:3, 3] = [-31, 12, 7]
    shape = tuple(int(44 / mm) for mm in before)
    world = world_of(affine, shape)
    centre = world.reshape(-1, 3).mean(axis=0)
    ball = (np.linalg.norm(world - centre, axis=-1) < 14).astype(np.int32)
    found = at_spacing(volume_of(world @ [1.0, -2.0, 0.5], ball, affine), after)
    there = world_of(found.affine, found.image.shape)
    inner = tuple(slice(n // 4, n - n // 4) for n in found.image.shape)
    np.testing.assert_allclose(found.image[inner], (there @ [1.0, -2.0, 0.5])[inner], atol=0.1)
    assert found.label is not None
    moved = there[found.label == 1]
    np.testing.assert_allclose(moved.mean(axis=0), centre, atol=0.6)
    volume = len(moved) * abs(np.linalg.det(found.affine[:3, :3]))
    assert volume == pytest.approx(4 / 3 * np.pi * 14**3, rel=0.2)


def test_what_fits_is_left_alone() -> None:
    plain = volume_of(np.zeros((4, 5, 1)), None, np.diag([2.0, 2.0, 5.0, 1.0]))
    assert at_spacing(plain, [2.0, 2.01, 2.0]) is plain
    assert at_spacing(plain, [2.0, 2.0, -1.0]) is plain


def test_a_thin_structure_is_averaged_not_dropped() -> None:
    """Stripes of one voxel in three, looked at through voxels of three: a third everywhere."""
    stripes = np.zeros((30, 6, 6))
    stripes[::3] = 1
    found = at_spacing(volume_of(stripes, None, np.diag([1.0, 1.0, 1.0, 1.0])), [3.0, 1.0, 1.0])
    np.testing.assert_allclose(found.image[2:-2], 1 / 3, atol=0.12)
