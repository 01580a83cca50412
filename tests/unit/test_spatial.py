"""Resampling is MONAI's, in less memory; boxes are where they should be.

Where a voxel lies exactly half-way between two labels MONAI leaves the choice to rounding errors; no such case here.
"""

import numpy as np
import pytest
import torch
from monai.data.meta_tensor import MetaTensor
from monai.transforms import Spacing

from mri_minority.transforms.spatial import box_about, boxed, resampled, target_grid

TURNED = np.array([[1.3, 0.1, 0, 3], [-0.1, 1.7, 0.2, 4], [0, 0.1, 2.2, -9], [0, 0, 0, 1]])
SHEARED = np.array([[0.9, 0, 0, 3], [0, 0.9, 0.4, 4], [0, 0, 2.2, -9], [0, 0, 0, 1]])


@pytest.mark.parametrize("affine", [TURNED, SHEARED, np.diag([1.9, 2.1, 2.3, 1.0])])
@pytest.mark.parametrize("spacing_mm", [(2.0, 2.0, 2.0), (1.0, 3.0, -1.0), (0.7, 1.1, 4.0)])
def test_resampling_is_monais(affine: np.ndarray, spacing_mm: tuple[float, float, float]) -> None:
    values = np.random.default_rng(0).normal(size=(21, 18, 15)).astype(np.float32)
    shape, target = target_grid(values.shape, affine, spacing_mm)
    for source, mode in ((values, "bilinear"), ((values > 0).astype(np.float32), "nearest")):
        volume = MetaTensor(torch.as_tensor(source)[None], affine=torch.as_tensor(affine))
        theirs = Spacing(spacing_mm, mode=mode, padding_mode="border")(volume)
        assert shape == tuple(theirs.shape[1:])
        np.testing.assert_allclose(target, np.asarray(theirs.affine), atol=1e-12)
        ours = resampled(source, affine, shape, target, linear=mode == "bilinear")
        np.testing.assert_allclose(ours, theirs.numpy()[0], atol=1e-6)


def test_views_with_any_strides_are_read() -> None:
    values = np.random.default_rng(1).normal(size=(9, 8, 7)).astype(np.float32)
    view = np.ascontiguousarray(values[::-1, :, ::-1].transpose(2, 0, 1)).transpose(1, 2, 0)[::-1, :, ::-1]
    shape, target = target_grid(values.shape, TURNED, (1.0, 1.0, 1.0))
    np.testing.assert_array_equal(
        resampled(view, TURNED, shape, target, True), resampled(values, TURNED, shape, target, True)
    )


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_box_is_about_the_middle_and_padded_with_zeros(axis: int) -> None:
    values = np.arange(1, 1 + 6 * 7 * 8).reshape(6, 7, 8)
    mask = np.zeros(values.shape, bool)
    mask[1:4, 2:6, 3:5] = True
    start = box_about(mask, (10, 4), axis)
    box = boxed(values, start, (10, 4), axis)
    assert start[axis] == 0
    assert box.shape[axis] == values.shape[axis]
    assert sorted(n for a, n in enumerate(box.shape) if a != axis) == [4, 10]
    for at in np.argwhere(box):
        assert box[tuple(at)] == values[tuple(at + start)]
    inside = [slice(max(0, s), s + n) for s, n in zip(start, box.shape, strict=True)]
    assert np.count_nonzero(box) == values[tuple(inside)].size
