"""The training objective: weighted squared error of the posterior mean, with a noise level per channel group."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from mri_minority.core.types import Batch, Sigmas, Strata
from mri_minority.diffusion.denoiser import Denoiser
from mri_minority.diffusion.kernel import ChannelGroups, add_noise


@dataclass(frozen=True)
class NoiseLevels:
    """How training draws noise levels: ln sigma ~ N(mean, std^2) (EDM, Table 1; wider, since
    the size of a structure is decided at sigma 2 to 20), paired over the groups.

    Half of the items have equal levels in all groups, a third independent ones, the rest one clean group; the
    clean group carries no loss. One network then knows p(image, label), p(image | label) and p(label | image).

    Args:
        mean: Of ln sigma.
        std: Of ln sigma.
        sigma_min: Draws are clipped to at least this.
        sigma_max: Draws are clipped to at most this.
        clean: The level that stands for "given": small enough to be invisible, above zero so logarithms exist.
    """

    mean: float = 0.0
    std: float = 1.6
    sigma_min: float = 0.005
    sigma_max: float = 40.0
    clean: float = 0.002

    def draw(self, items: int, groups: int, generator: torch.Generator) -> tuple[Sigmas, Tensor]:
        """Draw sigma (B, G) and the mask (B, G) of groups that carry loss."""
        normal = torch.randn(items, groups, generator=generator)
        mode = torch.rand(items, generator=generator)
        equal = mode < 1 / 2
        given = mode >= 5 / 6 if groups > 1 else torch.zeros(items, dtype=torch.bool)
        normal = torch.where(equal[:, None], normal[:, :1], normal)
        sigma = (self.mean + self.std * normal).exp().clamp(self.sigma_min, self.sigma_max)
        which = torch.randint(groups, (items,), generator=generator)
        is_given = given[:, None] & (torch.arange(groups)[None] == which[:, None])
        return sigma.masked_fill(is_given, self.clean), ~is_given


def denoising_loss(
    denoiser: Denoiser,
    x_0: Batch,
    stratum: Strata,
    sigma: Sigmas,
    carries_loss: Tensor,
    eps: Batch,
    c_out: Tensor,
    groups: ChannelGroups,
    scales: tuple[int, ...] = (1,),
) -> Tensor:
    """Mean over items and groups of ||D - x_0||^2 / c_out^2 (EDM, Table 1: lambda = 1 / c_out^2).

    c_out is a channel's own: a small structure varies little in absolute terms, and by one scale for all labels the
    network would hardly be asked about it.

    With more than one scale s, the squared norm is the mean over scales of s ||pool_s(D - x_0)||^2 / c_out^2, pool_s
    averaging over blocks of s x s pixels. Any such positive definite form has the same minimiser, the posterior mean;
    but how large a structure is drowns, pixel by pixel, in detail that nothing can predict, and in block averages it
    does not (Hoogeboom et al. 2023, multiscale loss). The factor s makes the scales count about equally.

    Args:
        denoiser: The network being trained.
        x_0: Clean slices (B, C, H, W).
        stratum: (B,).
        sigma: (B, G).
        carries_loss: bool (B, G); False for a group that is given.
        eps: Standard normal noise, as x_0.
        c_out: The output scale (B, C) whose inverse square is the weight.
        groups: Which channels share a noise level.
        scales: Sides of the blocks that errors are averaged over, in pixels.

    Returns:
        A scalar, at one scale close to 1 for an untrained network where all groups carry loss, below it once it learns.
    """
    error = denoiser(add_noise(x_0, sigma, eps, groups), sigma, stratum) - x_0
    error = error / c_out.to(error)[:, :, None, None]
    pooled = [s * groups.mean(functional.avg_pool2d(error, s, ceil_mode=True) ** 2) for s in scales]
    weighted = torch.stack(pooled).mean(dim=0)
    # A given group counts as zero, and not as absent: then the loss of a batch is the mean of its parts' losses.
    return torch.where(carries_loss, weighted, torch.zeros_like(weighted)).mean()
