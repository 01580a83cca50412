"""How close a set of slices is to the real ones, in a feature space the generator never saw."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

Features = npt.NDArray[np.float64]
"""(N, F), one row per slice. float32 is kept as it is, which halves memory and time and costs six digits."""

BLOCK = 2**24
"""Distances that are in memory at once."""

_CLOSE = 1e-3
"""Squared distance, in units of the squared lengths, below which |a|^2 + |b|^2 - 2 a.b loses too many digits."""


def blocks(count: int, others: int) -> Iterator[slice]:
    """Slices that cover 0 to count, each of so many rows that a matrix of it with others has at most BLOCK entries."""
    step = max(1, BLOCK // max(1, others))
    for start in range(0, count, step):
        yield slice(start, min(start + step, count))


def distances(rows: Features, others: Features) -> Features:
    """Euclidean distances (N, M) by one matrix product, hundreds of times faster than pair by pair.

    Args:
        rows: (N, F).
        others: (M, F).
    """
    length, other_length = (np.einsum("nf,nf->n", a, a) for a in (rows, others))
    square = rows @ others.T
    square *= -2
    square += length[:, None]
    square += other_length
    # The difference of large numbers is not exact: what lies close is computed again, pair by pair.
    for n in range(len(rows)):
        close = np.flatnonzero(square[n] < _CLOSE * (length[n] + other_length))
        if len(close):
            square[n, close] = ((rows[n] - others[close]) ** 2).sum(axis=1)
    return np.sqrt(np.maximum(square, 0, out=square), out=square)


def nearest_distances(rows: Features, others: Features, k: int, same: bool = False) -> Features:
    """Distances of every row to its k nearest others, in order (N, k); memory does not grow with N x M.

    Args:
        rows: (N, F).
        others: (M, F).
        k: Neighbours.
        same: The rows are the others, each of which is not its own neighbour.
    """
    parts = []
    for part in blocks(len(rows), len(others)):
        distance = distances(rows[part], others)
        if same:
            distance[np.arange(part.stop - part.start), np.arange(part.start, part.stop)] = np.inf
        distance.partition(k - 1, axis=1)
        parts.append(np.sort(distance[:, :k], axis=1))
    return np.concatenate(parts)


def kid(real: Features, fake: Features) -> float:
    """Kernel inception distance: unbiased squared MMD with the kernel (x.y / F + 1)^3 (Binkowski et al. 2018).

    Small sets give an unbiased value, which may be below zero when the sets are alike.
    """
    m, n = len(real), len(fake)
    if m < 2 or n < 2:
        raise ValueError(f"expected two or more slices in each set, got {m} and {n}")

    def total(a: Features, b: Features) -> float:
        return float(sum(((a[part] @ b.T / a.shape[1] + 1) ** 3).sum() for part in blocks(len(a), len(b))))

    def diagonal(a: Features) -> float:
        return float((((a * a).sum(axis=1) / a.shape[1] + 1) ** 3).sum())

    real_part = (total(real, real) - diagonal(real)) / (m * (m - 1))
    fake_part = (total(fake, fake) - diagonal(fake)) / (n * (n - 1))
    return real_part + fake_part - 2 * total(real, fake) / (m * n)


def fid(real: Features, fake: Features) -> float:
    """Frechet distance of two Gaussians fitted to the sets; biased upwards for small sets, so state N with it.

    |m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)).

    Raises:
        ValueError: Fewer than two rows in a set.

    Reference: Heusel et al. 2017, equation 6.
    """
    if min(len(real), len(fake)) < 2:
        raise ValueError(f"expected two or more slices in each set, got {len(real)} and {len(fake)}")
    # With S = R'R, the trace of (S1 S2)^(1/2) is the sum of the singular values of R1 R2': no F x F matrix when there
    # are fewer slices than features, and singular covariances do no harm.
    first, second = (np.linalg.qr(rows - rows.mean(axis=0), mode="r") / np.sqrt(len(rows) - 1) for rows in (real, fake))
    gap = real.mean(axis=0) - fake.mean(axis=0)
    root = np.linalg.svd(first @ second.T, compute_uv=False).sum()
    return float(gap @ gap + (first**2).sum() + (second**2).sum() - 2 * root)


def precision_recall(real: Features, fake: Features, k: int = 3) -> tuple[float, float]:
    """Improved precision and recall (Kynkaanniemi et al. 2019), block by block.

    Precision: share of fake rows inside a ball of some real row, whose radius is its k-th nearest real neighbour.
    Recall: the same with the sets exchanged.
    """
    if min(len(real), len(fake)) <= k:
        raise ValueError(f"expected more than {k} slices in each set, got {len(real)} and {len(fake)}")
    return float(inside(real, fake, k).mean()), float(inside(fake, real, k).mean())


def inside(centres: Features, rows: Features, k: int) -> npt.NDArray[np.bool_]:
    """Which rows (N,) lie in a ball about some centre that reaches to its k-th nearest other centre."""
    radius = nearest_distances(centres, centres, k, same=True)[:, -1]
    parts = [(distances(rows[part], centres) <= radius).any(axis=1) for part in blocks(len(rows), len(centres))]
    return np.concatenate(parts)


def density_coverage(real: Features, fake: Features, k: int = 5) -> tuple[float, float]:
    """Density and coverage (Naeem et al. 2020, equations 4 and 5), block by block.

    Density: mean number of real balls that a fake row lies in, divided by k. Coverage: share of real balls that hold a
    fake row.

    Raises:
        ValueError: Not more than k rows in a set.
    """
    if min(len(real), len(fake)) <= k:
        raise ValueError(f"expected more than {k} slices in each set, got {len(real)} and {len(fake)}")
    radius = nearest_distances(real, real, k, same=True)[:, -1]
    covered, count = 0, 0
    for part in blocks(len(real), len(fake)):
        distance = distances(real[part], fake)
        count += int((distance < radius[part, None]).sum())
        covered += int((distance.min(axis=1) < radius[part]).sum())
    return count / (k * len(fake)), covered / len(real)
