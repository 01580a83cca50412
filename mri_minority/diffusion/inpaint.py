"""Draw a region of a slice, given all that surrounds it.

A denoiser hears of the outside only through its noisy pixels: at high noise, when the anatomy inside is decided, next
to nothing. What it missed is the difference between the outside and what it expected there, and how far the inside
should follow that is a regression, which the Gaussian start has in closed form.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from mri_minority.core.types import Batch, Sigmas, Strata
from mri_minority.diffusion.denoiser import Denoiser
from mri_minority.diffusion.gaussian import GaussianDenoiser


@dataclass(frozen=True)
class OutsideKnown:
    """E[x_0 | x_sigma, everything outside a region]: the known slice outside, inside the regression on it.

    With P = Cov[x_0 | x_sigma] of the Gaussian world (i inside, o outside),

    ``D_i' = D_i + P_io P_oo^-1 (known_o - D_o)``.

    P is low rank plus diagonal, so Woodbury's identity leaves one K x K system: with t = r^2 + sigma^2,
    ``P_io P_oo^-1 = (sigma^2 / t) V_i (C^-1 + V^T A^-1 V)^-1 V_o^T / r^2``, where A is r^2 outside and t inside. Exact
    if the denoiser is that of the Gaussian world, whatever the solver; for a network, its own error takes the place of
    the Gaussian one's. It costs no network call.

    Reference: Song et al. 2023, "Pseudoinverse-Guided Diffusion Models for Inverse Problems", equation 7 without noise,
    with the Gaussian world's covariance for their isotropic one. Where P has no correlations it is the replacement
    method of Song et al. 2021 (appendix I.2).

    Args:
        base: The denoiser.
        gaussian: Whose covariance is used.
        known: Clean slices (B, C, H, W).
        region: bool (B, 1, H, W), True where the slice is to be drawn.
    """

    base: Denoiser
    gaussian: GaussianDenoiser
    known: Tensor
    region: Tensor

    def __call__(self, x: Batch, sigma: Sigmas, stratum: Strata) -> Batch:
        """Return the posterior mean inside the region, the known slice outside (B, C, H, W)."""
        mean, known = self.base(x, sigma, stratum), self.known.to(x)
        with torch.autocast(device_type=x.device.type, enabled=False):
            unexpected = torch.where(self.region, 0, known - mean)
            return torch.where(self.region, mean + self._regression(unexpected, sigma.double(), stratum), known)

    def _regression(self, unexpected: Batch, sigma: Sigmas, stratum: Strata) -> Batch:
        """P_io P_oo^-1 times what was not expected outside; meaningless outside."""
        world, noise = self.gaussian, self.gaussian.groups.per_channel(sigma**2)
        residual = world.residual_variance[stratum]
        total = residual + noise
        inside = self._inside
        system = world.precision[stratum] + torch.einsum("bc,bcij->bij", 1 / residual, world.gram - inside)
        system = system + torch.einsum("bc,bcij->bij", 1 / total, inside)
        pulled = (unexpected / residual[:, :, None, None].to(unexpected)).flatten(1) @ world.basis
        coefficients = torch.linalg.solve(system, pulled.double()[:, :, None])[:, :, 0].to(unexpected)
        open_ = (noise / total)[:, :, None, None].to(unexpected)
        follows: Tensor = open_ * (coefficients @ world.basis.T).view_as(unexpected)
        return follows

    @cached_property
    def _inside(self) -> Tensor:
        """V^T V of every channel's pixels inside each item's region, float64 (B, C, K, K)."""
        basis = self.gaussian.basis
        pixels = basis.view(self.gaussian.groups.channels, -1, basis.shape[1])
        chosen = [pixels[:, mask].double() for mask in self.region.flatten(1)]
        return torch.stack([rows.transpose(1, 2) @ rows for rows in chosen])


@dataclass(frozen=True)
class OutsideKept:
    """A guided denoiser that leaves the outside of a region alone.

    Guidance leans on the whole slice; only the region may follow.

    Args:
        base: The guided denoiser.
        known: Clean slices (B, C, H, W).
        region: bool (B, 1, H, W), True where the slice is to be drawn.
    """

    base: Denoiser
    known: Tensor
    region: Tensor

    def __call__(self, x: Batch, sigma: Sigmas, stratum: Strata) -> Batch:
        """Return the guided posterior mean inside the region, the known slice outside (B, C, H, W)."""
        return torch.where(self.region, self.base(x, sigma, stratum), self.known.to(x))
