"""How far a figure of a set of slices would move with other people: intervals from halves of the subjects.

The bootstrap is not used here. It draws some subjects twice, and a slice that meets itself is its own nearest
neighbour: balls shrink to nothing, and precision, coverage and kernel distances say something else altogether. Halves
are drawn without repeats.
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Index = npt.NDArray[np.int64]
Figures = dict[str, float]

FEWEST_SUBJECTS = 8
"""Below it no interval is given: four people say little about how people differ."""


def half_intervals(
    subjects: tuple[list[str], ...], of: Callable[[tuple[Index, ...]], Figures], seed: int, draws: int = 100
) -> dict[str, tuple[float, float]]:
    """95 % intervals of the figures of one or several sets of slices.

    The variance of a figure of n subjects is n' / (n - n') times its variance over random subsets of n', here half of
    them (Shao & Wu 1989, the delete-d jackknife, which also holds for figures that are not smooth). All sets are halved
    at once, so that an interval covers the chance in each. In a half neighbours are farther off and a figure's level
    differs: only its spread is used, about the figure of the whole. Shares of nearest-neighbour balls come out up to
    1.6 times too wide, never too narrow (tests/oracles/test_halves.py).

    Args:
        subjects: Of every slice, per set. Slices of a subject stay together; a synthetic slice is its own.
        of: Positions in every set -> figures, the same names for all subsets.
        seed: Of the halves.
        draws: How many.

    Returns:
        Name -> (low, high); empty if a set has fewer than 8 subjects. A figure that some half has none of (NaN) is left
        out.
    """
    members = [_by_subject(set_) for set_ in subjects]
    if min(len(found) for found in members) < FEWEST_SUBJECTS:
        return {}
    rng = np.random.default_rng(seed)
    values = [of(tuple(_half(found, rng) for found in members)) for _ in range(draws)]
    whole = of(tuple(np.arange(len(set_)) for set_ in subjects))
    # kept / left out is 1 but for odd numbers, of which more than half is kept.
    wider = max(np.sqrt(-(-len(found) // 2) / (len(found) // 2)) for found in members)
    result = {}
    for name, value in whole.items():
        reach = 1.96 * wider * float(np.std([v[name] for v in values], ddof=1))
        if np.isfinite(reach):
            result[name] = (value - reach, value + reach)
    return result


def _by_subject(subjects: list[str]) -> list[Index]:
    keys = np.array(subjects)
    return [np.flatnonzero(keys == key) for key in np.unique(keys)]


def _half(members: list[Index], rng: np.random.Generator) -> Index:
    chosen = rng.permutation(len(members))[: -(-len(members) // 2)]
    return np.sort(np.concatenate([members[i] for i in chosen]))
