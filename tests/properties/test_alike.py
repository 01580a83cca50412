"""Whether two slices show the same part of the head: what must not matter, what must, and a little world by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter, zoom

from mri_minority.anatomy.alike import least_alike, look
from mri_minority.anatomy.edit import CannotReach, Mask


def head(seed: int) -> tuple[np.ndarray, Mask]:
    """A disc with a smooth pattern of its own in it."""
    x, y = np.meshgrid(np.linspace(-1.2, 1.2, 96), np.linspace(-1.2, 1.2, 96), indexing="ij")
    room = np.hypot(x, y) < 1
    pattern = gaussian_filter(np.random.default_rng(seed).standard_normal((96, 96)), 8)
    return np.where(room, pattern / pattern.std(), -1).astype(np.float32), room


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10**6), gain=st.floats(0.2, 5), offset=st.floats(-3, 3))
def test_size_place_and_brightness_do_not_matter(seed: int, gain: float, offset: float) -> None:
    image, room = head(seed)
    larger, its_room = zoom(image, 1.5, order=1), zoom(room.astype(np.float32), 1.5, order=1) > 0.5
    moved = np.pad(larger, ((3, 20), (31, 2)), constant_values=-1)
    its_room = np.pad(its_room, ((3, 20), (31, 2)))
    other = look((gain * moved + offset).astype(np.float32), its_room)
    assert float(look(image, room) @ other) > 0.97
    assert float(look(image, room) @ look(image, room)) == pytest.approx(1, abs=1e-5)


def test_other_anatomy_does() -> None:
    looks = np.stack([look(*head(seed)) for seed in range(12)])
    alike = (looks @ looks.T)[np.triu_indices(12, 1)]
    assert alike.max() < 0.9
    assert float(looks[0] @ look(-head(0)[0], head(0)[1])) == pytest.approx(-1, abs=1e-5)


def test_without_a_head() -> None:
    image, room = head(0)
    with pytest.raises(CannotReach, match="found none"):
        look(image, np.zeros_like(room))
    with pytest.raises(CannotReach, match="found a line"):
        look(image, np.eye(96, dtype=bool) & (np.arange(96) == 5))


def test_likeness_by_hand() -> None:
    """Angles on a circle: correlations are cosines. The nearest one of somebody else in the stratum counts."""
    angle = np.radians([0, 10, 40, 90, 5, 180])
    looks = np.stack([np.cos(angle), np.sin(angle)], axis=1).astype(np.float32)
    strata = np.array([0, 0, 0, 0, 1, 1])
    whose = np.array([7, 7, 8, 9, 7, 7])  # the first two are one person's; the last two have nobody to compare with
    best = np.cos(np.radians([40, 30, 30, 50]))
    for share in (0.0, 0.25, 1.0):
        assert least_alike(looks, strata, whose, share) == pytest.approx(np.quantile(best, share), abs=1e-6)
    alone = np.zeros(6, dtype=np.int64)
    assert least_alike(looks, strata, alone, 0.25) == -1
