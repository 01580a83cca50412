"""How sparsely real slices lie around each slice, in a feature space the generator never saw."""

import numpy as np
import numpy.typing as npt
from scipy.spatial.distance import cdist
from sklearn.neighbors import LocalOutlierFactor

from mri_minority.evaluate.fidelity import Features


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
    distance = np.sort(cdist(rows, real), axis=1)
    nearest: npt.NDArray[np.float64] = distance[:, int(same) : k + int(same)].mean(axis=1)
    return nearest


def local_outlier_factor(real: Features, rows: Features, k: int = 20) -> npt.NDArray[np.float64]:
    """LOF of every row against the real ones (N,): about 1 inside, larger where real slices thin out.

    Args:
        real: (M, F).
        rows: New rows, none of which is among the real ones (N, F).
        k: Neighbours; lowered to M - 1 when there are fewer real rows.

    Raises:
        ValueError: Fewer than three real rows.

    Reference: Breunig et al. 2000, in the novelty mode of scikit-learn.
    """
    if len(real) < 3:
        raise ValueError(f"expected three or more real slices, got {len(real)}")
    model = LocalOutlierFactor(n_neighbors=min(k, len(real) - 1), novelty=True).fit(real)
    factor: npt.NDArray[np.float64] = -model.score_samples(rows)
    return factor
