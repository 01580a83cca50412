"""Guidance in a world whose score and classifier are exact: w = 1 is Bayes' rule."""

import itertools

import torch
from scipy.stats import ks_2samp
from torch import Tensor

from mri_minority.core.types import Batch, Sigmas, Strata
from mri_minority.diffusion.guidance import Guided
from mri_minority.diffusion.kernel import sigma_path
from mri_minority.diffusion.solvers import SOLVERS
from tests.support.worlds import ONE_GROUP, Mixture, no_noise, no_strata, rare_world

ITEMS, STEPS = 3000, 60


def _draw(world: Mixture, weight: float, window: tuple[float, float] = (0.0, float("inf")), level: int = 1) -> Tensor:
    def log_p(x: Batch, sigma: Sigmas, stratum: Strata) -> Tensor:
        return world.log_p(x, sigma, level)

    guided = Guided(world, log_p, weight, ONE_GROUP, window)
    start = 20.0 * torch.randn(ITEMS, 1, 2, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    path = sigma_path(20.0, 0.01, STEPS, 1)
    return SOLVERS["heun"].run(guided, start, path, no_strata(start), ONE_GROUP, no_noise)


def _rare_mass(world: Mixture, x: Tensor) -> float:
    return float(world.log_p(x, torch.full((len(x), 1), 0.02), 1).exp().mean())


def test_weight_one_samples_the_conditional() -> None:
    """Mean, covariance, and every pixel's distribution are those of p(x | rare)."""
    world = rare_world()
    drawn = _draw(world, 1.0)
    exact, _ = world.only(1).sample(20000, torch.Generator().manual_seed(1))
    a, b = drawn.flatten(1), exact.flatten(1)
    torch.testing.assert_close(a.mean(dim=0), b.mean(dim=0), atol=0.03, rtol=0)
    torch.testing.assert_close(torch.cov(a.T), torch.cov(b.T), atol=0.02, rtol=0)
    # Four pixels are looked at, so 0.1 % each.
    assert min(ks_2samp(a[:, i].numpy(), b[:, i].numpy()).pvalue for i in range(4)) > 0.001


def test_rare_mass_rises_with_the_weight() -> None:
    """From the world's own 4 % up, and towards all of it."""
    world = rare_world()
    masses = [_rare_mass(world, _draw(world, weight)) for weight in (0.0, 0.25, 0.5, 1.0)]
    assert abs(masses[0] - 0.04) < 0.012
    assert all(after > before + 0.02 for before, after in itertools.pairwise(masses))
    assert masses[-1] > 0.98


def test_asking_for_the_common_level_removes_the_rare() -> None:
    """The same machinery the other way."""
    world = rare_world()
    assert _rare_mass(world, _draw(world, 1.0, level=0)) < 0.005


def test_weight_zero_is_bit_identical() -> None:
    """Off means off: the classifier is not even called."""
    world = rare_world()

    def never(x: Batch, sigma: Sigmas, stratum: Strata) -> Tensor:
        raise AssertionError("the classifier was called at weight 0")

    x = torch.randn(5, 1, 2, 2, generator=torch.Generator().manual_seed(2))
    sigma = torch.full((5, 1), 0.7)
    assert torch.equal(Guided(world, never, 0.0, ONE_GROUP)(x, sigma, no_strata(x)), world(x, sigma, no_strata(x)))


def test_outside_the_window_nothing_is_guided() -> None:
    """Inside it, the shift is w sigma^2 times the gradient."""
    world = rare_world()
    x = torch.randn(5, 1, 2, 2, generator=torch.Generator().manual_seed(3), dtype=torch.float64)

    def log_p(point: Batch, sigma: Sigmas, stratum: Strata) -> Tensor:
        return world.log_p(point, sigma, 1)

    guided = Guided(world, log_p, 2.5, ONE_GROUP, (0.5, 2.0))
    for level, inside in ((0.4, False), (0.5, True), (1.0, True), (2.1, False)):
        sigma = torch.full((5, 1), level, dtype=torch.float64)
        shift = guided(x, sigma, no_strata(x)) - world(x, sigma, no_strata(x))
        point = x.clone().requires_grad_(True)
        (gradient,) = torch.autograd.grad(world.log_p(point, sigma, 1).sum(), point)
        torch.testing.assert_close(shift, 2.5 * level**2 * gradient if inside else torch.zeros_like(shift))
