"""Surface distances: shapes whose distance is known, MONAI's implementation, and structures that are missing."""

import math

import numpy as np
import numpy.typing as npt
import pytest
import torch
from monai.metrics import compute_hausdorff_distance
from scipy.ndimage import gaussian_filter

from mri_minority.evaluate.surface import surface_distance_95

Maps = npt.NDArray[np.uint8]


def square(left: int, low: int, side: int = 10) -> Maps:
    plane = np.zeros((1, 40, 50), np.uint8)
    plane[0, left : left + side, low : low + side] = 2
    return plane


def test_equal_maps_have_no_distance() -> None:
    assert surface_distance_95(square(5, 5), square(5, 5), 2, (2.0, 2.0)) == 0.0


@pytest.mark.parametrize(("spacing", "millimetres"), [((1.0, 1.0), 20.0), ((2.5, 1.0), 50.0), ((1.0, 3.0), 20.0)])
def test_two_bars_a_known_way_apart(spacing: tuple[float, float], millimetres: float) -> None:
    """Parallel bars one pixel thick: every pixel of one is 20 rows from the other."""
    a, b = np.zeros((2, 1, 40, 50), np.uint8)
    a[0, 5], b[0, 25] = 1, 1
    assert surface_distance_95(a, b, 1, spacing)[0] == pytest.approx(millimetres)


def test_it_is_the_worse_direction() -> None:
    """All of a is in b, but half of b is far from a."""
    a, b = np.zeros((2, 1, 40, 50), np.uint8)
    a[0, 5], b[0, 5], b[0, 25] = 1, 1, 1
    assert surface_distance_95(a, b, 1, (1.0, 1.0))[0] == pytest.approx(20.0)
    assert surface_distance_95(b, a, 1, (1.0, 1.0))[0] == pytest.approx(20.0)


def test_one_stray_pixel_in_a_hundred_does_not_count() -> None:
    """What distinguishes the 95th percentile from the largest distance."""
    a = np.zeros((1, 40, 110), np.uint8)
    a[0, 5, :100] = 1
    stray = a.copy()
    stray[0, 35, 50] = 1
    assert surface_distance_95(stray, a, 1, (1.0, 1.0))[0] == 0.0


def test_only_the_asked_class_counts() -> None:
    a, b = square(5, 5), square(5, 5)
    b[0, 30:, 30:] = 1
    assert surface_distance_95(a, b, 2, (1.0, 1.0))[0] == 0.0


def test_missing_structures() -> None:
    nothing = np.zeros((1, 40, 50), np.uint8)
    diagonal = math.hypot(40 * 2.0, 50 * 1.5)
    assert surface_distance_95(nothing, square(5, 5), 2, (2.0, 1.5))[0] == pytest.approx(diagonal)
    assert surface_distance_95(square(5, 5), nothing, 2, (2.0, 1.5))[0] == pytest.approx(diagonal)
    assert np.isnan(surface_distance_95(nothing, nothing, 2, (2.0, 1.5))[0])


@pytest.mark.filterwarnings("ignore:.*always_return_as_numpy.*:FutureWarning")  # MONAI 1.6 warns about itself
def test_as_monai() -> None:
    rng = np.random.default_rng(4)

    def blobs() -> Maps:
        return np.stack([gaussian_filter(rng.normal(size=(48, 64)), 3) > 0.03 for _ in range(12)]).astype(np.uint8)

    a, b = blobs(), blobs()
    theirs = compute_hausdorff_distance(
        torch.as_tensor(a)[:, None],
        torch.as_tensor(b)[:, None],
        include_background=True,
        percentile=95,
        spacing=[2.0, 1.25],
    )
    assert surface_distance_95(a, b, 1, (2.0, 1.25)) == pytest.approx(theirs[:, 0].numpy(), rel=1e-5)
