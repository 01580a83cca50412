"""Strata: axial level x sequence x site. What is rare is asked inside them, never across."""

import itertools
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Strata:
    """How slices are grouped before rarity is asked.

    Args:
        edges: Upper ends of the height bins, rising, in (0, 1]; a slice belongs to the first that reaches it.
        names: One name per stratum, lowest first.
        merged: Sentences saying which bins were too thin and were merged.
    """

    edges: tuple[float, ...]
    names: tuple[str, ...]
    merged: tuple[str, ...]

    def of(self, height: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
        """Stratum of every normalised height (N,) -> (N,)."""
        return np.minimum(np.searchsorted(np.array(self.edges), height, side="left"), len(self.edges) - 1)


def fit_strata(height: npt.NDArray[np.float64], span: tuple[float, float], bins: int, at_least: int) -> Strata:
    """Divide the height span into equal bins, merging those with too few slices into their neighbour.

    Args:
        height: Normalised height within the brain of every training slice (N,), 0 lowest, 1 highest.
        span: Lowest and highest height that were selected.
        bins: Wanted number of bins.
        at_least: Slices that a stratum must have.

    Returns:
        The strata; one at least, however few slices there are.
    """
    edges = list(np.linspace(span[0], span[1], bins + 1))
    merged: list[str] = []
    while len(edges) > 2:
        counts = _counts(height, edges)
        thin = int(np.argmin(counts))
        if counts[thin] >= at_least:
            break
        upper = thin + 1 if thin == 0 or (thin < len(counts) - 1 and counts[thin + 1] < counts[thin - 1]) else thin
        merged.append(
            f"heights {edges[thin]:.2f} to {edges[thin + 1]:.2f} held {counts[thin]} slices (under {at_least}): merged"
        )
        del edges[upper]
    names = tuple(f"height {low:.2f}-{high:.2f}" for low, high in itertools.pairwise(edges))
    return Strata(tuple(float(edge) for edge in edges[1:]), names, tuple(merged))


def _counts(height: npt.NDArray[np.float64], edges: list[float]) -> list[int]:
    index = np.minimum(np.searchsorted(np.array(edges[1:]), height, side="left"), len(edges) - 2)
    return [int(n) for n in np.bincount(index, minlength=len(edges) - 1)]
