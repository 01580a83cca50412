"""Worlds that are known exactly: data whose posterior mean, probability flow and levels have a closed form.

Each is a denoiser (a function of x, sigma, stratum), computes in float64 and returns what it was given. They are
written from the dense definition, not from the formulas of the library.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from mri_minority.core.types import Batch, Sigmas, Strata
from mri_minority.diffusion.kernel import ChannelGroups

ONE_GROUP = ChannelGroups((1,))
"""An image without labels."""


def no_noise(step: int) -> Tensor:
    """The noise of a solver that must not ask for any."""
    raise AssertionError(f"a deterministic solver asked for noise at step {step}")


def noise_from(generator: torch.Generator, like: Tensor) -> Callable[[int], Tensor]:
    """Fresh standard normal noise, step by step, in the shape and type of a batch."""
    return lambda step: torch.randn(like.shape, generator=generator, dtype=like.dtype)


def no_strata(x: Batch) -> Strata:
    """Stratum 0 for every item."""
    return torch.zeros(len(x), dtype=torch.long)


@dataclass(frozen=True)
class IsotropicGaussian:
    """x_0 ~ N(mu, s^2 I): D = mu + k (x - mu) with k = s^2 / (s^2 + sigma^2).

    Args:
        mu: A number, or anything that broadcasts against a batch.
        s: Standard deviation.
    """

    mu: float | Tensor
    s: float

    def __call__(self, x: Batch, sigma: Sigmas, stratum: Strata) -> Batch:
        """Posterior mean, one noise level for all channels."""
        k = self.s**2 / (self.s**2 + sigma[:, :1, None, None].to(x) ** 2)
        return self.mu + k * (x - self.mu)

    def flow(self, x: Tensor, before: float, after: float) -> Tensor:
        """Where the probability flow takes x from one noise level to another."""
        return self.mu + ((self.s**2 + after**2) / (self.s**2 + before**2)) ** 0.5 * (x - self.mu)

    def expected_loss(self, x_0: Tensor, sigma: float) -> Tensor:
        """E_eps (D(x_0 + sigma eps) - x_0)^2 of every pixel: (1 - k)^2 (x_0 - mu)^2 + k^2 sigma^2."""
        k = self.s**2 / (self.s**2 + sigma**2)
        return (1 - k) ** 2 * (x_0 - self.mu) ** 2 + k**2 * sigma**2


@dataclass(frozen=True)
class DenseGaussian:
    """x_0 | stratum ~ N(mean, covariance) with a full covariance over all channels and pixels.

    Args:
        mean: float64 (T, C, H, W).
        covariance: float64 (T, D, D), D = C * H * W, positive definite.
        groups: Which channels share a noise level.
    """

    mean: Tensor
    covariance: Tensor
    groups: ChannelGroups

    def __call__(self, x: Batch, sigma: Sigmas, stratum: Strata) -> Batch:
        """mean + S (S + N)^-1 (x - mean), with N the diagonal of the noise variances."""
        centred = (x.double() - self.mean[stratum]).flatten(1)
        mean = self.mean[stratum]
        if bool((sigma == sigma[0]).all()) and bool((stratum == stratum[0]).all()):
            sigma, stratum = sigma[:1], stratum[:1]  # one system for all
        covariance = self.covariance[stratum]
        noise = torch.diag_embed(self._per_pixel(sigma.double() ** 2))
        gain = torch.linalg.solve(covariance + noise, covariance)  # (S + N)^-1 S, the transpose
        pulled = centred @ gain[0] if len(gain) == 1 else torch.einsum("bi,bij->bj", centred, gain)
        return (mean + pulled.view(x.shape)).to(x)

    def sample(self, stratum: Strata, generator: torch.Generator) -> Tensor:
        """Clean draws, float64 (B, C, H, W)."""
        eps = torch.randn(len(stratum), self.covariance.shape[1], 1, generator=generator, dtype=torch.float64)
        shaped = (torch.linalg.cholesky(self.covariance)[stratum] @ eps)[:, :, 0]
        return self.mean[stratum] + shaped.view(-1, *self.mean.shape[1:])

    def flow(self, x: Tensor, before: float, after: float) -> Tensor:
        """Where the probability flow of stratum 0 takes x, all groups at one noise level."""
        moved = _flow(x.flatten(1), self.mean[0].flatten(), self.covariance[0], before, after)
        return moved.view(x.shape)

    def conditional(self, given: Tensor) -> tuple[Tensor, Tensor]:
        """p(group 0 | group 1 = given) in stratum 0: means (B, n) and their common covariance (n, n)."""
        mean, covariance = self.mean[0].flatten(), self.covariance[0]
        n = self.groups.sizes[0] * self.mean.shape[2] * self.mean.shape[3]
        gain = covariance[:n, n:] @ torch.linalg.inv(covariance[n:, n:])
        means = mean[:n] + (given.flatten(1) - mean[n:]) @ gain.T
        return means, covariance[:n, :n] - gain @ covariance[n:, :n]

    def conditional_flow(self, x: Tensor, given: Tensor, before: float, after: float) -> Tensor:
        """Where the probability flow takes group 0 (B, n) while group 1 is known exactly."""
        means, covariance = self.conditional(given)
        return _flow(x.flatten(1), means, covariance, before, after)

    def _per_pixel(self, per_group: Tensor) -> Tensor:
        sizes = torch.tensor(self.groups.sizes) * self.mean.shape[2] * self.mean.shape[3]
        return per_group.repeat_interleave(sizes, dim=1)


def _flow(x: Tensor, mean: Tensor, covariance: Tensor, before: float, after: float) -> Tensor:
    """x' = mean + U sqrt((lambda + after^2) / (lambda + before^2)) U^T (x - mean), row by row."""
    values, vectors = torch.linalg.eigh(covariance)
    stretch = ((values + after**2) / (values + before**2)).sqrt()
    return mean + (x - mean) @ (vectors * stretch) @ vectors.T


def correlated_world(seed: int) -> DenseGaussian:
    """Three image pixels and three label pixels, strongly correlated: knowing one says much about the other."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(6, 6, generator=generator, dtype=torch.float64)
    covariance = 0.15 * (mix @ mix.T) / 6 + 0.02 * torch.eye(6, dtype=torch.float64)
    mean = 0.5 * torch.randn(1, 2, 1, 3, generator=generator, dtype=torch.float64)
    return DenseGaussian(mean, covariance[None], ChannelGroups((1, 1)))


@dataclass(frozen=True)
class Mixture:
    """x_0 from one of K isotropic Gaussians, each of which belongs to a level.

    Args:
        shares: (K,), summing to 1.
        means: float64 (K, C, H, W).
        s: (K,) standard deviations.
        level: Level of each component (K,).
    """

    shares: Tensor
    means: Tensor
    s: Tensor
    level: Tensor

    def log_joint(self, x: Tensor, sigma: Sigmas) -> Tensor:
        """log p(component, x_sigma) up to a constant of x: (B, K). Differentiable in x."""
        variance = self.s.double() ** 2 + sigma[:, :1].double() ** 2
        squared = ((x.double()[:, None] - self.means) ** 2).flatten(2).sum(dim=2)
        pixels = self.means[0].numel()
        return self.shares.double().log() - squared / (2 * variance) - pixels / 2 * variance.log()

    def __call__(self, x: Batch, sigma: Sigmas, stratum: Strata) -> Batch:
        """Posterior mean: the components' posterior means, weighed with their responsibilities."""
        weight = self.log_joint(x, sigma).softmax(dim=1)
        variance = self.s.double() ** 2 + sigma[:, :1].double() ** 2
        k = (self.s.double() ** 2 / variance)[:, :, None, None, None]
        each = self.means + k * (x.double()[:, None] - self.means)
        return (weight[:, :, None, None, None] * each).sum(dim=1).to(x)

    def log_p(self, x: Tensor, sigma: Sigmas, level: int) -> Tensor:
        """log p(level | x_sigma) (B,). Differentiable in x."""
        joint = self.log_joint(x, sigma)
        return joint[:, self.level == level].logsumexp(dim=1) - joint.logsumexp(dim=1)

    def only(self, level: int) -> "Mixture":
        """p(x_0 | level)."""
        keep = self.level == level
        return Mixture(self.shares[keep] / self.shares[keep].sum(), self.means[keep], self.s[keep], self.level[keep])

    def sample(self, n: int, generator: torch.Generator, sigma: float = 0.0) -> tuple[Tensor, Tensor]:
        """Draws of x_sigma, float64 (n, C, H, W), and the level of each."""
        which = torch.multinomial(self.shares.double(), n, replacement=True, generator=generator)
        eps = torch.randn(n, *self.means.shape[1:], generator=generator, dtype=torch.float64)
        spread = (self.s.double() ** 2 + sigma**2).sqrt()[which][:, None, None, None]
        return self.means[which] + spread * eps, self.level[which]

    @property
    def mean(self) -> Tensor:
        """E x_0 (C, H, W)."""
        return torch.einsum("k,kchw->chw", self.shares.double(), self.means)

    @property
    def variance(self) -> Tensor:
        """Variance of every pixel (C, H, W)."""
        second = torch.einsum("k,kchw->chw", self.shares.double(), self.means**2 + self.s[:, None, None, None] ** 2)
        return second - self.mean**2


def rare_world() -> Mixture:
    """96 % common, 4 % rare; the rare level has two components of its own, so it is no Gaussian."""
    means = torch.tensor(
        [
            [-0.3, -0.2, 0.0, 0.1],
            [0.1, -0.4, 0.2, 0.0],
            [0.9, 0.5, -0.3, 0.6],
            [0.2, 0.9, -0.9, 0.7],
        ],
        dtype=torch.float64,
    )
    return Mixture(
        shares=torch.tensor([0.66, 0.30, 0.025, 0.015], dtype=torch.float64),
        means=means.view(4, 1, 2, 2),
        s=torch.tensor([0.25, 0.3, 0.2, 0.15], dtype=torch.float64),
        level=torch.tensor([0, 0, 1, 1]),
    )
