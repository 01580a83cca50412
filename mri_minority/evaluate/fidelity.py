"""How close a set of slices is to the real ones, in a feature space the generator never saw."""

import numpy as np
import numpy.typing as npt
from scipy.spatial.distance import cdist

Features = npt.NDArray[np.float64]
"""(N, F), one row per slice."""


def kid(real: Features, fake: Features) -> float:
    """Kernel inception distance: unbiased squared MMD with the kernel (x.y / F + 1)^3 (Binkowski et al. 2018).

    Small sets give an unbiased value, which may be below zero when the sets are alike.
    """

    def kernel(a: Features, b: Features) -> Features:
        similarity: Features = (a @ b.T / a.shape[1] + 1) ** 3
        return similarity

    m, n = len(real), len(fake)
    if m < 2 or n < 2:
        raise ValueError(f"expected two or more slices in each set, got {m} and {n}")
    within_real, within_fake = kernel(real, real), kernel(fake, fake)
    real_part = (within_real.sum() - np.trace(within_real)) / (m * (m - 1))
    fake_part = (within_fake.sum() - np.trace(within_fake)) / (n * (n - 1))
    return float(real_part + fake_part - 2 * kernel(real, fake).mean())


def precision_recall(real: Features, fake: Features, k: int = 3) -> tuple[float, float]:
    """Improved precision and recall (Kynkaanniemi et al. 2019).

    Precision: share of fake rows inside a ball of some real row, whose radius is its k-th nearest real neighbour.
    Recall: the same with the sets exchanged.
    """
    if min(len(real), len(fake)) <= k:
        raise ValueError(f"expected more than {k} slices in each set, got {len(real)} and {len(fake)}")
    across = cdist(real, fake)
    real_radius = np.sort(cdist(real, real), axis=1)[:, k]
    fake_radius = np.sort(cdist(fake, fake), axis=1)[:, k]
    precision = (across <= real_radius[:, None]).any(axis=0).mean()
    recall = (across <= fake_radius[None, :]).any(axis=1).mean()
    return float(precision), float(recall)
