"""The measures equal independent implementations on the same features.

prdc 0.2 (precision, recall, density, coverage) is too small to depend on, so its formulas are written out densely here;
`record` values below come from that package and torch-fidelity 0.4.0, see RECORDED.
"""

import numpy as np
import pytest
from scipy.linalg import sqrtm
from scipy.spatial.distance import cdist
from sklearn.metrics.pairwise import polynomial_kernel
from sklearn.neighbors import LocalOutlierFactor

from mri_minority.evaluate import fidelity
from mri_minority.evaluate.density import average_knn, local_outlier_factor, rarity_score
from mri_minority.evaluate.fidelity import density_coverage, distances, fid, kid, precision_recall
from mri_minority.evaluate.texture import random_pairs, similarities

RECORDED = {
    "precision": 0.7866666666666666,
    "recall": 0.9314285714285714,
    "density": 0.6483333333333334,
    "coverage": 0.8328571428571429,
    "fid": 1.4346353622282386,
}
"""Made with prdc 0.2 (`compute_prdc(real, fake, 5)`) and torch-fidelity 0.4.0 (`fid_statistics_to_metric`)."""


def sets() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.normal(size=(700, 12)), rng.normal(0.3, 1.1, size=(600, 12))


def test_as_prdc_and_torch_fidelity() -> None:
    real, fake = sets()
    precision, recall = precision_recall(real, fake, k=5)
    density, coverage = density_coverage(real, fake, k=5)
    found = {"precision": precision, "recall": recall, "density": density, "coverage": coverage, "fid": fid(real, fake)}
    assert found == pytest.approx(RECORDED, abs=1e-6)


def test_as_scikit_learn() -> None:
    real, fake = sets()
    model = LocalOutlierFactor(n_neighbors=20, novelty=True).fit(real)
    np.testing.assert_allclose(local_outlier_factor(real, fake), -model.score_samples(fake), atol=1e-6)
    m, n = len(real), len(fake)
    xx, yy, xy = (polynomial_kernel(a, b, degree=3, coef0=1) for a, b in ((real, real), (fake, fake), (real, fake)))
    expected = (xx.sum() - np.trace(xx)) / (m * (m - 1)) + (yy.sum() - np.trace(yy)) / (n * (n - 1)) - 2 * xy.mean()
    assert kid(real, fake) == pytest.approx(expected, abs=1e-6)
    np.testing.assert_allclose(average_knn(real, fake), np.sort(cdist(fake, real), axis=1)[:, :5].mean(axis=1))


def test_distances_are_those_of_pairs_even_where_rows_repeat() -> None:
    """Far from the origin |a|^2 + |b|^2 - 2 a.b has few digits left; doubled rows must still be at distance 0."""
    rng = np.random.default_rng(1)
    rows = 1000 + rng.normal(size=(60, 8))
    others = np.concatenate([rows[:10], rows[:5] + 1e-7, 1000 + rng.normal(size=(40, 8))])
    np.testing.assert_allclose(distances(rows, others), cdist(rows, others), rtol=1e-6, atol=1e-12)
    assert (np.diag(distances(rows, others)[:10, :10]) == 0).all()


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    real, fake = sets()
    whole = precision_recall(real, fake, 5), density_coverage(real, fake, 5), local_outlier_factor(real, fake)
    monkeypatch.setattr(fidelity, "BLOCK", 3000)
    parts = precision_recall(real, fake, 5), density_coverage(real, fake, 5), local_outlier_factor(real, fake)
    assert parts[:2] == whole[:2]
    np.testing.assert_allclose(parts[2], whole[2], rtol=1e-12)


def test_rarity_score_is_the_smallest_ball() -> None:
    """On integers with a gap: 0..9 have radius 2 (k = 2, inside 1); far away it is undefined."""
    real = np.array([[0.0], [1.0], [2.0], [3.0], [10.0]])
    score = rarity_score(real, np.array([[1.5], [6.5], [-5.0]]), k=2)
    assert score[0] == 1.0
    assert score[1] == 8.0
    assert np.isnan(score[2])


def test_fid_of_known_gaussians() -> None:
    """Shifted copies: the squared shift and nothing else."""
    real, _ = sets()
    assert fid(real, real + 0.5) == pytest.approx(12 * 0.25, abs=1e-6)


def test_fid_needs_no_more_slices_than_features() -> None:
    """40 slices of 300 features: covariances of rank 39, as the textbook formula with matrix square roots has it."""
    rng = np.random.default_rng(3)
    real, fake = rng.normal(size=(40, 300)), rng.normal(0.1, 1.2, size=(30, 300))
    first, second = np.cov(real, rowvar=False), np.cov(fake, rowvar=False)
    gap = real.mean(axis=0) - fake.mean(axis=0)
    expected = gap @ gap + np.trace(first + second) - 2 * np.trace(sqrtm(first @ second)).real
    assert fid(real, fake) == pytest.approx(expected, rel=1e-6)


def test_diversity_is_one_for_the_same_and_less_for_others() -> None:
    image = np.random.default_rng(0).uniform(-1, 1, (1, 48, 48)).astype(np.float32)
    np.testing.assert_allclose(similarities(np.repeat(image, 3, axis=0), random_pairs(3, 4, 0)), 1.0)
    others = np.random.default_rng(1).uniform(-1, 1, (5, 48, 48)).astype(np.float32)
    assert (similarities(others, random_pairs(5, 8, 0)) < 0.2).all()
