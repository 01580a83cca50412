"""Distances to real slices whose answer is known."""

import numpy as np
import pytest

from mri_minority.evaluate.density import average_knn, local_outlier_factor


def test_average_of_the_nearest() -> None:
    """On a line of integers: from 10.25 the five nearest are at 0.25, 0.75, 1.25, 1.75, 2.25."""
    real = np.arange(20, dtype=np.float64)[:, None]
    assert average_knn(real, np.array([[10.25]]))[0] == pytest.approx(1.25)
    assert average_knn(real, np.array([[30.0]]))[0] == pytest.approx(13.0)
    assert average_knn(real, real, k=2, same=True)[5] == pytest.approx(1.0)
    assert average_knn(real, real, k=2, same=True)[0] == pytest.approx(1.5)
    with pytest.raises(ValueError, match="5 or more real slices for 5 neighbours, got 4"):
        average_knn(real[:4], real)
    with pytest.raises(ValueError, match="6 or more"):
        average_knn(real[:5], real[:5], same=True)


def test_outlier_factor_is_one_inside_and_grows_outside() -> None:
    """A regular grid has one density everywhere; a point ten grid steps away stands out by about its distance."""
    real = np.stack(np.meshgrid(np.arange(20.0), np.arange(20.0)), axis=-1).reshape(-1, 2)
    inside, outside = local_outlier_factor(real, np.array([[9.5, 9.5], [30.0, 9.5]]))
    assert inside == pytest.approx(1.0, abs=0.1)
    assert outside > 3
    assert local_outlier_factor(real[:5], real[:1] + 0.5).shape == (1,)
    with pytest.raises(ValueError, match="three or more"):
        local_outlier_factor(real[:2], real)
