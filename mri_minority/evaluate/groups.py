"""Which test slices are ordinary and which are rare: ranks inside strata, and means over patients."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata


def percentiles_within(values: npt.NDArray[np.float64], strata: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Rank of every value inside its stratum, as a share in (0, 1); equal values share their middle rank.

    Args:
        values: (N,).
        strata: (N,).
    """
    result = np.zeros(len(values))
    for stratum in np.unique(strata):
        here = strata == stratum
        result[here] = (rankdata(values[here]) - 0.5) / here.sum()
    return result


def quantile_groups(
    values: npt.NDArray[np.float64], strata: npt.NDArray[np.int64], groups: int
) -> npt.NDArray[np.int64]:
    """Group of every slice, 0 (lowest values of its stratum) to groups - 1 (highest), (N,)."""
    return np.minimum((percentiles_within(values, strata) * groups).astype(np.int64), groups - 1)


def rare_subjects(
    values: npt.NDArray[np.float64], strata: npt.NDArray[np.int64], subjects: Sequence[str], share: float
) -> frozenset[str]:
    """The share of subjects whose slices rank highest inside their strata, on average.

    Args:
        values: How rare each slice is (N,).
        strata: (N,).
        subjects: Of every slice.
        share: In [0, 1].
    """
    keys, of_slice = np.unique(np.array(subjects), return_inverse=True)
    mean = np.bincount(of_slice, percentiles_within(values, strata)) / np.bincount(of_slice)
    order = np.argsort(-mean, kind="stable")
    return frozenset(str(key) for key in keys[order[: round(share * len(keys))]])


def means_over_patients(
    values: npt.NDArray[np.float64], subjects: npt.NDArray[np.int64], chosen: npt.NDArray[np.bool_]
) -> npt.NDArray[np.float64]:
    """Every patient's mean over the chosen slices that have a value (P,); NaN for one without any.

    Args:
        values: (N,), NaN where undefined.
        subjects: Number of each slice's patient (N,), 0 to P - 1.
        chosen: (N,).
    """
    used = chosen & ~np.isnan(values)
    patients = int(subjects.max()) + 1
    total = np.bincount(subjects[used], values[used], minlength=patients)
    count = np.bincount(subjects[used], minlength=patients)
    result = np.full(patients, np.nan)
    np.divide(total, count, out=result, where=count > 0)
    return result
