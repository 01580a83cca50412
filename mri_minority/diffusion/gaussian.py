"""The exact denoiser of a low-rank Gaussian world, one Gaussian per stratum, with a noise level per group.

It is the network's starting point (a slice's coarse anatomy is close to Gaussian, so at high noise this closed
form is nearly the best denoiser there is, before any training) and the tests' oracle.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from mri_minority.core.types import Batch, Sigmas, Strata
from mri_minority.diffusion.kernel import ChannelGroups


@dataclass(frozen=True)
class GaussianWorld:
    """x_0 | stratum ~ N(mean, V C V^T + diag(r^2)).

    Args:
        mean: (T, C, H, W), one per stratum.
        basis: V as (C*H*W, K), shared by all strata.
        covariance: C as (T, K, K), of the coefficients in each stratum; positive definite.
        residual_variance: r^2 as (T, C): what the basis leaves of each channel; positive.
        groups: Which channels share a noise level.
    """

    mean: Tensor
    basis: Tensor
    covariance: Tensor
    residual_variance: Tensor
    groups: ChannelGroups

    def __post_init__(self) -> None:
        """Check that the shapes belong together."""
        strata, channels, height, width = self.mean.shape
        rank = self.basis.shape[1]
        expected = {
            "basis": (channels * height * width, rank),
            "covariance": (strata, rank, rank),
            "residual_variance": (strata, channels),
        }
        for name, shape in expected.items():
            if tuple(getattr(self, name).shape) != shape:
                raise ValueError(f"{name} must have shape {shape}, got {tuple(getattr(self, name).shape)}")


class GaussianDenoiser(torch.nn.Module):
    """Posterior mean in a :class:`GaussianWorld`, for any noise level in each group.

    With A = diag(r^2 + sigma^2) (constant within a channel) and Woodbury's identity,
    ``c = (C^-1 + V^T A^-1 V)^-1 V^T A^-1 (x - mean)`` and
    ``D = mean + V c + r^2 / (r^2 + sigma^2) (x - mean - V c)``.

    With rank 0, mean 0 and r = sigma_data this is EDM's ``c_skip x`` (Karras et al. 2022, Table 1).

    Reference: Tipping & Bishop 1999 (probabilistic PCA); Wang & Vastola 2024 (diffusion models are near Gaussian
    at high noise).
    """

    mean: Tensor
    basis: Tensor
    precision: Tensor
    residual_variance: Tensor
    gram: Tensor

    def __init__(self, world: GaussianWorld) -> None:
        """Precompute the inverse covariances and the channels' Gram matrices, in float64."""
        super().__init__()
        self.groups = world.groups
        blocks = world.basis.double().chunk(world.groups.channels)
        self.register_buffer("mean", world.mean.float(), persistent=False)
        self.register_buffer("basis", world.basis.float(), persistent=False)
        self.register_buffer("precision", torch.linalg.inv(world.covariance.double()), persistent=False)
        self.register_buffer("residual_variance", world.residual_variance.double(), persistent=False)
        self.register_buffer("gram", torch.stack([block.T @ block for block in blocks]), persistent=False)

    def forward(self, x: Batch, sigma: Sigmas, stratum: Strata) -> Batch:
        """Return E[x_0 | x_sigma] (B, C, H, W); see the class for the formula."""
        residual = self.residual_variance[stratum]
        total = residual + self.groups.per_channel(sigma.double() ** 2)
        centred = x - self.mean[stratum]
        weight = (1 / total)[:, :, None, None].to(x.dtype)
        projected = (weight * centred).flatten(1) @ self.basis
        system = self.precision[stratum] + torch.einsum("bc,cij->bij", 1 / total, self.gram)
        coefficients = torch.linalg.solve(system, projected.double()[:, :, None])[:, :, 0].to(x.dtype)
        structure = (coefficients @ self.basis.T).view_as(x)
        keep = (residual / total)[:, :, None, None].to(x.dtype)
        denoised: Tensor = self.mean[stratum] + structure + keep * (centred - structure)
        return denoised


def fit_gaussian_world(
    slices: Batch, stratum: Strata, strata: int, groups: ChannelGroups, rank: int, generator: torch.Generator
) -> GaussianWorld:
    """Fit mean, shared basis and coefficient covariances to clean slices.

    The basis is the leading principal subspace of all slices about their stratum's mean (randomised subspace
    iteration), with every channel in units of its own spread there: a small structure varies little in absolute terms,
    and its size would be left to the residual, which counts as white noise. Each stratum keeps its own coefficient
    covariance in that basis, shrunk towards the pooled one in proportion rank / (rank + items), so that a thin stratum
    cannot invent directions.

    Args:
        slices: Clean slices (N, C, H, W).
        stratum: Their strata (N,).
        strata: How many strata there are; each needs at least two slices.
        groups: Which channels share a noise level.
        rank: Size of the basis; lowered to N - strata - 1 when there are fewer slices.
        generator: For the random start of the subspace iteration.

    Raises:
        ValueError: A stratum has fewer than two slices.
    """
    counts = torch.bincount(stratum, minlength=strata)
    if int(counts.min()) < 2:
        raise ValueError(f"every stratum needs two slices, got counts {counts.tolist()}")
    mean = torch.stack([slices[stratum == t].mean(dim=0) for t in range(strata)])
    centred = slices - mean[stratum]
    spread = (centred**2).mean(dim=(0, 2, 3)).sqrt().clamp(min=1e-3)[:, None, None]
    centred = (centred / spread).flatten(1)
    rank = max(0, min(rank, len(slices) - strata - 1, centred.shape[1]))
    basis = _leading_subspace(centred, rank, generator)
    coefficients = (centred @ basis).double()
    pooled = coefficients.T @ coefficients / len(slices)
    leftover = (centred - centred @ basis @ basis.T).view_as(slices) * spread
    squared = (leftover**2).mean(dim=(2, 3)).double()
    covariances, residuals = [], []
    for t in range(strata):
        rows = coefficients[stratum == t]
        trust = len(rows) / (len(rows) + rank) if rank else 1.0
        covariances.append(trust * rows.T @ rows / len(rows) + (1 - trust) * pooled)
        residuals.append(squared[stratum == t].mean(dim=0).clamp(min=1e-6))
    ridge = 1e-6 * torch.eye(rank, dtype=torch.float64)
    basis = (spread.expand_as(mean[0]).reshape(-1, 1) * basis).contiguous()
    return GaussianWorld(mean, basis, torch.stack(covariances) + ridge, torch.stack(residuals), groups)


def _leading_subspace(rows: Tensor, rank: int, generator: torch.Generator) -> Tensor:
    """Orthonormal basis (D, rank) of the leading principal subspace of rows (N, D), largest first.

    Randomised subspace iteration (Halko et al. 2011) with our own generator; torch's version draws globally.
    """
    if rank == 0:
        return rows.new_zeros(rows.shape[1], 0)
    guess = torch.randn(rows.shape[1], min(rank + 16, *rows.shape), generator=generator, dtype=rows.dtype)
    for _ in range(4):
        guess = torch.linalg.qr(rows.T @ (rows @ guess)).Q
    _, _, right = torch.linalg.svd(rows @ guess, full_matrices=False)
    basis: Tensor = (guess @ right.T)[:, :rank].contiguous()
    return basis
