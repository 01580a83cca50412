"""Ordinal levels inside strata: level 0 is common, level L-1 is rarest."""

from dataclasses import dataclass

import torch
from torch import Tensor

from mri_minority.core.types import Levels, Scores, Strata


@dataclass(frozen=True)
class LevelScale:
    """Score thresholds of every stratum.

    Args:
        thresholds: float64 (T, L - 1), rising along each row. A score up to and including threshold k has a level
            of at most k (right-closed bins); beyond the last it is level L-1.
    """

    thresholds: Tensor

    @property
    def levels(self) -> int:
        """L."""
        return self.thresholds.shape[1] + 1

    def of(self, score: Scores, stratum: Strata) -> Levels:
        """Level of every score (N,).

        Raises:
            ValueError: A score is not finite: it must not fall silently into a level.
        """
        if not bool(torch.isfinite(score).all()):
            raise ValueError(f"scores must be finite, {int((~torch.isfinite(score)).sum())} are not")
        return (score.double()[:, None] > self.thresholds[stratum]).sum(dim=1)


def check_levels(stratum: Strata, strata: int, levels: int) -> None:
    """Refuse more levels than there are slices for.

    Args:
        stratum: Of the training slices (N,).
        strata: T; each needs at least `levels` slices.
        levels: L, at least 2.

    Raises:
        ValueError: Fewer slices than levels in a stratum.
    """
    fewest = int(torch.bincount(stratum, minlength=strata).min())
    if levels < 2 or fewest < levels:
        raise ValueError(
            f"expected 2 or more levels and as many slices in every stratum, got {levels} levels and a stratum of "
            f"{fewest} slices; ask for fewer levels or fewer strata"
        )


def fit_levels(score: Scores, stratum: Strata, strata: int, levels: int) -> LevelScale:
    """Take equally populated levels inside every stratum.

    Args:
        score: Of the training slices (N,).
        stratum: (N,).
        strata: T; each needs at least `levels` slices.
        levels: L, at least 2.

    Raises:
        ValueError: Fewer slices than levels in a stratum, or a score that is not finite.
    """
    if not bool(torch.isfinite(score).all()):
        raise ValueError(f"scores must be finite, {int((~torch.isfinite(score)).sum())} are not")
    check_levels(stratum, strata, levels)
    shares = torch.arange(1, levels, dtype=torch.float64) / levels
    rows = [torch.quantile(score[stratum == t].double(), shares, interpolation="lower") for t in range(strata)]
    return LevelScale(torch.stack(rows))
