"""The draws of noise levels, counted; the loss, where its value is known."""

import pytest
import torch
from torch import Tensor

from mri_minority.diffusion.gaussian import GaussianDenoiser, GaussianWorld
from mri_minority.diffusion.kernel import ChannelGroups
from mri_minority.diffusion.loss import NoiseLevels, denoising_loss
from tests.support.worlds import IsotropicGaussian, no_strata

N = 24000
GROUPS = ChannelGroups((1, 2))
WIDE = NoiseLevels(mean=-0.7, std=1.1, sigma_min=1e-6, sigma_max=1e6, clean=0.002)


def near(count: Tensor, share: float, n: int = N) -> bool:
    """A count within four standard deviations of its binomial expectation."""
    return abs(float(count) - share * n) < 4 * (n * share * (1 - share)) ** 0.5


@pytest.fixture(scope="module")
def drawn() -> tuple[Tensor, Tensor]:
    sigma, carries = WIDE.draw(N, 2, torch.Generator().manual_seed(0))
    return sigma, carries


def test_half_equal_a_third_independent_a_sixth_with_one_given(drawn: tuple[Tensor, Tensor]) -> None:
    sigma, carries = drawn
    given = ~carries
    equal = sigma[:, 0] == sigma[:, 1]
    assert near(equal.sum(), 1 / 2)
    assert near(given.any(dim=1).sum(), 1 / 6)
    assert near((~equal & carries.all(dim=1)).sum(), 1 / 3)
    assert not bool((equal & given.any(dim=1)).any())
    # Never both, each as often, and always at the clean level.
    assert not bool(given.all(dim=1).any())
    assert near(given[:, 0].sum(), 1 / 12)
    assert near(given[:, 1].sum(), 1 / 12)
    assert bool((sigma[given] == torch.tensor(0.002)).all())


def test_levels_are_log_normal_in_every_kind(drawn: tuple[Tensor, Tensor]) -> None:
    """ln sigma ~ N(mean, std^2) for both groups of equal and independent items and for the one that is not given."""
    sigma, carries = drawn
    equal = sigma[:, 0] == sigma[:, 1]
    apart = ~equal & carries.all(dim=1)
    one_given = ~carries.all(dim=1)
    log = sigma.log()
    for values in (log[equal, 0], log[apart, 0], log[apart, 1], log[one_given][carries[one_given]]):
        n = len(values)
        assert float(values.mean()) == pytest.approx(-0.7, abs=4 * 1.1 / n**0.5)
        assert float(values.std()) == pytest.approx(1.1, rel=4 / (2 * n) ** 0.5)
        assert float((values < -0.7 - 1.1).double().mean()) == pytest.approx(0.1587, abs=4 * (0.1335 / n) ** 0.5)
    correlation = torch.corrcoef(log[apart].T)[0, 1]
    assert abs(float(correlation)) < 4 / int(apart.sum()) ** 0.5


def test_levels_are_clipped_but_clean_is_not() -> None:
    levels = NoiseLevels(mean=0.0, std=3.0, sigma_min=0.1, sigma_max=5.0, clean=0.002)
    sigma, carries = levels.draw(4000, 2, torch.Generator().manual_seed(1))
    assert float(sigma[carries].min()) == pytest.approx(0.1)
    assert float(sigma[carries].max()) == pytest.approx(5.0)
    assert bool((sigma[~carries] == torch.tensor(0.002)).all())
    # P(ln sigma < ln 0.1) = Phi(ln 0.1 / 3) = 0.2214.
    n = int(carries.sum())
    assert float((sigma[carries] == sigma[carries].min()).double().mean()) == pytest.approx(0.2214, abs=6 / n**0.5 / 2)


def test_one_group_is_never_given() -> None:
    sigma, carries = WIDE.draw(2000, 1, torch.Generator().manual_seed(2))
    assert bool(carries.all())
    assert float(sigma.min()) > 0.002 / 4
    assert float(sigma.log().mean()) == pytest.approx(-0.7, abs=4 * 1.1 / 2000**0.5)


def test_defaults_are_stated() -> None:
    """The standard deviation and range that the recipes rely on."""
    sigma, _ = NoiseLevels().draw(N, 1, torch.Generator().manual_seed(3))
    inner = sigma.log().flatten()
    assert float(inner.median()) == pytest.approx(0.0, abs=0.05)
    assert float(inner.quantile(0.8413) - inner.quantile(0.1587)) / 2 == pytest.approx(1.6, rel=0.03)
    assert float(NoiseLevels(std=9.0).draw(N, 1, torch.Generator())[0].min()) == pytest.approx(0.005)
    assert float(NoiseLevels(std=9.0).draw(N, 1, torch.Generator())[0].max()) == pytest.approx(40.0)


class Off:
    """A denoiser that is wrong by a known amount in every channel."""

    def __init__(self, x_0: Tensor, by: Tensor) -> None:
        self.x_0, self.by = x_0, by

    def __call__(self, x: Tensor, sigma: Tensor, stratum: Tensor) -> Tensor:
        return self.x_0 + self.by[:, :, None, None]


def loss_of(by: Tensor, carries: Tensor, c_out: Tensor) -> float:
    x_0 = torch.randn(len(by), 3, 2, 2, generator=torch.Generator().manual_seed(4))
    sigma = torch.ones(len(by), 2)
    off = Off(x_0, by)
    return float(denoising_loss(off, x_0, no_strata(x_0), sigma, carries, torch.zeros_like(x_0), c_out, GROUPS))


def test_weight_is_one_over_c_out_squared() -> None:
    """By hand: errors 0.1 in the image, 0.2 and 0.4 in the labels, output scales 0.5, 0.25 and 0.1."""
    by, every = torch.tensor([[0.1, 0.2, 0.4]]), torch.ones(1, 2, dtype=torch.bool)
    wanted = (0.1**2 / 0.5**2 + (0.2**2 / 0.25**2 + 0.4**2 / 0.1**2) / 2) / 2
    assert loss_of(by, every, torch.tensor([[0.5, 0.25, 0.1]])) == pytest.approx(wanted, rel=1e-5)
    assert loss_of(by, every, torch.tensor([[1.0, 0.5, 0.2]])) == pytest.approx(wanted / 4, rel=1e-5)


@pytest.mark.parametrize("wrong", [3.0, 1e8, float("nan")])
def test_a_given_group_carries_no_loss(wrong: float) -> None:
    """However wrong the denoiser is there; it counts as zero, so that a loss is the mean of its parts' losses."""
    by = torch.tensor([[0.1, wrong, wrong], [0.1, 0.2, 0.4]])
    carries = torch.tensor([[True, False], [True, True]])
    c_out = torch.tensor([[0.5, 1e-3, 1e-3], [0.5, 0.25, 0.25]])
    wanted = (0.04 + 0.04 + 0.1 / 0.0625) / 4
    assert loss_of(by, carries, c_out) == pytest.approx(wanted, rel=1e-5)


def test_the_denoiser_sees_noised_slices() -> None:
    """x_0 + sigma_g eps in every group, with the sigma and stratum of each item."""
    x_0, eps = torch.randn(2, 2, 3, 2, 2, generator=torch.Generator().manual_seed(5)).unbind()
    sigma, stratum = torch.tensor([[0.5, 2.0], [3.0, 0.002]]), torch.tensor([1, 0])
    spread = torch.tensor([[0.5, 2.0, 2.0], [3.0, 0.002, 0.002]])[:, :, None, None]
    seen = []

    def denoiser(x: Tensor, sigma: Tensor, stratum: Tensor) -> Tensor:
        seen.append((x, sigma, stratum))
        return x

    every, one = torch.ones(2, 2, dtype=torch.bool), torch.ones(2, 3)
    found = denoising_loss(denoiser, x_0, stratum, sigma, every, eps, one, GROUPS)
    torch.testing.assert_close(seen[0][0], x_0 + spread * eps)
    assert torch.equal(seen[0][1], sigma)
    assert torch.equal(seen[0][2], stratum)
    torch.testing.assert_close(found, GROUPS.mean((spread * eps) ** 2).mean())


@pytest.mark.parametrize("sigmas", [(0.1, 0.1), (0.5, 3.0)])
def test_the_best_denoiser_of_structureless_data_has_loss_one(sigmas: tuple[float, float]) -> None:
    """EDM's normalisation: posterior variance sigma^2 s^2 / (sigma^2 + s^2) is c_out^2."""
    s = 0.5
    world = GaussianWorld(
        torch.zeros(1, 3, 4, 4), torch.zeros(48, 0), torch.zeros(1, 0, 0), torch.full((1, 3), s**2), GROUPS
    )
    x_0, eps = torch.randn(2, 500, 3, 4, 4, generator=torch.Generator().manual_seed(6)).unbind()
    sigma = torch.tensor([sigmas]).expand(500, 2)
    c_out = GROUPS.per_channel(sigma * s / (sigma**2 + s**2).sqrt())
    every, stratum = torch.ones(500, 2, dtype=torch.bool), torch.zeros(500, dtype=torch.long)
    found = denoising_loss(GaussianDenoiser(world), s * x_0, stratum, sigma, every, eps, c_out, GROUPS)
    assert float(found) == pytest.approx(1.0, abs=0.04)


def test_loss_has_the_gradient_of_its_formula() -> None:
    """d/dmu of a Gaussian world's loss, at one item: 2 (D - x_0) (1 - k) / c_out^2, averaged; one of three is given."""
    mu = torch.tensor(0.7, requires_grad=True)
    x_0, eps = torch.randn(2, 3, 1, 2, 2, generator=torch.Generator().manual_seed(7)).unbind()
    sigma, c_out, groups = torch.full((3, 1), 2.0), torch.full((3, 1), 0.4), ChannelGroups((1,))
    carries = torch.tensor([[True], [False], [True]])
    world = IsotropicGaussian(mu, 0.5)
    loss = denoising_loss(world, x_0, no_strata(x_0), sigma, carries, eps, c_out, groups)
    (found,) = torch.autograd.grad(loss, mu)
    k = 0.25 / 4.25
    error = (mu + k * (x_0 + 2 * eps - mu) - x_0).detach()[[0, 2]]
    torch.testing.assert_close(found, 2 / 3 * (2 * error * (1 - k) / 0.16).mean())


def test_scales_weigh_block_averages() -> None:
    """Errors +-1 that cancel in blocks of two leave only the finest scale; constant ones count s times at scale s."""
    x_0, every = torch.zeros(1, 3, 4, 4), torch.ones(1, 2, dtype=torch.bool)
    checkers = (-1.0) ** (torch.arange(4)[:, None] + torch.arange(4))

    def loss(error: Tensor) -> float:
        sigma, c_out = torch.ones(1, 2), torch.full((1, 3), 0.5)
        return float(
            denoising_loss(
                lambda x, s, t: x_0 + error, x_0, no_strata(x_0), sigma, every, x_0, c_out, GROUPS, (1, 2, 4)
            )
        )

    assert loss(checkers) == pytest.approx(4 / 3)
    assert loss(torch.ones(4, 4)) == pytest.approx((4 + 2 * 4 + 4 * 4) / 3)


def test_scales_do_not_move_the_minimum() -> None:
    """The average of the posterior means stays the best constant guess, whatever the scales."""
    x_0 = torch.randn(400, 3, 4, 4, generator=torch.Generator().manual_seed(8))
    guess = x_0.mean(dim=0).requires_grad_()
    every, sigma, c_out = torch.ones(400, 2, dtype=torch.bool), torch.ones(400, 2), torch.full((400, 3), 0.3)

    def constant(x: Tensor, sigma: Tensor, stratum: Tensor) -> Tensor:
        return guess.expand_as(x)

    denoising_loss(constant, x_0, no_strata(x_0), sigma, every, x_0, c_out, GROUPS, (1, 2, 4)).backward()
    assert guess.grad is not None
    torch.testing.assert_close(guess.grad, torch.zeros_like(guess.grad), atol=1e-5, rtol=0)
