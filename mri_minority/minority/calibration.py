"""How far a classifier of levels can be trusted, at one noise level: likelihood, calibration, separation."""

from dataclasses import dataclass

import torch
from torch import Tensor

from mri_minority.core.types import Levels

BINS = 10
"""Bins of confidence in the calibration errors."""


@dataclass(frozen=True)
class Calibration:
    """What held-out slices say about a classifier at one noise level.

    Args:
        items: Slices it was measured on.
        log_likelihood: Mean log p(true level); a classifier that knows nothing has -ln L.
        ece: Expected calibration error of the likeliest level: how far its confidence is from its accuracy.
        ece_top: The same for P(rarest level) against being it, which is what guidance to the rare leans on.
        auroc_top: How well P(rarest level) tells it from the rest; None where only one kind is there.
    """

    items: int
    log_likelihood: float
    ece: float
    ece_top: float
    auroc_top: float | None


def calibration_of(log_p: Tensor, truth: Levels) -> Calibration:
    """Measure a classifier of either head by its log-probabilities.

    Args:
        log_p: log p(level) (N, L).
        truth: Levels (N,).

    Raises:
        ValueError: No slice, or a probability that is no number.
    """
    if not len(log_p) or not bool(torch.isfinite(log_p.exp()).all()):
        raise ValueError(f"expected probabilities of one or more slices, got {tuple(log_p.shape)}, some perhaps NaN")
    log_p = log_p.double()
    likely, which = log_p.exp().max(dim=1)
    top = truth == log_p.shape[1] - 1
    return Calibration(
        len(log_p),
        float(log_p.gather(1, truth[:, None]).mean()),
        expected_calibration_error(likely, which == truth),
        expected_calibration_error(log_p[:, -1].exp(), top),
        auroc(log_p[:, -1], top),
    )


def expected_calibration_error(confidence: Tensor, hit: Tensor, bins: int = BINS) -> float:
    """Mean over items of |mean confidence - share of hits| in the item's bin of confidence.

    Reference: Guo et al. 2017, "On Calibration of Modern Neural Networks", equation 3.

    Args:
        confidence: In [0, 1] (N,).
        hit: bool (N,).
        bins: Equal bins of [0, 1], closed above.
    """
    bin_of = (confidence * bins).ceil().long().sub(1).clamp(0, bins - 1)
    gap = torch.zeros(bins, dtype=torch.float64)
    gap.index_add_(0, bin_of, confidence.double() - hit.double())
    return float(gap.abs().sum() / len(confidence))


def auroc(score: Tensor, positive: Tensor) -> float | None:
    """P(score of a positive > score of a negative), ties half; None without both kinds.

    Args:
        score: (N,).
        positive: bool (N,).
    """
    ahead = score[positive][:, None] - score[~positive][None]
    return float(((ahead > 0).double() + 0.5 * (ahead == 0).double()).mean()) if ahead.numel() else None
