"""Is one arm better than another? Paired differences of patients, resampled, with a correction for asking often."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Values = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Difference:
    """How much better the first arm is.

    Args:
        mean: Mean paired difference over patients and seeds; NaN without patients.
        low: Lower end of the 95 % interval.
        high: Upper end.
        p: Two-sided, of no difference.
        patients: How many had a value in both arms.
    """

    mean: float
    low: float
    high: float
    p: float
    patients: int


def paired_bootstrap(first: Values, second: Values, seed: int, draws: int = 10_000) -> Difference:
    """Resample patients, and training runs, with replacement; percentile interval of the mean difference.

    A patient's slices are no independent cases, and neither are the patients under one training run: both are drawn
    anew, each patient and each run with all that belongs to it. With one run this is the plain patient bootstrap, and
    says nothing of what another run would give.

    Args:
        first: One value per run and patient (S, P); NaN where a patient has none.
        second: The same of the other arm; run s of both had the same seed.
        seed: Of the draws.
        draws: How many.

    Raises:
        ValueError: The shapes differ, or a patient lacks a value in some runs only.

    Reference:
        Efron & Tibshirani 1993, chapters 13 and 15. The p-value inverts the interval: twice the smaller share of draws
        on one side of zero, the observed sample counted as one of them; and no smaller than a sign test's of as many
        patients. Below some eight patients the interval is too narrow.
    """
    if first.shape != second.shape or first.ndim != 2:
        raise ValueError(f"expected runs x patients of both arms, got {first.shape} and {second.shape}")
    both = first - second
    here = ~np.isnan(both)
    if (here.any(axis=0) != here.all(axis=0)).any():
        raise ValueError("expected a patient's value in all runs or in none: arms were tested on different slices")
    both = both[:, here.all(axis=0)]
    runs, patients = both.shape
    if not patients:
        return Difference(np.nan, np.nan, np.nan, np.nan, 0)
    rng = np.random.default_rng(seed)
    of_patients = rng.multinomial(patients, np.full(patients, 1 / patients), size=draws) / patients
    of_runs = rng.multinomial(runs, np.full(runs, 1 / runs), size=draws) / runs
    means = np.einsum("ds,sp,dp->d", of_runs, both, of_patients, optimize=True)
    low, high = np.quantile(means, [0.025, 0.975])
    tail = min(int((means <= 0).sum()), int((means >= 0).sum()))
    # Resampling a few patients never shows the other sign; all of them agreeing says no more than a sign test.
    p = min(1.0, max(2 * (tail + 1) / (draws + 1), 2 * 0.5**patients))
    return Difference(float(both.mean()), float(low), float(high), p, patients)


def holm(p: Values) -> Values:
    """Adjusted p-values (N,): below 0.05 for at most one true null in any of the N with a probability of 5 %.

    p_(i) -> max over j <= i of min(1, (N - j + 1) p_(j)), for p sorted upwards. NaN stays NaN and does not count.

    Reference:
        S. Holm, A simple sequentially rejective multiple test procedure, Scand. J. Statist. 6 (1979).
    """
    result = np.full(len(p), np.nan)
    asked = np.flatnonzero(~np.isnan(p))
    order = asked[np.argsort(p[asked], kind="stable")]
    factor = np.arange(len(order), 0, -1)
    result[order] = np.maximum.accumulate(np.minimum(1.0, factor * p[order]))
    return result
