"""How sparsely real slices lie around each slice, in a feature space the generator never saw."""

import numpy as np
import numpy.typing as npt

from mri_minority.evaluate.fidelity import Features, blocks, distances, nearest_distances


def average_knn(real: Features, rows: Features, k: int = 5, same: bool = False) -> npt.NDArray[np.float64]:
    """AvgkNN: mean distance of every row to its k nearest real ones (N,); larger is rarer.

    A broken slice is far from everything too: read it beside precision.

    Args:
        real: (M, F).
        rows: (N, F).
        k: Neighbours.
        same: The rows are the real ones themselves, each of which is not its own neighbour.

    Raises:
        ValueError: Not enough real rows.

    Reference: Um, Lee & Ye 2024, section 5.1 (k = 5).
    """
    if len(real) < k + same:
        raise ValueError(f"expected {k + same} or more real slices for {k} neighbours, got {len(real)}")
    nearest: npt.NDArray[np.float64] = nearest_distances(rows, real, k, same).mean(axis=1)
    return nearest


def local_outlier_factor(real: Features, rows: Features, k: int = 20) -> npt.NDArray[np.float64]:
    """LOF of every row against the real ones (N,): about 1 inside, larger where real slices thin out.

    Args:
        real: (M, F).
        rows: New rows, none of which is among the real ones (N, F).
        k: Neighbours; lowered to M - 1 when there are fewer real rows.

    Raises:
        ValueError: Fewer than three real rows.

    Reference: Breunig et al. 2000; as scikit-learn's novelty mode, block by block.
    """
    if len(real) < 3:
        raise ValueError(f"expected three or more real slices, got {len(real)}")
    k = min(k, len(real) - 1)
    home_distance, home = _nearest(real, real, k, same=True)
    reach = home_distance[:, -1]
    density = 1 / (np.maximum(home_distance, reach[home]).mean(axis=1) + 1e-10)
    distance, near = _nearest(rows, real, k, same=False)
    own = 1 / (np.maximum(distance, reach[near]).mean(axis=1) + 1e-10)
    factor: npt.NDArray[np.float64] = density[near].mean(axis=1) / own
    return factor


def rarity_score(real: Features, rows: Features, k: int = 3) -> npt.NDArray[np.float64]:
    """Radius of the smallest real ball that holds each row (N,); NaN (undefined) where none does.

    A ball reaches to its centre's k-th nearest real neighbour.

    Raises:
        ValueError: Not more than k real rows.

    Reference: Han et al. 2023, equation 2.
    """
    if len(real) <= k:
        raise ValueError(f"expected more than {k} real slices, got {len(real)}")
    radius = nearest_distances(real, real, k, same=True)[:, -1]
    parts = []
    for part in blocks(len(rows), len(real)):
        inside = np.where(distances(rows[part], real) <= radius[None], radius[None], np.inf).min(axis=1)
        parts.append(np.where(np.isfinite(inside), inside, np.nan))
    return np.concatenate(parts)


def _nearest(
    rows: Features, others: Features, k: int, same: bool
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """Distances and positions of the k nearest others, nearest first, (N, k) each."""
    found, positions = [], []
    for part in blocks(len(rows), len(others)):
        distance = distances(rows[part], others)
        if same:
            distance[np.arange(part.stop - part.start), np.arange(part.start, part.stop)] = np.inf
        near = np.argpartition(distance, k - 1, axis=1)[:, :k]
        values = np.take_along_axis(distance, near, axis=1)
        order = values.argsort(axis=1)
        found.append(np.take_along_axis(values, order, axis=1))
        positions.append(np.take_along_axis(near, order, axis=1))
    return np.concatenate(found), np.concatenate(positions)
