"""Solvers against the exact probability flow, the exact distribution, and MONAI's schedulers."""

import itertools
import math

import pytest
import torch
from monai.networks.schedulers import DDIMScheduler, DDPMScheduler
from torch import Tensor

from mri_minority.core.types import Batch, Sigmas, Strata
from mri_minority.diffusion.kernel import ChannelGroups, sigma_from_abar, sigma_path
from mri_minority.diffusion.sampling import draw_slices
from mri_minority.diffusion.solvers import SOLVERS
from tests.support.worlds import (
    ONE_GROUP,
    DenseGaussian,
    IsotropicGaussian,
    correlated_world,
    no_noise,
    no_strata,
    noise_from,
    rare_world,
)

DETERMINISTIC = [name for name, solver in SOLVERS.items() if solver.order > 0]
SECOND = [name for name, solver in SOLVERS.items() if solver.order == 2]
BETWEEN = 5.0, 0.1
"""Noise levels between which the order is measured; the last step, to zero, is first order for all of them."""


class Counting:
    """A denoiser that counts its calls."""

    def __init__(self, world: DenseGaussian | IsotropicGaussian) -> None:
        self.world, self.calls = world, 0

    def __call__(self, x: Batch, sigma: Sigmas, stratum: Strata) -> Batch:
        self.calls += 1
        return self.world(x, sigma, stratum)


def path_above_zero(steps: int, groups: int = 1) -> Tensor:
    """EDM's path of so many steps, without the last one to zero."""
    return sigma_path(*BETWEEN, steps + 1, groups)[:-1]


def orders(errors: list[float]) -> list[float]:
    """Measured order at every doubling of the number of steps."""
    return [math.log2(coarse / fine) for coarse, fine in itertools.pairwise(errors)]


def assert_order(measured: list[float], declared: int) -> None:
    """The last doubling shows the declared order, and so does the one before, nearly."""
    assert measured[-1] == pytest.approx(declared, abs=0.15), measured
    assert measured[-2] == pytest.approx(declared, abs=0.3), measured


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_error_falls_with_the_declared_order(name: str) -> None:
    """A world with a wide range of variances, so that no error cancels by luck."""
    world = correlated_world(0)
    x = world.mean + BETWEEN[0] * torch.randn(8, 2, 1, 3, generator=torch.Generator().manual_seed(1)).double()
    exact = world.flow(x, *BETWEEN)
    errors = []
    for steps in (8, 16, 32, 64):
        counting = Counting(world)
        path = path_above_zero(steps, 2)
        found = SOLVERS[name].run(counting, x, path, no_strata(x), world.groups, no_noise)
        assert counting.calls == steps * SOLVERS[name].calls_per_step
        errors.append(float((found - exact).norm() / exact.norm()))
    assert_order(orders(errors), SOLVERS[name].order)
    assert errors[-1] < 0.05


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_whole_path_ends_where_the_flow_ends(name: str) -> None:
    """Down to zero and with an odd last step: the remaining error is that of the path, and small."""
    world = IsotropicGaussian(0.3, 0.5)
    x = 0.3 + 10 * torch.randn(4, 1, 2, 2, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    found = SOLVERS[name].run(world, x, sigma_path(10.0, 0.002, 100, 1), no_strata(x), ONE_GROUP, no_noise)
    error = (found - world.flow(x, 10.0, 0.0)).abs().max() / world.s
    assert error < (0.05 if SOLVERS[name].order == 1 else 2e-3)


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_last_step_needs_one_call(name: str) -> None:
    counting = Counting(IsotropicGaussian(0.0, 0.5))
    x = torch.ones(1, 1, 2, 2)
    SOLVERS[name].run(counting, x, sigma_path(10.0, 0.1, 5, 1), no_strata(x), ONE_GROUP, no_noise)
    assert counting.calls == 4 * SOLVERS[name].calls_per_step + 1


@pytest.mark.parametrize(("name", "steps", "bias"), [("ancestral", 300, 0.02), ("dpmpp_2m_sde", 100, 0.02)])
def test_stochastic_solvers_sample_the_world(name: str, steps: int, bias: float) -> None:
    """Mean and covariance of 4000 draws, within the sampling error and the 2 % of variance that so many steps leave."""
    world = correlated_world(3)
    generator = torch.Generator().manual_seed(4)
    n, path = 4000, sigma_path(8.0, 0.01, steps, 2)
    eps = torch.randn(n, 2, 1, 3, generator=generator, dtype=torch.float64)
    x = world.sample(torch.zeros(n, dtype=torch.long), generator) + 8.0 * eps
    found = SOLVERS[name].run(world, x, path, no_strata(x), world.groups, noise_from(generator, x)).flatten(1)
    assert_moments(found, world.mean[0].flatten(), world.covariance[0], bias)


def assert_moments(found: Tensor, mean: Tensor, covariance: Tensor, bias: float) -> None:
    """Mean and covariance within five standard errors, allowing the covariance a relative bias."""
    n = len(found)
    scale = covariance.diagonal()
    assert ((found.mean(dim=0) - mean).abs() < 5 * (scale / n).sqrt()).all()
    # Var of an entry of the sample covariance of a Gaussian: (S_ii S_jj + S_ij^2) / n.
    error = ((scale[:, None] * scale[None] + covariance**2) / n).sqrt()
    allowed = 5 * error + bias * (scale[:, None] * scale[None]).sqrt()
    assert ((found.T.cov() - covariance).abs() < allowed).all()


def test_ancestral_recursion_in_closed_form() -> None:
    """At 6 coarse steps, where its error is large: the gain and variance of every step are those of DDPM's posterior.

    q(x' | x, x_0) = N(x_0 + r (x - x_0), sigma'^2 (1 - r)) with r = sigma'^2 / sigma^2, and D stands for x_0; so in a
    Gaussian world the chain is linear and its moments are known at any number of steps.
    """
    mu, s, path = 0.4, 0.5, sigma_path(4.0, 0.2, 6, 1)
    mean, variance = 2.0, 0.7**2
    for before, after in zip(path[:-1, 0].tolist(), path[1:, 0].tolist(), strict=True):
        r, k = after**2 / before**2, s**2 / (s**2 + before**2)
        gain = k + r * (1 - k)
        mean, variance = mu + gain * (mean - mu), gain**2 * variance + after**2 * (1 - r)
    generator = torch.Generator().manual_seed(5)
    x = 2.0 + 0.7 * torch.randn(20000, 1, 1, 2, generator=generator, dtype=torch.float64)
    world = IsotropicGaussian(mu, s)
    found = SOLVERS["ancestral"].run(world, x, path, no_strata(x), ONE_GROUP, noise_from(generator, x))
    assert float(found.mean()) == pytest.approx(mean, abs=5 * (variance / 40000) ** 0.5)
    assert float(found.var()) == pytest.approx(variance, rel=5 * (2 / 40000) ** 0.5)


def sde_moments(mu: float, s: float, path: list[float], mean: float, variance: float) -> tuple[float, float]:
    """Mean and variance that the multistep SDE solver leaves in a Gaussian world, by its own linear recursion.

    The state of the recursion is (x, D_last), so its covariance is a 2 x 2 matrix.
    """
    first = torch.tensor([mean, 0.0], dtype=torch.float64)
    second = torch.tensor([[variance, 0.0], [0.0, 0.0]], dtype=torch.float64)
    last_h = 0.0
    for before, after in itertools.pairwise(path):
        r, k = after**2 / before**2, s**2 / (s**2 + before**2)
        h = math.log(before / after)
        share = h / (2 * last_h) if last_h else 0.0
        # D = mu (1 - k) + k x; x' = r x + (1 - r) ((1 + share) D - share D_last) + noise.
        gain = torch.tensor([[r + (1 - r) * (1 + share) * k, -(1 - r) * share], [k, 0.0]], dtype=torch.float64)
        shift = mu * (1 - k) * torch.tensor([(1 - r) * (1 + share), 1.0], dtype=torch.float64)
        first, second = gain @ first + shift, gain @ second @ gain.T
        second[0, 0] += after**2 * (1 - r)
        last_h = h
    return float(first[0]), float(second[0, 0])


def test_multistep_sde_recursion_in_closed_form() -> None:
    """At 6 coarse steps of unequal length: mean and variance are those of the scheme's linear recursion."""
    mu, s, path = 0.4, 0.5, sigma_path(4.0, 0.2, 6, 1)[:-1]
    mean, variance = sde_moments(mu, s, path[:, 0].tolist(), 2.0, 0.7**2)
    generator = torch.Generator().manual_seed(5)
    x = 2.0 + 0.7 * torch.randn(20000, 1, 1, 2, generator=generator, dtype=torch.float64)
    world = IsotropicGaussian(mu, s)
    found = SOLVERS["dpmpp_2m_sde"].run(world, x, path, no_strata(x), ONE_GROUP, noise_from(generator, x))
    assert float(found.mean()) == pytest.approx(mean, abs=4 * (variance / 40000) ** 0.5)
    assert float(found.var()) == pytest.approx(variance, rel=4 * (2 / 40000) ** 0.5)


def test_multistep_sde_needs_fewer_steps_than_ancestral() -> None:
    """The stationary variance in a Gaussian world, by both recursions at 40 steps: the second order pays."""
    s, path = 0.5, sigma_path(20.0, 0.02, 40, 1)[:-1, 0].tolist()
    start = s**2 + 400.0
    _, multistep = sde_moments(0.0, s, path, 0.0, start)
    ancestral = start
    for before, after in itertools.pairwise(path):
        r, k = after**2 / before**2, s**2 / (s**2 + before**2)
        ancestral = (k + r * (1 - k)) ** 2 * ancestral + after**2 * (1 - r)
    exact = s**2 + 0.02**2
    assert abs(multistep - exact) < abs(ancestral - exact) / 3


# Two groups: one is given, the other drawn.


def given_path(sigma_max: float, steps: int, sigma_min: float = 0.01, clean: float = 0.0) -> Tensor:
    """The image falls from noise to zero while the labels stay where they are."""
    path = sigma_path(sigma_max, sigma_min, steps, 2)
    path[:, 1] = clean
    return path


def labels_given(n: int, seed: int) -> tuple[DenseGaussian, Tensor, Tensor, torch.Generator]:
    """A correlated world, n times the same unlikely labels, and the image lost in noise 8."""
    world = correlated_world(seed)
    generator = torch.Generator().manual_seed(seed + 10)
    spread = world.covariance[0].diagonal().sqrt()[3:].view(1, 1, 1, 3)
    labels = (world.mean[:, 1:] + 1.5 * spread).repeat(n, 1, 1, 1)
    mean, covariance = world.conditional(labels)
    noisy = covariance + 64 * torch.eye(3, dtype=torch.float64)
    start = mean + torch.randn(n, 3, generator=generator, dtype=torch.float64) @ torch.linalg.cholesky(noisy).T
    return world, torch.cat([start.view(n, 1, 1, 3), labels], dim=1), labels, generator


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("steps", [150])
def test_a_given_group_leaves_the_exact_conditional(name: str, steps: int) -> None:
    """Labels clean throughout: the image is a draw from p(image | labels), mean and full covariance."""
    world, x, labels, generator = labels_given(4000, 6)
    noise = no_noise if SOLVERS[name].order else noise_from(generator, x)
    found = SOLVERS[name].run(world, x, given_path(8.0, steps), no_strata(x), world.groups, noise)
    mean, covariance = world.conditional(labels)
    # The labels matter: without them the image would be elsewhere, and wider.
    image = world.covariance[0][:3, :3]
    assert (mean[0] - world.mean[0, 0].flatten()).abs().max() > 3 * (covariance.diagonal() / 4000).sqrt().max()
    assert (covariance.diagonal() < 0.8 * image.diagonal()).any()
    torch.testing.assert_close(found[:, 1:], labels, atol=1e-9, rtol=0)
    assert_moments(found[:, 0].flatten(1), mean[0], covariance, bias=0.04 if SOLVERS[name].order < 2 else 0.02)


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_a_given_group_leaves_the_exact_conditional_flow(name: str) -> None:
    """The same item by item, against the closed form of the conditional's flow."""
    world, x, labels, _ = labels_given(16, 7)
    found = SOLVERS[name].run(world, x, given_path(8.0, 400), no_strata(x), world.groups, no_noise)
    exact = world.conditional_flow(x[:, :1], labels, 8.0, 0.0)
    scale = world.conditional(labels)[1].diagonal().sqrt()
    assert ((found[:, 0].flatten(1) - exact).abs() / scale).max() < (0.06 if SOLVERS[name].order == 1 else 0.012)


@pytest.mark.parametrize("clean", [0.0, 0.002])
@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_given_group_stays_bit_identical(name: str, clean: float, dtype: torch.dtype) -> None:
    """Whether "given" is no noise at all or the small level that stands for it in training.

    What a network thinks of the given labels must not matter, however wrong it is.
    """
    world, x, _, generator = labels_given(32, 8)
    x = x.to(dtype)

    def careless(x: Batch, sigma: Sigmas, stratum: Strata) -> Batch:
        mean = world(x, sigma, stratum)
        return torch.cat([mean[:, :1], 0.37 * mean[:, 1:] - 0.1], dim=1)

    noise = no_noise if SOLVERS[name].order else noise_from(generator, x)
    path = given_path(8.0, 20, clean=clean)
    for denoiser in (world, careless):
        found = SOLVERS[name].run(denoiser, x, path, no_strata(x), world.groups, noise)
        assert torch.equal(found[:, 1:], x[:, 1:])
        assert not torch.equal(found[:, :1], x[:, :1])
    # Nor does it change the image: the network hears the given labels, not its own guess of them.
    kept = SOLVERS[name].run(world, x, path, no_strata(x), world.groups, noise_from(seeded(1), x))
    ignored = SOLVERS[name].run(careless, x, path, no_strata(x), world.groups, noise_from(seeded(1), x))
    assert torch.equal(kept[:, :1], ignored[:, :1])


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("clean", [0.0, 0.002])
@pytest.mark.parametrize("name", SECOND)
def test_second_order_survives_a_given_group(name: str, clean: float) -> None:
    """Against the closed form of the image's flow when the labels are given."""
    world, x, labels, _ = labels_given(8, 9)
    # The labels' own small noise changes what the conditional is.
    noisy = world.covariance.clone()
    noisy[0, 3:, 3:] += clean**2 * torch.eye(3, dtype=torch.float64)
    exact = DenseGaussian(world.mean, noisy, world.groups).conditional_flow(x[:, :1], labels, *BETWEEN)
    errors = []
    for steps in (16, 32, 64, 128):
        path = path_above_zero(steps, 2)
        path[:, 1] = clean
        found = SOLVERS[name].run(world, x, path, no_strata(x), world.groups, no_noise)[:, 0].flatten(1)
        errors.append(float((found - exact).norm()))
    assert_order(orders(errors), 2)


@pytest.mark.parametrize("name", SOLVERS)
def test_labels_first_then_the_image_is_the_joint_distribution(name: str) -> None:
    """Any path to (0, 0) samples the pairs: here the labels fall to zero while the image waits in noise."""
    world = correlated_world(11)
    generator = torch.Generator().manual_seed(12)
    n, one = 4000, sigma_path(8.0, 0.01, 150, 1)[:, 0]
    path = torch.cat(
        [torch.stack([torch.full_like(one, 8.0), one], dim=1), torch.stack([one, torch.zeros_like(one)], dim=1)[1:]]
    )
    eps = torch.randn(n, 2, 1, 3, generator=generator, dtype=torch.float64)
    x = world.sample(torch.zeros(n, dtype=torch.long), generator) + 8.0 * eps
    noise = no_noise if SOLVERS[name].order else noise_from(generator, x)
    found = SOLVERS[name].run(world, x, path, no_strata(x), world.groups, noise).flatten(1)
    assert_moments(found, world.mean[0].flatten(), world.covariance[0], bias=0.04)


# Against MONAI, step by step, in its own coordinates.


@pytest.fixture(scope="module")
def start() -> Tensor:
    return 3 * torch.randn(5, 1, 2, 2, generator=torch.Generator().manual_seed(13), dtype=torch.float64)


def in_double(scheduler: DDIMScheduler | DDPMScheduler) -> Tensor:
    """Let MONAI's scheduler compute in float64; its alphas_cumprod."""
    scheduler.betas = scheduler.betas.double()
    scheduler.alphas = 1 - scheduler.betas
    scheduler.alphas_cumprod = scheduler.alphas.cumprod(dim=0)
    return scheduler.alphas_cumprod


def epsilon(world: IsotropicGaussian, x_t: Tensor, abar: Tensor) -> Tensor:
    """What an exact epsilon network says about a variance-preserving x_t: (x_sigma - D) / sigma."""
    x, sigma = x_t / abar.sqrt(), sigma_from_abar(abar)
    return (x - world(x, sigma.expand(len(x), 1), no_strata(x))) / sigma


@pytest.mark.parametrize("clean_t", [19, 12, 5, 1, 0])
def test_euler_is_monais_ddim(start: Tensor, clean_t: int) -> None:
    scheduler = DDIMScheduler(20, schedule="linear_beta", beta_start=1e-3, beta_end=0.4, clip_sample=False)
    abars = in_double(scheduler)
    world, t = IsotropicGaussian(0.2, 0.5), clean_t
    abar, abar_after = abars[t], abars[t - 1] if t > 0 else torch.tensor(1.0).double()
    x_t = start * abar.sqrt()
    theirs, _ = scheduler.step(epsilon(world, x_t, abar), t, x_t, eta=0.0)
    path = torch.stack([sigma_from_abar(abar), sigma_from_abar(abar_after)])[:, None]
    ours = SOLVERS["euler"].run(world, start, path, no_strata(start), ONE_GROUP, no_noise)
    torch.testing.assert_close(ours * abar_after.sqrt(), theirs, atol=1e-10, rtol=1e-10)


def test_a_whole_run_of_euler_is_monais_ddim(start: Tensor) -> None:
    """From the same x_T through all steps, with a denoiser that is not linear."""
    scheduler = DDIMScheduler(20, schedule="scaled_linear_beta", beta_start=1e-3, beta_end=0.4, clip_sample=False)
    abars, world = in_double(scheduler), rare_world()
    x_t = start * abars[-1].sqrt()
    for t in reversed(range(20)):
        sigma = sigma_from_abar(abars[t])
        x = x_t / abars[t].sqrt()
        eps = (x - world(x, sigma.expand(len(x), 1), no_strata(x))) / sigma
        x_t, _ = scheduler.step(eps, t, x_t, eta=0.0)
    path = torch.cat([sigma_from_abar(abars.flip(0)), torch.zeros(1, dtype=torch.float64)])[:, None]
    ours = SOLVERS["euler"].run(world, start, path, no_strata(start), ONE_GROUP, no_noise)
    torch.testing.assert_close(ours, x_t, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("t", [19, 12, 5, 1, 0])
def test_ancestral_is_monais_ddpm(start: Tensor, t: int) -> None:
    """Posterior mean (no noise), posterior standard deviation (the rest), and one step with MONAI's own noise."""
    scheduler = DDPMScheduler(
        20, schedule="linear_beta", variance_type="fixed_small", beta_start=1e-3, beta_end=0.4, clip_sample=False
    )
    abars = in_double(scheduler)
    world = IsotropicGaussian(0.2, 0.5)
    abar, abar_after = abars[t], abars[t - 1] if t > 0 else torch.tensor(1.0).double()
    path = torch.stack([sigma_from_abar(abar), sigma_from_abar(abar_after)])[:, None]

    def step(noise: Tensor) -> Tensor:
        """One step of ours in MONAI's coordinates."""
        ours = SOLVERS["ancestral"].run(world, start, path, no_strata(start), ONE_GROUP, lambda _: noise)
        return ours * abar_after.sqrt()

    x_t = start * abar.sqrt()
    sigma = sigma_from_abar(abar).expand(len(start), 1)
    mean = scheduler._get_mean(t, world(start, sigma, no_strata(start)), x_t)
    torch.testing.assert_close(step(torch.zeros_like(start)), mean, atol=1e-10, rtol=1e-10)
    deviation = (step(torch.ones_like(start)) - mean).flatten()
    wanted = scheduler._get_variance(t).sqrt() if t > 0 else torch.tensor(0.0).double()
    torch.testing.assert_close(deviation, wanted.expand(20), atol=1e-9, rtol=1e-9)

    theirs, _ = scheduler.step(epsilon(world, x_t, abar), t, x_t, generator=torch.Generator().manual_seed(14))
    noise = torch.randn(start.shape, generator=torch.Generator().manual_seed(14), dtype=torch.float64)
    torch.testing.assert_close(step(noise), theirs, atol=1e-9, rtol=1e-9)


# Drawing slices.


@pytest.mark.parametrize("name", SOLVERS)
def test_an_item_does_not_depend_on_its_batch(name: str) -> None:
    """Item 7 alone, among others and in another place is the same slice, and of the world's mean and spread."""

    def draw(items: list[int], seed: int = 15) -> Tensor:
        path = sigma_path(20.0, 0.02, 30, 1)
        stratum = torch.zeros(len(items), dtype=torch.long)
        world = IsotropicGaussian(0.2, 0.5)
        shape, device = (1, 3, 3), torch.device("cpu")
        return draw_slices(world, SOLVERS[name], path, items, stratum, shape, seed, ONE_GROUP, device)

    alone = draw([7])
    assert torch.equal(draw([0, 7, 3])[1], alone[0])
    assert torch.equal(draw([7, 1])[0], alone[0])
    assert not torch.equal(draw([8])[0], alone[0])
    assert not torch.equal(draw([7], seed=16)[0], alone[0])
    many = draw(list(range(400)))
    assert float(many.mean()) == pytest.approx(0.2, abs=0.05)
    assert float(many.std()) == pytest.approx(0.5, rel=0.1 if SOLVERS[name].order else 0.15)  # 30 steps only


def test_start_noise_has_the_first_level_of_each_group() -> None:
    """A path of no step shows the start itself."""
    path = torch.tensor([[3.0, 0.5]], dtype=torch.float64)
    start = draw_slices(
        IsotropicGaussian(0.0, 1.0),
        SOLVERS["euler"],
        path,
        list(range(200)),
        torch.zeros(200, dtype=torch.long),
        (2, 8, 8),
        0,
        ChannelGroups((1, 1)),
        torch.device("cpu"),
    )
    assert float(start[:, 0].std()) == pytest.approx(3.0, rel=0.03)
    assert float(start[:, 1].std()) == pytest.approx(0.5, rel=0.03)
