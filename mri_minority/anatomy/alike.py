"""Do two slices show the same part of the head? Asked of their images, laid over each other by the heads' boxes."""

import numpy as np
import numpy.typing as npt
from scipy.ndimage import map_coordinates

from mri_minority.anatomy.edit import CannotReach, Mask

_SIDE = 24
"""Pixels along each side of a look: gyri are gone, eyes, temporal lobes and ventricles are not."""

Look = npt.NDArray[np.float32]


def box_of(mask: Mask) -> list[tuple[float, float]]:
    """First and last row and column of a mask.

    Raises:
        CannotReach: It is a line or less.
    """
    if not mask.any():
        raise CannotReach("expected a head in the slice, found none")
    sides = [np.flatnonzero(mask.any(axis=1 - axis)) for axis in (0, 1)]
    if any(side[0] == side[-1] for side in sides):
        raise CannotReach("expected a head in the slice, found a line")
    return [(float(side[0]), float(side[-1])) for side in sides]


def look(image: npt.NDArray[np.float32], room: Mask) -> Look:
    """What is compared: the box around the head, coarsely, of mean 0 and length 1; float32 (24 x 24,).

    The product of two is their correlation.

    Args:
        image: (H, W).
        room: Inside of the head (H, W).

    Raises:
        CannotReach: There is no head.
    """
    rows, columns = (np.linspace(low, high, _SIDE) for low, high in box_of(room))
    coarse = map_coordinates(image, np.meshgrid(rows, columns, indexing="ij"), order=1).ravel()
    centred = coarse - coarse.mean()
    return np.asarray(centred / max(float(np.linalg.norm(centred)), 1e-9), dtype=np.float32)


def least_alike(looks: Look, strata: npt.NDArray[np.int64], whose: npt.NDArray[np.int64], share: float) -> float:
    """A correlation that all but a share of slices reach with the one that is most like them.

    Among slices of their stratum and of somebody else; -1, which everything reaches, where there is no such pair.

    Args:
        looks: (N, 24 x 24).
        strata: (N,).
        whose: Number of each slice's person (N,).
        share: In [0, 1].
    """
    best = []
    for stratum in np.unique(strata):
        here = strata == stratum
        alike = looks[here] @ looks[here].T
        alike[whose[here][:, None] == whose[here][None]] = -np.inf
        best.append(alike.max(axis=1))
    known = np.concatenate([b[np.isfinite(b)] for b in best]) if best else np.zeros(0)
    return float(np.quantile(known, share)) if len(known) else -1.0
