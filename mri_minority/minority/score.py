"""The minority score: how much of a slice one-shot denoising loses.

l(x_0) = E_eps d(x_0, D(x_0 + sigma_s eps; sigma_s)) (Um, Lee & Ye 2024, equation 5). The posterior mean leans to what
is common, so what is rare about a slice vanishes, and the loss measures it.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from scipy.stats import spearmanr
from torch import Tensor

from mri_minority.core.rng import normal_for
from mri_minority.core.types import Batch, Scores, Strata
from mri_minority.diffusion.denoiser import Denoiser
from mri_minority.diffusion.kernel import ChannelGroups, add_noise

Distance = Callable[[Batch, Batch], Tensor]
"""(x_0, D) -> (B, P): what was lost, in P parts that are weighed afterwards."""


def channel_errors(x_0: Batch, denoised: Batch) -> Tensor:
    """Squared error of every channel, averaged over pixels: (B, C). Unclipped, so Corollary 1 holds exactly."""
    return ((denoised - x_0) ** 2).mean(dim=(2, 3))


@torch.no_grad()
def lost_parts(
    denoiser: Denoiser,
    x_0: Batch,
    stratum: Strata,
    sigma: float,
    items: list[int],
    draws: int,
    seed: int,
    groups: ChannelGroups,
    distance: Distance,
) -> Tensor:
    """What one-shot denoising loses of every slice, draw by draw; one denoiser call per slice and draw.

    Args:
        denoiser: The posterior mean.
        x_0: Clean slices (B, C, H, W).
        stratum: (B,).
        sigma: Noise level of the score, the same in all groups.
        items: Item numbers; draw j of item i always gets the same noise (common random numbers).
        draws: How many draws.
        seed: Of the draws.
        groups: Which channels share a noise level.
        distance: What is measured.

    Returns:
        (B, draws, P).
    """
    level = torch.full((len(x_0), len(groups.sizes)), sigma, device=x_0.device)
    parts = []
    for draw in range(draws):
        eps = normal_for(seed, items, tuple(x_0.shape[1:]), "score", draw).to(x_0)
        parts.append(distance(x_0, denoiser(add_noise(x_0, level, eps, groups), level, stratum)))
    return torch.stack(parts, dim=1)


@dataclass(frozen=True)
class MinorityScores:
    """Scores with what is known of their reliability.

    Args:
        score: (N,).
        standard_error: Of each score over its draws (N,).
        stability: Spearman correlation between the scores of two disjoint halves of the draws.
    """

    score: Scores
    standard_error: Scores
    stability: float


def combine(parts: Tensor, weights: Tensor, stratum: Strata) -> MinorityScores:
    """Weigh the parts and average the draws.

    Args:
        parts: (N, draws, P), at least two draws.
        weights: (T, P), one row per stratum; see :func:`part_weights`.
        stratum: (N,).

    Raises:
        ValueError: A score is not finite, or there are fewer than two draws.
    """
    if parts.shape[1] < 2:
        raise ValueError(f"a standard error needs two draws, got {parts.shape[1]}")
    each = torch.einsum("ndp,np->nd", parts.double(), weights.double()[stratum])
    if not bool(torch.isfinite(each).all()):
        raise ValueError(f"scores must be finite, {int((~torch.isfinite(each)).any(dim=1).sum())} slices are not")
    error = each.std(dim=1) / each.shape[1] ** 0.5
    halves = each[:, 0::2].mean(dim=1), each[:, 1::2].mean(dim=1)
    stability = float(spearmanr(*(half.numpy() for half in halves)).statistic) if len(each) > 2 else float("nan")
    return MinorityScores(each.mean(dim=1), error, stability)


def part_weights(parts: Tensor, stratum: Strata, strata: int, kind: str, images: int = 1) -> Tensor:
    """How much every part counts in every stratum: (T, P), rows summing to 1.

    Args:
        parts: Of the training slices (N, draws, P); the first ones are the image channels, the others the labels.
        stratum: (N,).
        strata: T.
        kind: "image", "labels", "both" (plain squared error of the state) or "balanced" (every part in units of its
            own mean in the stratum, so that a small structure counts as much as the cortex).
        images: How many parts are image channels.

    Raises:
        ValueError: An unknown kind, or label parts wanted where there are none.
    """
    width = parts.shape[2]
    if kind == "image":
        row = torch.zeros(width)
        row[:images] = 1
    elif kind == "labels" and width > images:
        row = torch.ones(width)
        row[:images] = 0
    elif kind in ("both", "balanced"):
        row = torch.ones(width)
    else:
        raise ValueError(f"expected a distance among image, labels, both, balanced for {width} parts, got {kind!r}")
    weights = row.double().expand(strata, -1).clone()
    if kind == "balanced":
        means = torch.stack([parts[stratum == t].double().mean(dim=(0, 1)) for t in range(strata)])
        # A structure that is nearly absent from a stratum would get a huge weight from its rounding errors.
        weights = weights / means.clamp(min=0.02 * float(means.max()))
    return weights / weights.sum(dim=1, keepdim=True)
