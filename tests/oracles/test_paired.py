"""The paired bootstrap and Holm's correction, held to enumeration, to SciPy, and to worlds whose truth is known."""

import itertools

import numpy as np
import pytest
from scipy.stats import bootstrap

from mri_minority.evaluate.paired import holm, paired_bootstrap

RNG = np.random.default_rng(11)


def test_an_enumerated_world() -> None:
    """Two patients and two runs: 4 x 4 equally likely resamples, whose quantiles are known."""
    first = np.array([[1.0, 5.0], [2.0, 10.0]])
    found = paired_bootstrap(first, np.zeros((2, 2)), seed=0, draws=40_000)
    pairs = list(itertools.product(range(2), repeat=2))
    every = [first[np.ix_(runs, people)].mean() for runs in pairs for people in pairs]
    assert found.mean == 4.5
    # The extreme resamples have a probability of 1 in 16 each, so the 95 % interval reaches from end to end.
    assert (found.low, found.high) == (min(every), max(every))
    assert found.patients == 2


def test_as_scipy_with_one_run() -> None:
    """With one run it is SciPy's percentile bootstrap of the paired mean."""
    first, second = RNG.normal(0.3, 1, (2, 1, 40))
    found = paired_bootstrap(first, second, seed=3, draws=40_000)
    theirs = bootstrap(
        (first[0] - second[0],), np.mean, n_resamples=40_000, method="percentile", rng=np.random.default_rng(5)
    ).confidence_interval
    assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high), abs=0.01)


def test_few_patients_cannot_be_sure() -> None:
    """However alike their differences are: as many signs fall alike by chance with 2 * 0.5^n."""
    for patients in (1, 2, 5, 8):
        found = paired_bootstrap(np.ones((1, patients)), np.zeros((1, patients)), seed=0)
        assert found.p == pytest.approx(2 * 0.5**patients)
    alarms = [
        paired_bootstrap(*np.random.default_rng(study).normal(0, 1, (2, 3, 3)), seed=study, draws=500).p < 0.05
        for study in range(100)
    ]
    assert not any(alarms)


def test_runs_widen_the_interval() -> None:
    """Runs that disagree say that another run may give something else: patients alone would be certain."""
    shift = np.array([[-1.0], [0.0], [1.0]])
    patients = RNG.normal(0, 0.01, (1, 30))
    found = paired_bootstrap(shift + patients, np.zeros((3, 30)), seed=0)
    assert found.high - found.low > 1.0
    assert found.p > 0.3


def test_coverage_and_false_alarms() -> None:
    """No difference in truth: the interval holds 0 in about 95 % of studies, and p < 0.05 in the others."""
    studies = 400
    misses, alarms = 0, 0
    for study in range(studies):
        both = RNG.normal(0, 1, (2, 1, 40)) + RNG.normal(0, 5, (1, 1, 40))  # what a patient is like cancels
        found = paired_bootstrap(*both, seed=study, draws=1000)
        misses += not found.low <= 0 <= found.high
        alarms += found.p < 0.05
    # 5 % of 400 is 20, standard deviation 4.4; the bootstrap of 40 patients is a little too narrow.
    assert 8 <= misses <= 38
    assert abs(misses - alarms) <= 4


def test_a_true_difference_is_found() -> None:
    first, second = RNG.normal(0, 1, (2, 3, 30))
    found = paired_bootstrap(first + 2.0, second, seed=0, draws=2000)
    assert found.low > 1.0
    assert found.p == pytest.approx(2 / 2001)


def test_patients_without_a_value_are_left_out() -> None:
    first = np.array([[1.0, np.nan, 3.0]])
    found = paired_bootstrap(first, np.zeros((1, 3)), seed=0, draws=200)
    assert (found.mean, found.patients) == (2.0, 2)
    assert paired_bootstrap(np.full((2, 3), np.nan), np.zeros((2, 3)), seed=0).patients == 0


def test_different_slices_are_refused() -> None:
    with pytest.raises(ValueError, match="all runs or in none"):
        paired_bootstrap(np.array([[1.0, np.nan], [1.0, 2.0]]), np.zeros((2, 2)), seed=0)
    with pytest.raises(ValueError, match="runs x patients"):
        paired_bootstrap(np.zeros((1, 3)), np.zeros((1, 4)), seed=0)


def test_holm_as_published() -> None:
    assert holm(np.array([0.01, 0.04, 0.03, 0.005])) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_holm_is_closed_testing() -> None:
    """Holm is the closure of Bonferroni: p_i is the largest, over all sets with i, of min(1, size x smallest p)."""
    p = RNG.uniform(0, 0.6, 6)
    for i, adjusted in enumerate(holm(p)):
        others = [j for j in range(6) if j != i]
        sets = [(i, *s) for size in range(6) for s in itertools.combinations(others, size)]
        assert adjusted == pytest.approx(max(min(1.0, len(s) * min(p[list(s)])) for s in sets))


def test_holm_passes_over_what_was_not_asked() -> None:
    found = holm(np.array([0.02, np.nan, 0.03]))
    assert np.isnan(found[1])
    assert found[[0, 2]] == pytest.approx([0.04, 0.04])
