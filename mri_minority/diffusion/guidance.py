"""Guidance: a denoiser that wraps a denoiser and leans towards a condition."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from mri_minority.core.types import Batch, Sigmas, Strata
from mri_minority.diffusion.denoiser import Denoiser
from mri_minority.diffusion.kernel import ChannelGroups

LogProbability = Callable[[Batch, Sigmas, Strata], Tensor]
"""(x, sigma, stratum) -> log p(condition | x_sigma) of every item (B,), differentiable in x."""


def inside(window: tuple[float, float], sigma: Sigmas) -> bool:
    """Whether the largest noise level lies in [low, high], compared in the precision of the noise level.

    A float32 level of 0.1 is larger than Python's 0.1; rounding the ends alike keeps both of them closed.
    """
    low, high = torch.tensor(window, dtype=sigma.dtype)
    level = sigma.max().cpu()
    return bool((low <= level) & (level <= high))


@dataclass(frozen=True)
class Guided:
    """D^ = D + w sigma^2 grad_x log p(condition | x_sigma): Bayes' rule at w = 1.

    Reference: Um, Lee & Ye 2024, equation 10, written for the posterior mean by Tweedie's formula.

    Args:
        base: The denoiser.
        log_p: Of the condition.
        weight: w; 0 is off, and then nothing is computed.
        groups: Which channels share a noise level.
        window: Guide only while the largest noise level lies in [low, high].
    """

    base: Denoiser
    log_p: LogProbability
    weight: float
    groups: ChannelGroups
    window: tuple[float, float] = (0.0, float("inf"))

    def __call__(self, x: Batch, sigma: Sigmas, stratum: Strata) -> Batch:
        """Return the guided posterior mean (B, C, H, W)."""
        mean = self.base(x, sigma, stratum)
        if self.weight == 0 or not inside(self.window, sigma):
            return mean
        with torch.enable_grad():
            point = x.detach().requires_grad_(True)
            (gradient,) = torch.autograd.grad(self.log_p(point, sigma, stratum).sum(), point)
        return mean + self.weight * self.groups.spread(sigma**2).to(x) * gradient
