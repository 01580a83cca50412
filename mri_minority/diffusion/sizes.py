"""The sizes of structures, put right in closed form after training.

How large a structure is, is one number among ten thousand pixels. A network that has learnt every pixel well may still
move that number too little, most of all where it is rare: one-shot denoising then returns too ordinary a size, and
sampling, which feeds the answer back at every step, never reaches the tail. The cure is the one of any regression that
is used as a measurement: on the training slices, at every noise level, regress the true sizes on the denoised ones.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from mri_minority.core.types import Batch, Sigmas, Strata
from mri_minority.diffusion.denoiser import Denoiser
from mri_minority.diffusion.gaussian import GaussianDenoiser
from mri_minority.diffusion.kernel import ChannelGroups, add_noise

LEVELS = (0.1, 0.3, 0.6, 1.2, 2.5, 5.0, 10.0, 20.0)
"""Noise levels of the regressions. At the lowest and below, nothing is corrected: the pixels decide."""

_PRIOR_SLICES = 8.0
"""The regression starts from "as it is", held by so many slices: a thin stratum changes little."""


class _Network(Protocol):
    groups: ChannelGroups
    gaussian: GaussianDenoiser


@dataclass(frozen=True)
class SizeTable:
    """What to add to the sizes of a denoised slice.

    Args:
        correction: (T, S, L, L + 1) for T strata, the S noise levels of :data:`LEVELS` and L classes: the last axis
            multiplies the classes' denoised sizes about their stratum's mean, and 1. In pixels.
    """

    correction: Tensor

    def at(self, sigma: Tensor, stratum: Strata) -> Tensor:
        """Corrections (B, L, L + 1) at noise levels (B,): linear in ln sigma, constant outside."""
        knots = torch.tensor(LEVELS, dtype=torch.float64, device=sigma.device).log()
        place = sigma.double().clamp(LEVELS[0], LEVELS[-1]).log().contiguous()
        upper = torch.searchsorted(knots, place).clamp(1, len(LEVELS) - 1)
        share = ((place - knots[upper - 1]) / (knots[upper] - knots[upper - 1]))[:, None, None]
        low, high = self.correction[stratum, upper - 1], self.correction[stratum, upper]
        return (1 - share) * low + share * high


class SizeCalibrated(nn.Module):
    """D' = D + G (B_sigma [a; 1]), with a the denoised sizes about their mean and B_sigma from a table.

    A size is the sum of a class's label channel over the slice. G says how a slice looks when sizes differ: the
    regression E[x_0 | sizes] in the Gaussian world, so image and neighbouring tissue follow, and sizes(G b) = b.

    Only where all groups have the same noise level. A given label map has its size already.
    """

    correction: Tensor
    growth: Tensor

    def __init__(self, base: nn.Module, table: SizeTable) -> None:
        """Wrap a trained network.

        Args:
            base: A denoiser with `groups` (image, labels) and the Gaussian start `gaussian`.
            table: From :func:`fit_sizes`.
        """
        super().__init__()
        self.base = base
        self.groups: ChannelGroups = base.groups  # type: ignore[assignment]
        self.gaussian: GaussianDenoiser = base.gaussian  # type: ignore[assignment]
        self.register_buffer("correction", table.correction.double(), persistent=False)
        self.register_buffer("growth", _growth(self.gaussian), persistent=False)

    def forward(self, x: Batch, sigma: Sigmas, stratum: Strata) -> Batch:
        """Return the posterior mean (B, C, H, W); see :class:`mri_minority.diffusion.denoiser.Denoiser`."""
        mean = torch.as_tensor(self.base(x, sigma, stratum))
        joint = (sigma == sigma[:, :1]).all(dim=1)
        if not bool(joint.any()):
            return mean
        table = SizeTable(self.correction).at(sigma[:, 0], stratum)
        with torch.autocast(device_type=x.device.type, enabled=False):
            seen = _with_one(_sizes(self.gaussian, mean, stratum))
            added = torch.einsum("bij,bj->bi", table, seen) * joint[:, None]
            coefficients = torch.einsum("bkl,bl->bk", self.growth[stratum], added).to(mean)
            return mean + (coefficients @ self.gaussian.basis.T).view_as(mean)


@torch.no_grad()
def fit_sizes(
    denoiser: Denoiser, x_0: Batch, stratum: Strata, generator: torch.Generator, batch: int = 32
) -> SizeTable:
    """Regress true on denoised sizes, in each stratum and at each noise level.

    Least squares with a ridge of :data:`_PRIOR_SLICES` slices that pulls towards no correction.

    Args:
        denoiser: With `groups` and `gaussian`, as :class:`SizeCalibrated` wants it.
        x_0: Clean training slices (N, C, H, W).
        stratum: (N,).
        generator: Of the noise.
        batch: Slices at once.
    """
    net: _Network = denoiser  # type: ignore[assignment]
    device = net.gaussian.mean.device
    strata, classes = len(net.gaussian.mean), net.groups.sizes[1]
    correction = torch.zeros(strata, len(LEVELS), classes, classes + 1, dtype=torch.float64)
    for s, level in list(enumerate(LEVELS))[1:]:
        true, found = [], []
        for x, t in zip(x_0.split(batch), stratum.split(batch), strict=True):
            sigma = torch.full((len(x), len(net.groups.sizes)), level)
            noisy = add_noise(x, sigma, torch.randn(x.shape, generator=generator), net.groups)
            x, noisy, sigma, t = (tensor.to(device) for tensor in (x, noisy, sigma, t))
            true.append(_sizes(net.gaussian, x, t).cpu())
            found.append(_sizes(net.gaussian, denoiser(noisy, sigma, t), t).cpu())
        missing, seen = torch.cat(true) - torch.cat(found), _with_one(torch.cat(found))
        for t in range(strata):
            rows = seen[stratum == t]
            if not len(rows):
                continue
            ridge = _PRIOR_SLICES * torch.diag((rows**2).mean(dim=0).clamp(min=1e-6))
            solved = torch.linalg.solve(rows.T @ rows + ridge, rows.T @ missing[stratum == t])
            correction[t, s] = solved.T
    return SizeTable(correction)


def _sizes(gaussian: GaussianDenoiser, x: Batch, stratum: Strata) -> Tensor:
    """Sizes of the classes about their stratum's mean, in pixels: float64 (B, L)."""
    first = gaussian.groups.sizes[0]
    return (x - gaussian.mean[stratum])[:, first:].double().sum(dim=(2, 3))


def _with_one(sizes: Tensor) -> Tensor:
    return torch.cat([sizes, torch.ones_like(sizes[:, :1])], dim=1)


def _growth(gaussian: GaussianDenoiser) -> Tensor:
    """E[coefficients | sizes] = C A^T (A C A^T)^-1 per stratum: float64 (T, K, L), A the sizes of the basis (L, K)."""
    channels, first = gaussian.groups.channels, gaussian.groups.sizes[0]
    of_basis = gaussian.basis.double().view(channels, -1, gaussian.basis.shape[1]).sum(dim=1)[first:]
    covariance = torch.linalg.inv(gaussian.precision)
    spread = of_basis @ covariance @ of_basis.T
    ridge = 1e-9 * spread.diagonal(dim1=1, dim2=2).mean(dim=1).clamp(min=1e-12)
    identity = torch.eye(len(of_basis), dtype=torch.float64, device=spread.device)
    growth: Tensor = torch.linalg.solve(spread + ridge[:, None, None] * identity, of_basis @ covariance).mT
    return growth
