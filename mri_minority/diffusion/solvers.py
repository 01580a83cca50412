"""Solvers: from noise to a slice along a path of noise levels. Each is one function of one step.

A path has one column per channel group, so that groups may fall together (a joint sample) or one may stay where it
is (given). Every solver declares the order at which its error falls with the number of steps.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from mri_minority.core.types import Batch, Strata
from mri_minority.diffusion.denoiser import Denoiser
from mri_minority.diffusion.kernel import ChannelGroups

Noise = Callable[[int], Tensor]
"""Step number -> fresh standard normal noise of the batch's shape."""


@dataclass(frozen=True)
class Solver:
    """A way to walk down a path of noise levels.

    Args:
        name: What people call it.
        order: Error is O(steps^-order) against the exact probability flow; 0 for a stochastic solver.
        calls_per_step: Denoiser calls per step (the last step of a second-order one needs only one).
        run: The walk itself.
    """

    name: str
    order: int
    calls_per_step: int
    run: Callable[[Denoiser, Batch, Tensor, Strata, ChannelGroups, Noise], Batch]


def _spread(groups: ChannelGroups, level: Tensor, x: Batch) -> Tensor:
    return groups.spread(level[None]).to(x)


def _sigma(level: Tensor, x: Batch) -> Tensor:
    return level.to(x)[None].expand(len(x), -1)


def _ratio(groups: ChannelGroups, after: Tensor, before: Tensor, x: Batch) -> Tensor:
    """sigma' / sigma per channel; 1 where a group is already clean."""
    safe = torch.where(before > 0, before, torch.ones_like(before))
    return _spread(groups, torch.where(before > 0, after / safe, torch.ones_like(before)), x)


def _held(groups: ChannelGroups, after: Tensor, before: Tensor, x: Batch, moved: Batch) -> Batch:
    """A group whose level does not change stays as it is, bit by bit, whatever the denoiser thinks of it."""
    return torch.where(_spread(groups, (after == before).to(x), x) > 0, x, moved)


def _euler(denoiser: Denoiser, x: Batch, path: Tensor, stratum: Strata, groups: ChannelGroups, noise: Noise) -> Batch:
    """x' = D + (sigma' / sigma) (x - D): Euler on the probability flow, the same as DDIM with eta = 0."""
    for before, after in itertools.pairwise(path):
        mean = denoiser(x, _sigma(before, x), stratum)
        x = _held(groups, after, before, x, mean + _ratio(groups, after, before, x) * (x - mean))
    return x


def _heun(denoiser: Denoiser, x: Batch, path: Tensor, stratum: Strata, groups: ChannelGroups, noise: Noise) -> Batch:
    """Euler, then the trapezoid of both slopes (Karras et al. 2022, Algorithm 1, without churn)."""
    for before, after in itertools.pairwise(path):
        mean = denoiser(x, _sigma(before, x), stratum)
        ahead = _held(groups, after, before, x, mean + _ratio(groups, after, before, x) * (x - mean))
        if bool(((after == 0) & (before > 0)).any()):
            x = ahead
            continue
        slope = (x - mean) / _spread(groups, torch.where(before > 0, before, torch.ones_like(before)), x)
        mean_ahead = denoiser(ahead, _sigma(after, x), stratum)
        slope_ahead = (ahead - mean_ahead) / _spread(groups, torch.where(after > 0, after, torch.ones_like(after)), x)
        x = x + _spread(groups, after - before, x) * (slope + slope_ahead) / 2
    return x


def _dpmpp_2m(
    denoiser: Denoiser, x: Batch, path: Tensor, stratum: Strata, groups: ChannelGroups, noise: Noise
) -> Batch:
    """DPM-Solver++(2M) (Lu et al. 2022, Algorithm 2) with lambda = -ln sigma; first and last step first order."""
    previous: Tensor | None = None
    last_h: Tensor | None = None
    for before, after in itertools.pairwise(path):
        mean = denoiser(x, _sigma(before, x), stratum)
        ratio = _ratio(groups, after, before, x)
        h = _spread(groups, torch.where(after > 0, before.log() - after.log(), torch.zeros_like(after)), x)
        estimate = mean
        if previous is not None and last_h is not None:
            share = torch.where(last_h > 0, h / (2 * last_h).clamp(min=1e-12), torch.zeros_like(h))
            estimate = mean + share * (mean - previous)
        x = ratio * x + (1 - ratio) * estimate
        previous, last_h = mean, h
    return x


def _ancestral(
    denoiser: Denoiser, x: Batch, path: Tensor, stratum: Strata, groups: ChannelGroups, noise: Noise
) -> Batch:
    """DDPM's posterior step: mean D + (sigma'/sigma)^2 (x - D), variance sigma'^2 (sigma^2 - sigma'^2) / sigma^2.

    Reference: Ho et al. 2020, equation 7, in x_0 + sigma eps coordinates.
    """
    for step, (before, after) in enumerate(itertools.pairwise(path)):
        mean = denoiser(x, _sigma(before, x), stratum)
        ratio = _ratio(groups, after, before, x)
        fresh = _spread(groups, after, x) * (1 - ratio**2).clamp(min=0).sqrt()
        x = _held(groups, after, before, x, mean + ratio**2 * (x - mean) + fresh * noise(step).to(x))
    return x


def _dpmpp_2m_sde(
    denoiser: Denoiser, x: Batch, path: Tensor, stratum: Strata, groups: ChannelGroups, noise: Noise
) -> Batch:
    """SDE form of DPM-Solver++(2M): the ancestral step with the second-order estimate of the multistep solver.

    With r = sigma' / sigma, h = -ln r and lambda = -ln sigma, x' = r^2 x + (1 - r^2) (D + h / (2 h_last) (D - D_last))
    + sigma' sqrt(1 - r^2) z. Without a last step it is :func:`_ancestral`.

    Reference: Lu et al. 2022, "DPM-Solver++", appendix B (SDE-DPM-Solver++), midpoint form as in diffusers.
    """
    previous: Tensor | None = None
    last_h: Tensor | None = None
    for step, (before, after) in enumerate(itertools.pairwise(path)):
        mean = denoiser(x, _sigma(before, x), stratum)
        ratio = _ratio(groups, after, before, x)
        h = _spread(groups, torch.where(after > 0, before.log() - after.log(), torch.zeros_like(after)), x)
        estimate = mean
        if previous is not None and last_h is not None:
            share = torch.where(last_h > 0, h / (2 * last_h).clamp(min=1e-12), torch.zeros_like(h))
            estimate = mean + share * (mean - previous)
        fresh = _spread(groups, after, x) * (1 - ratio**2).clamp(min=0).sqrt()
        moved = ratio**2 * x + (1 - ratio**2) * estimate + fresh * noise(step).to(x)
        x = _held(groups, after, before, x, moved)
        previous, last_h = mean, h
    return x


SOLVERS: dict[str, Solver] = {
    solver.name: solver
    for solver in (
        Solver("euler", 1, 1, _euler),
        Solver("heun", 2, 2, _heun),
        Solver("dpmpp_2m", 2, 1, _dpmpp_2m),
        Solver("ancestral", 0, 1, _ancestral),
        Solver("dpmpp_2m_sde", 0, 1, _dpmpp_2m_sde),
    )
}
