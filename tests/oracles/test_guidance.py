"""Guidance is Bayes' rule: point by point, under every solver, group by group, and in DDPM's coordinates."""

import pytest
import torch
from monai.networks.schedulers import DDPMScheduler
from scipy.stats import ks_2samp
from torch import Tensor

from mri_minority.core.types import Batch, Sigmas, Strata
from mri_minority.diffusion.guidance import Guided, LogProbability
from mri_minority.diffusion.guidance import inside as in_window
from mri_minority.diffusion.kernel import ChannelGroups, sigma_from_abar, sigma_path
from mri_minority.diffusion.sampling import draw_slices
from mri_minority.diffusion.solvers import SOLVERS
from tests.support.worlds import (
    ONE_GROUP,
    IsotropicGaussian,
    Mixture,
    no_noise,
    no_strata,
    noise_from,
    rare_world,
)

RARE = 1
START, END = 80.0, 0.01
"""Noise levels of a run. At 20 the start, which has mean 0 and not the world's mean, would still be seen by a test."""


def log_p_of(world: Mixture, level: int) -> LogProbability:
    return lambda x, sigma, stratum: world.log_p(x, sigma, level)


def sample(world: Mixture, weight: float, name: str, n: int, steps: int, level: int = RARE, seed: int = 0) -> Tensor:
    """Draws with guidance towards a level, float64 (n, C, H, W)."""
    generator = torch.Generator().manual_seed(seed)
    guided = Guided(world, log_p_of(world, level), weight, ONE_GROUP)
    start = START * torch.randn(n, 1, 2, 2, generator=generator, dtype=torch.float64)
    noise = no_noise if SOLVERS[name].order else noise_from(generator, start)
    return SOLVERS[name].run(guided, start, sigma_path(START, END, steps, 1), no_strata(start), ONE_GROUP, noise)


def mass(world: Mixture, x: Tensor, level: int) -> float:
    """Mean probability that clean draws are of the level."""
    return float(world.log_p(x, torch.full((len(x), 1), END), level).exp().mean())


def fits(found: Tensor, wanted: Tensor) -> bool:
    """Two-sample Kolmogorov-Smirnov test of every pixel and of two directions across them."""
    across = torch.tensor([[1.0, 1.0, -1.0, 1.0], [0.3, -1.0, 0.6, 0.9]], dtype=torch.float64)
    pairs = zip(*(torch.cat([x.flatten(1), x.flatten(1) @ across.T], dim=1).T for x in (found, wanted)), strict=True)
    return min(float(ks_2samp(a.numpy(), b.numpy()).pvalue) for a, b in pairs) > 0.002


@pytest.mark.parametrize("sigma", [0.02, 0.3, 1.0, 5.0, 40.0])
def test_bayes_rule_point_by_point(sigma: float) -> None:
    """D + sigma^2 grad log p(level | x_sigma) is the posterior mean of p(x_0 | level)."""
    world = rare_world()
    x, _ = world.sample(50, torch.Generator().manual_seed(1), sigma)
    level = torch.full((50, 1), sigma, dtype=torch.float64)
    for wanted in (0, RARE):
        guided = Guided(world, log_p_of(world, wanted), 1.0, ONE_GROUP)(x, level, no_strata(x))
        torch.testing.assert_close(guided, world.only(wanted)(x, level, no_strata(x)), atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize(("name", "steps"), [("heun", 60), ("dpmpp_2m", 100), ("euler", 250), ("ancestral", 400)])
def test_full_guidance_samples_the_rare_level(name: str, steps: int) -> None:
    """Mean, variance and distribution of p(x | rare), two components of unequal share, from 2000 draws."""
    world, n = rare_world(), 2000
    exact = world.only(RARE)
    found = sample(world, 1.0, name, n, steps)
    fourth = (exact.sample(20000, torch.Generator().manual_seed(2))[0] - exact.mean).pow(4).mean(dim=0)
    assert ((found.mean(dim=0) - exact.mean).abs() < 4 * (exact.variance / n).sqrt()).all()
    allowed = 4 * ((fourth - exact.variance**2) / n).sqrt() + 0.02 * exact.variance
    assert ((found.var(dim=0) - exact.variance).abs() < allowed).all()
    assert fits(found, exact.sample(n, torch.Generator().manual_seed(3))[0])


def test_the_two_sample_test_sees_a_wrong_distribution() -> None:
    """The power of the test above: no guidance, too little and too much of it are all noticed."""
    world, n = rare_world(), 2000
    wanted = world.only(RARE).sample(n, torch.Generator().manual_seed(3))[0]
    for weight in (0.0, 0.5, 1.5):
        assert not fits(sample(world, weight, "heun", n, 60), wanted), weight


def test_rare_mass_rises_with_the_weight() -> None:
    """From the 4 % of the data to nearly all, beyond w = 1 too."""
    world = rare_world()
    masses = [mass(world, sample(world, weight, "heun", 800, 40), RARE) for weight in (0.0, 0.25, 0.5, 0.75, 1.0, 2.0)]
    assert masses == sorted(masses)
    assert masses[0] == pytest.approx(0.04, abs=0.02)
    assert masses[1] > 1.1 * masses[0]
    assert masses[4] > 0.98


def test_rarity_rises_with_the_level_and_unwanted_levels_leave() -> None:
    """Three levels along one direction: guided to each, the draws have that level, and lie in that order."""
    means = torch.tensor([-0.6, 0.0, 0.6], dtype=torch.float64).view(3, 1, 1, 1).expand(3, 1, 2, 2)
    shares, s = torch.tensor([0.8, 0.16, 0.04]).double(), torch.tensor([0.2, 0.2, 0.2]).double()
    world = Mixture(shares, means, s, torch.arange(3))
    draws = [sample(world, 1.0, "heun", 400, 40, level) for level in range(3)]
    for level, found in enumerate(draws):
        assert mass(world, found, level) > 0.95
        assert float(found.mean()) == pytest.approx(float(means[level, 0, 0, 0]), abs=0.05)


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize(("weight", "window"), [(0.0, (0.0, float("inf"))), (3.0, (100.0, 200.0))])
def test_no_weight_or_no_window_is_unguided_bit_by_bit(name: str, weight: float, window: tuple[float, float]) -> None:
    """For the same seed; and the classifier is not even called."""
    world = rare_world()

    def forbidden(x: Batch, sigma: Sigmas, stratum: Strata) -> Tensor:
        raise AssertionError("the classifier was called")

    def draw(denoiser: Mixture | Guided) -> Tensor:
        path, stratum = sigma_path(START, END, 12, 1), torch.zeros(3, dtype=torch.long)
        shape, device = (1, 2, 2), torch.device("cpu")
        return draw_slices(denoiser, SOLVERS[name], path, [4, 0, 9], stratum, shape, 5, ONE_GROUP, device)

    assert torch.equal(draw(Guided(world, forbidden, weight, ONE_GROUP, window)), draw(world))
    full = Guided(world, log_p_of(world, RARE), 1.0, ONE_GROUP)
    assert not torch.equal(draw(full), draw(world))


def test_guides_inside_the_window_only() -> None:
    """Both ends included; outside, the denoiser's own word."""
    world, asked = rare_world(), []

    def log_p(x: Batch, sigma: Sigmas, stratum: Strata) -> Tensor:
        asked.append(float(sigma.max()))
        return world.log_p(x, sigma, RARE)

    guided = Guided(world, log_p, 2.0, ONE_GROUP, (0.5, 4.0))
    x, _ = world.sample(3, torch.Generator().manual_seed(6), 1.0)
    for sigma, inside in ((0.25, False), (0.5, True), (1.0, True), (4.0, True), (4.5, False), (80.0, False)):
        level = torch.full((3, 1), sigma, dtype=torch.float64)
        mean, plain = guided(x, level, no_strata(x)), world(x, level, no_strata(x))
        assert torch.equal(mean, plain) != inside
    assert asked == [0.5, 1.0, 4.0]


@pytest.mark.parametrize("end", [0.1, 0.7, 2.3, 13.7])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_both_ends_are_closed_in_every_precision(end: float, dtype: torch.dtype) -> None:
    """0.1 as float32 is larger than Python's 0.1, 0.7 smaller: a level equal to an end is inside all the same."""
    level = torch.full((2, 1), end, dtype=dtype)
    for window in ((0.0, end), (end, 100.0), (end, end)):
        assert in_window(window, level)
    above, below = torch.nextafter(level, level + 1), torch.nextafter(level, level - 1)
    assert not in_window((0.0, end), above)
    assert not in_window((end, 100.0), below)
    assert in_window((0.0, float("inf")), level)


def test_the_window_looks_at_the_noisier_group() -> None:
    """Given labels (nearly free of noise) do not close the window for the image."""
    groups = ChannelGroups((1, 2))
    guided = Guided(
        IsotropicGaussian(0.0, 0.5), lambda x, sigma, stratum: x.sum(dim=(1, 2, 3)), 1.0, groups, (0.5, 4.0)
    )
    x = torch.ones(1, 3, 2, 2)
    for sigmas, inside in (((1.0, 0.002), True), ((0.002, 1.0), True), ((1.0, 5.0), False), ((0.1, 0.2), False)):
        sigma = torch.tensor([sigmas])
        assert torch.equal(guided(x, sigma, no_strata(x)), guided.base(x, sigma, no_strata(x))) != inside


def test_every_group_is_pushed_by_its_own_noise() -> None:
    """log p = a . x has gradient a: the shift is w sigma_g^2 a in group g, item by item."""
    groups, generator = ChannelGroups((1, 2)), torch.Generator().manual_seed(7)
    a, x = torch.randn(2, 2, 3, 2, 2, generator=generator, dtype=torch.float64).unbind()
    sigma = torch.tensor([[0.5, 2.0], [3.0, 0.0]], dtype=torch.float64)
    base = IsotropicGaussian(0.1, 0.5)
    guided = Guided(base, lambda x, sigma, stratum: (a * x).sum(dim=(1, 2, 3)), 3.5, groups)
    with torch.no_grad():  # as when sampling
        shift = guided(x, sigma, no_strata(x)) - base(x, sigma, no_strata(x))
    variance = torch.tensor([[0.25, 4.0, 4.0], [9.0, 0.0, 0.0]], dtype=torch.float64)[:, :, None, None]
    torch.testing.assert_close(shift, 3.5 * variance * a)


def test_classifier_and_base_hear_the_stratum() -> None:
    def base(x: Batch, sigma: Sigmas, stratum: Strata) -> Batch:
        return x * 0 + stratum[:, None, None, None]

    def log_p(x: Batch, sigma: Sigmas, stratum: Strata) -> Tensor:
        return (x * stratum[:, None, None, None]).sum(dim=(1, 2, 3))

    x, sigma = torch.ones(3, 1, 1, 1), torch.full((3, 1), 2.0)
    found = Guided(base, log_p, 1.0, ONE_GROUP)(x, sigma, torch.tensor([0, 1, 2])).flatten()
    assert found.tolist() == [0.0, 5.0, 10.0]


@pytest.mark.parametrize("t", [900, 500, 20])
def test_guided_ancestral_step_is_the_classifier_guidance_of_ddpm(t: int) -> None:
    """In MONAI's coordinates the mean moves by w beta / sqrt(alpha) grad log p, the gradient taken at x_t.

    That is the shift w Sigma grad of Dhariwal & Nichol 2021 (Algorithm 1) with Sigma = beta, up to a factor of
    1 / sqrt(alpha), at most 1.01 in this chain of 1000 steps.
    """
    scheduler = DDPMScheduler(1000, schedule="linear_beta", beta_start=1e-4, beta_end=0.02)
    beta = scheduler.betas.double()
    abars = (1 - beta).cumprod(dim=0)
    world, w = rare_world(), 3.5
    x, _ = world.sample(4, torch.Generator().manual_seed(8), float(sigma_from_abar(abars[t])))
    path = sigma_from_abar(abars[[t, t - 1]])[:, None]

    def step(denoiser: Mixture | Guided) -> Tensor:
        after = SOLVERS["ancestral"].run(denoiser, x, path, no_strata(x), ONE_GROUP, lambda _: torch.zeros_like(x))
        return after * abars[t - 1].sqrt()

    x_t = (x * abars[t].sqrt()).requires_grad_(True)
    sigma = path[:1].expand(4, 1)
    (gradient,) = torch.autograd.grad(world.log_p(x_t / abars[t].sqrt(), sigma, RARE).sum(), x_t)
    shift = step(Guided(world, log_p_of(world, RARE), w, ONE_GROUP)) - step(world)
    torch.testing.assert_close(shift, w * beta[t] / (1 - beta[t]).sqrt() * gradient, atol=1e-10, rtol=1e-7)
