"""The one noise kernel: x_sigma = x_0 + sigma * eps, with its own sigma for every channel group.

A variance-preserving model is the same thing in other coordinates (Karras et al. 2022, Table 1).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from mri_minority.core.types import Batch, Sigmas


@dataclass(frozen=True)
class ChannelGroups:
    """Which channels share a noise level.

    Args:
        sizes: Channels in each group, in order; here (image channels, label channels).
    """

    sizes: tuple[int, ...]

    @property
    def channels(self) -> int:
        """All channels together."""
        return sum(self.sizes)

    def per_channel(self, per_group: Sigmas) -> Tensor:
        """Repeat one number per group over the group's channels: (B, G) -> (B, C)."""
        sizes = torch.tensor(self.sizes, device=per_group.device)
        return per_group.repeat_interleave(sizes, dim=1)

    def spread(self, per_group: Sigmas) -> Tensor:
        """Repeat one number per group over the group's channels and pixels: (B, G) -> (B, C, 1, 1)."""
        return self.per_channel(per_group)[:, :, None, None]

    def mean(self, x: Batch) -> Tensor:
        """Average over each group's channels and pixels: (B, C, H, W) -> (B, G)."""
        return torch.stack([part.mean(dim=(1, 2, 3)) for part in x.split(list(self.sizes), dim=1)], dim=1)


def add_noise(x_0: Batch, sigma: Sigmas, eps: Batch, groups: ChannelGroups) -> Batch:
    """Return x_sigma = x_0 + sigma * eps."""
    return x_0 + groups.spread(sigma).to(x_0) * eps


def sigma_from_abar(abar: Tensor) -> Tensor:
    """Noise level of a variance-preserving chain: sigma = sqrt((1 - abar) / abar), in float64.

    Args:
        abar: Cumulative product of (1 - beta), in (0, 1].
    """
    abar = abar.double()
    return ((1 - abar) / abar).sqrt()


def abar_from_sigma(sigma: Tensor) -> Tensor:
    """Inverse of :func:`sigma_from_abar`: abar = 1 / (1 + sigma^2), in float64."""
    return 1 / (1 + sigma.double() ** 2)


def sigma_path(sigma_max: float, sigma_min: float, steps: int, groups: int, rho: float = 7.0) -> Tensor:
    """Noise levels of a sampling run with equal levels in all groups (EDM, equation 5), then zero.

    Args:
        sigma_max: First noise level.
        sigma_min: Last noise level above zero.
        steps: Network evaluations of a one-call-per-step solver, at least 1.
        groups: Number of channel groups.
        rho: How strongly the steps crowd towards low noise.

    Returns:
        float64 (steps + 1, groups), falling, last row zero.
    """
    if steps < 1 or not 0 < sigma_min < sigma_max:
        raise ValueError(f"need steps >= 1 and 0 < sigma_min < sigma_max, got {steps}, {sigma_min}, {sigma_max}")
    ramp = torch.linspace(0, 1, steps, dtype=torch.float64)
    low, high = sigma_min ** (1 / rho), sigma_max ** (1 / rho)
    levels = torch.cat([(high + ramp * (low - high)) ** rho, torch.zeros(1, dtype=torch.float64)])
    return levels[:, None].expand(-1, groups).clone()
