"""The other samplers against closed forms: self-guided, low-density, boost-and-skip."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from mri_minority.core.types import Batch, Sigmas, Strata
from mri_minority.diffusion.guidance import Guided
from mri_minority.diffusion.kernel import ChannelGroups, sigma_path
from mri_minority.diffusion.sampling import draw_slices, skipped
from mri_minority.diffusion.solvers import SOLVERS
from mri_minority.minority.low_density import Centres, LowDensity, mean_direction
from mri_minority.minority.self_guided import SelfGuided, every_nth_level, unit_gradient
from tests.support.worlds import ONE_GROUP, IsotropicGaussian, Mixture, no_noise, no_strata, noise_from, rare_world

MU, S, SIGMA_S = 0.2, 0.5, 1.5


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def self_guided(base: IsotropicGaussian | Mixture, weight: float, eps: Tensor, **changes: object) -> SelfGuided:
    settings = {"active": torch.tensor([2.0, 1.0, 0.25]), "noise": lambda number: eps, "groups": ONE_GROUP}
    return SelfGuided(base, weight, SIGMA_S, **{**settings, **changes})  # type: ignore[arg-type]


# Self-guided.


@pytest.mark.parametrize("sigma", [2.0, 1.0, 0.25])
def test_self_guidance_in_a_gaussian_world(sigma: float) -> None:
    """g is proportional to (1 - k_s) (D - mu) - k_s sigma_s eps; the shift is w sigma s_d / sqrt(sigma^2 + s_d^2)."""
    world = IsotropicGaussian(MU, S)
    x, eps = normal(5, 1, 3, 3), normal(5, 1, 3, 3, seed=1)
    level = torch.full((5, 1), sigma, dtype=torch.float64)
    mean = world(x, level, no_strata(x))
    k_s = S**2 / (S**2 + SIGMA_S**2)
    g = (1 - k_s) * (mean - MU) - k_s * SIGMA_S * eps
    g = g / g.abs().amax(dim=(1, 2, 3), keepdim=True)
    with torch.no_grad():  # as when sampling
        found = self_guided(world, 0.4, eps)(x, level, no_strata(x))
    wanted = mean + 0.4 * sigma * 0.5 / math.sqrt(sigma**2 + 0.25) * g
    torch.testing.assert_close(found, wanted, atol=1e-12, rtol=1e-10)


def test_the_second_denoising_carries_no_gradient() -> None:
    """In a mixture the gradient with it would be another: compare with autograd on the frozen copy."""
    world, eps = rare_world(), normal(4, 1, 2, 2, seed=2)
    x, level = normal(4, 1, 2, 2, seed=3), torch.full((4, 1), 1.0, dtype=torch.float64)

    def loss(point: Tensor, frozen: bool) -> Tensor:
        mean = world(point, level, no_strata(x))
        again_level = torch.full_like(level, SIGMA_S)
        again = world((mean.detach() if frozen else mean) + SIGMA_S * eps, again_level, no_strata(x))
        return ((mean - again) ** 2).mean(dim=(2, 3)).sum()

    shifts = []
    for frozen in (True, False):
        point = x.clone().requires_grad_(True)
        (gradient,) = torch.autograd.grad(loss(point, frozen), point)
        shifts.append(unit_gradient(gradient) / math.sqrt(5))  # sigma s_d / sqrt(sigma^2 + s_d^2) at 1 and 0.5
    found = self_guided(world, 1.0, eps)(x, level, no_strata(x)) - world(x, level, no_strata(x))
    torch.testing.assert_close(found, shifts[0], atol=1e-10, rtol=1e-10)
    assert not torch.allclose(found, shifts[1], atol=1e-3)


def test_self_guidance_at_its_levels_only() -> None:
    """Every n-th level of the path, whatever the precision; elsewhere one call and the denoiser's own word."""
    path = sigma_path(20.0, 0.02, 10, 1)
    active, calls = every_nth_level(path, 4), []
    torch.testing.assert_close(active, path[[0, 4, 8], 0])

    def base(x: Batch, sigma: Sigmas, stratum: Strata) -> Batch:
        calls.append(float(sigma[0, 0]))
        return IsotropicGaussian(MU, S)(x, sigma, stratum)

    for dtype in (torch.float32, torch.float64):
        x = normal(2, 1, 2, 2).to(dtype)
        guided = SelfGuided(base, 1.0, SIGMA_S, active, lambda number: torch.ones(2, 1, 2, 2), ONE_GROUP)
        for step, level in enumerate(path[:-1]):
            calls.clear()
            guided(x, level.to(dtype)[None].expand(2, -1), no_strata(x))
            assert len(calls) == (2 if step % 4 == 0 else 1)
    closed = SelfGuided(base, 1.0, SIGMA_S, active, lambda number: x, ONE_GROUP, window=(0.0, 1.0))
    calls.clear()
    closed(x, path[:1].expand(2, -1), no_strata(x))
    assert len(calls) == 1


def test_every_active_level_has_its_own_noise() -> None:
    world, asked = IsotropicGaussian(MU, S), []
    x = normal(2, 1, 2, 2)

    def noise(number: int) -> Tensor:
        asked.append(number)
        return torch.zeros_like(x)

    guided = self_guided(world, 1.0, x, noise=noise)
    for sigma in (2.0, 1.5, 1.0, 0.25):
        guided(x, torch.full((2, 1), sigma, dtype=torch.float64), no_strata(x))
    assert asked == [0, 1, 2]


def test_zero_gradient_is_no_guidance() -> None:
    """An item that is its own reconstruction has no direction: it stays, and its neighbours are still guided."""
    world = IsotropicGaussian(MU, S)
    x = torch.cat([torch.full((1, 1, 2, 2), MU, dtype=torch.float64), normal(1, 1, 2, 2)])
    level = torch.full((2, 1), 1.0, dtype=torch.float64)
    found = self_guided(world, 5.0, torch.zeros_like(x))(x, level, no_strata(x))
    plain = world(x, level, no_strata(x))
    assert torch.equal(found[0], plain[0])
    assert (found[1] - plain[1]).abs().max() == pytest.approx(5.0 / math.sqrt(5))
    assert unit_gradient(torch.zeros(3, 1, 2, 2)).abs().max() == 0
    tiny = torch.full((1, 1, 2, 2), 1e-42)  # below the smallest normal float32
    assert unit_gradient(tiny).max() == pytest.approx(1.0, rel=0.01)
    for bad in (float("nan"), float("inf")):
        gradient = torch.zeros(3, 1, 2, 2)
        gradient[1, 0, 0, 0] = bad
        with pytest.raises(ValueError, match="1 of 3 items"):
            unit_gradient(gradient)


def test_no_self_guidance_is_unguided_bit_by_bit() -> None:
    world, path = rare_world(), sigma_path(20.0, 0.02, 8, 1)

    def forbidden(number: int) -> Tensor:
        raise AssertionError("noise was asked for")

    off = SelfGuided(world, 0.0, SIGMA_S, every_nth_level(path, 1), forbidden, ONE_GROUP)
    x = 20 * normal(3, 1, 2, 2)
    runs = [SOLVERS["euler"].run(d, x, path, no_strata(x), ONE_GROUP, no_noise) for d in (off, world)]
    assert torch.equal(*runs)


def test_self_guidance_raises_the_share_of_the_rare() -> None:
    """In the world of 4 % rare: more of them, monotonically in the weight."""
    world, path, n = rare_world(), sigma_path(20.0, 0.02, 40, 1), 1500
    start = 20 * normal(n, 1, 2, 2, seed=4)
    masses = []
    for weight in (0.0, 0.2, 0.4):
        generator = torch.Generator().manual_seed(5)
        draws = noise_from(generator, start)
        guided = SelfGuided(world, weight, 1.0, every_nth_level(path, 2), draws, ONE_GROUP)
        steps = noise_from(torch.Generator().manual_seed(6), start)
        found = SOLVERS["ancestral"].run(guided, start, path, no_strata(start), ONE_GROUP, steps)
        masses.append(float(world.log_p(found, torch.full((n, 1), 0.02), 1).exp().mean()))
    assert masses == sorted(masses)
    assert masses[2] > 1.5 * masses[0]


def test_groups_have_their_own_unit() -> None:
    """A group without noise is certain and stays where it is."""
    groups = ChannelGroups((1, 1))
    world, x = IsotropicGaussian(MU, S), normal(2, 2, 2, 2)
    sigma = torch.tensor([[1.0, 0.0], [1.0, 0.0]], dtype=torch.float64)
    guided = SelfGuided(world, 1.0, SIGMA_S, torch.tensor([1.0]), lambda number: 0 * x, groups)
    shift = guided(x, sigma, no_strata(x)) - world(x, sigma, no_strata(x))
    assert shift[:, 1].abs().max() == 0
    assert shift[:, 0].abs().amax() == pytest.approx(1 / math.sqrt(5))


# Low-density.


def test_low_density_gradient_in_closed_form() -> None:
    """With f(x) = x, E = -a cos(x, m) + b log sigmoid(c . x), and D moves by sigma^2 grad E."""
    m = functional.normalize(normal(1, 1, 4, seed=7), dim=2)
    c, x = normal(4, seed=8), normal(6, 1, 2, 2, seed=9)
    push, pull, sigma = 1.7, 0.6, 0.8
    log_p = LowDensity(
        lambda x, sigma, stratum: x.flatten(1),
        Centres(torch.tensor([1.0], dtype=torch.float64), m),
        lambda x, sigma, stratum: x.flatten(1) @ c,
        push,
        pull,
    )
    world, level = IsotropicGaussian(MU, S), torch.full((6, 1), sigma, dtype=torch.float64)
    shift = Guided(world, log_p, 1.0, ONE_GROUP)(x, level, no_strata(x)) - world(x, level, no_strata(x))
    flat = x.flatten(1)
    length = flat.norm(dim=1, keepdim=True)
    cosine = flat @ m[0, 0][:, None] / length
    away = -(m[0, 0] / length - cosine * flat / length**2)
    real = torch.sigmoid(-flat @ c)[:, None] * c
    wanted = sigma**2 * (push * away + pull * real)
    torch.testing.assert_close(shift.flatten(1), wanted, atol=1e-10, rtol=1e-8)


def test_low_density_leaves_the_common_direction() -> None:
    """Pushed draws are less similar to the mean than plain ones; the perfect discriminator keeps them in the world."""
    world, n, path = rare_world(), 400, sigma_path(20.0, 0.02, 60, 1)
    unit = functional.normalize(world.mean.flatten(), dim=0)
    centres = Centres(torch.tensor([1.0], dtype=torch.float64), unit[None, None])

    def real(x: Batch, sigma: Sigmas, stratum: Strata) -> Tensor:
        return world.log_joint(x, sigma).logsumexp(dim=1)  # the logit against a flat alternative

    start, found = 20 * normal(n, 1, 2, 2, seed=10), []
    for push in (0.0, 3.0):
        log_p = LowDensity(lambda x, sigma, stratum: x.flatten(1), centres, real, push, 0.5)
        guided = Guided(world, log_p, 1.0, ONE_GROUP)
        found.append(SOLVERS["heun"].run(guided, start, path, no_strata(start), ONE_GROUP, no_noise).flatten(1))
    similarity = [float(functional.cosine_similarity(f, unit[None]).mean()) for f in found]
    assert similarity[1] < similarity[0] - 0.2


def test_centres_between_and_beyond_their_noise_levels() -> None:
    """Linear in ln sigma, unit length, own stratum, the last row beyond the ends."""
    mean = torch.eye(4, dtype=torch.float64).view(2, 2, 4)
    centres = Centres(torch.tensor([0.1, 10.0], dtype=torch.float64), mean)
    sigma = torch.tensor([[0.1], [1.0], [10.0], [99.0], [0.001]])
    found = centres.at(sigma, torch.tensor([0, 1, 1, 0, 1]))
    half = 1 / math.sqrt(2)
    wanted = [[1, 0, 0, 0], [0, half, 0, half], [0, 0, 0, 1], [0, 0, 1, 0], [0, 1, 0, 0]]
    torch.testing.assert_close(found, torch.tensor(wanted).double(), atol=1e-6, rtol=0)


def test_mean_direction_of_every_stratum() -> None:
    rows = torch.tensor([[2.0, 0.0], [0.0, 5.0], [0.0, -1.0], [-3.0, 0.0]])
    found = mean_direction(rows, torch.tensor([0, 0, 1, 2]), 3)
    half = 1 / math.sqrt(2)
    torch.testing.assert_close(found, torch.tensor([[half, half], [0.0, -1.0], [-1.0, 0.0]]))
    with pytest.raises(ValueError, match=r"each of 4 strata, got counts \[2, 1, 1, 0\]"):
        mean_direction(rows, torch.tensor([0, 0, 1, 2]), 4)
    with pytest.raises(ValueError, match=r"means \(S, T, F\)"):
        Centres(torch.ones(2), torch.ones(1, 2, 3))


# Boost-and-skip.


def test_skipped_steps() -> None:
    path = sigma_path(20.0, 0.02, 40, 2)
    assert torch.equal(skipped(path, 0.0), path)
    assert torch.equal(skipped(path, 0.05), path[2:])
    assert torch.equal(skipped(path, 0.999), path[39:])
    for bad in (-0.1, 1.0):
        with pytest.raises(ValueError, match="share of steps"):
            skipped(path, bad)


@pytest.mark.parametrize("gain", [1.0, 2.0, 4.0])
@pytest.mark.parametrize("s", [0.5, 4.0])
def test_boost_survives_where_the_data_vary(gain: float, s: float) -> None:
    """Mean and variance of the draws in closed form, by the linear recursion of the ancestral step.

    Along a direction of little variance (s = 0.5) the boost is washed out, along a wide one (s = 4) it is not.
    """
    path = skipped(sigma_path(20.0, 0.02, 40, 1), 0.1)
    mean, variance = 0.0, (gain * float(path[0])) ** 2
    for before, after in zip(path[:-1, 0].tolist(), path[1:, 0].tolist(), strict=True):
        r, k = after**2 / before**2, s**2 / (s**2 + before**2)
        factor = k + r * (1 - k)
        mean, variance = MU + factor * (mean - MU), factor**2 * variance + after**2 * (1 - r)
    items, shape, cpu = list(range(3000)), (1, 1, 2), torch.device("cpu")
    stratum = torch.zeros(3000, dtype=torch.long)
    world, solver = IsotropicGaussian(MU, s), SOLVERS["ancestral"]
    found = draw_slices(world, solver, path, items, stratum, shape, 3, ONE_GROUP, cpu, gain)
    assert float(found.mean()) == pytest.approx(mean, abs=4 * (variance / 6000) ** 0.5)
    assert float(found.var()) == pytest.approx(variance, rel=4 * (2 / 6000) ** 0.5)
    if gain == 4.0:
        plain = s**2
        assert (variance / plain > 1.5) == (s == 4.0)


def test_no_boost_is_the_plain_sampler_bit_by_bit() -> None:
    world, path, cpu = rare_world(), sigma_path(20.0, 0.02, 10, 1), torch.device("cpu")
    stratum = torch.zeros(3, dtype=torch.long)
    plain = draw_slices(world, SOLVERS["ancestral"], path, [0, 1, 2], stratum, (1, 2, 2), 0, ONE_GROUP, cpu)
    same = draw_slices(
        world, SOLVERS["ancestral"], skipped(path, 0.0), [0, 1, 2], stratum, (1, 2, 2), 0, ONE_GROUP, cpu, 1.0
    )
    assert torch.equal(plain, same)


def test_boost_and_guidance_together_reach_the_rare_level() -> None:
    """A boosted start does not disturb guidance: at w = 1 nearly all draws are rare still."""
    world, n = rare_world(), 600
    path = skipped(sigma_path(80.0, 0.01, 150, 1), 0.1)
    guided = Guided(world, lambda x, sigma, stratum: world.log_p(x, sigma, 1), 1.0, ONE_GROUP)
    items, stratum, cpu = list(range(n)), torch.zeros(n, dtype=torch.long), torch.device("cpu")
    found = draw_slices(guided, SOLVERS["ancestral"], path, items, stratum, (1, 2, 2), 1, ONE_GROUP, cpu, 2.0)
    mass = float(world.log_p(found.double(), torch.full((n, 1), 0.01), 1).exp().mean())
    assert mass > 0.95
