"""Sizes of structures, calibrated: in a Gaussian world the right answer is the exact denoiser."""

import pytest
import torch
from torch import Tensor, nn

from mri_minority.diffusion.gaussian import GaussianDenoiser, GaussianWorld
from mri_minority.diffusion.kernel import ChannelGroups, add_noise
from mri_minority.diffusion.sizes import LEVELS, SizeCalibrated, SizeTable, fit_sizes

GROUPS = ChannelGroups((1, 2))
SHAPE = (3, 4, 4)
RANK = 6


@pytest.fixture(scope="module")
def world() -> GaussianWorld:
    """Two strata in which nearly everything lies in six directions; sizes vary by tens of pixels."""
    generator = torch.Generator().manual_seed(0)
    basis = torch.randn(48, RANK, generator=generator, dtype=torch.float64)
    mix = torch.randn(2, RANK, RANK, generator=generator, dtype=torch.float64)
    return GaussianWorld(
        mean=torch.randn(2, *SHAPE, generator=generator),
        basis=basis,
        covariance=4 * (mix @ mix.mT + 0.2 * torch.eye(RANK, dtype=torch.float64)),
        residual_variance=torch.full((2, 3), 1e-4, dtype=torch.float64),
        groups=GROUPS,
    )


def drawn(world: GaussianWorld, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Slices and strata of the world, without the residual."""
    generator = torch.Generator().manual_seed(seed)
    stratum = torch.arange(count) % 2
    root = torch.linalg.cholesky(world.covariance)[stratum]
    coefficients = (root @ torch.randn(count, RANK, 1, generator=generator, dtype=torch.float64))[:, :, 0]
    return world.mean[stratum] + (coefficients @ world.basis.T).float().view(count, *SHAPE), stratum


def sizes(x: Tensor) -> Tensor:
    return x[:, 1:].double().sum(dim=(2, 3))


class Modest(nn.Module):
    """The exact denoiser with a fault: sizes move by only `share` of what they should, and are `bias` off."""

    def __init__(self, world: GaussianWorld, share: float, bias: float) -> None:
        super().__init__()
        self.gaussian, self.groups = GaussianDenoiser(world), world.groups
        self.share, self.bias = share, bias
        self.along = regression_on_sizes(world)

    def forward(self, x: Tensor, sigma: Tensor, stratum: Tensor) -> Tensor:
        mean = self.gaussian(x, sigma, stratum)
        about = sizes(mean) - sizes(self.gaussian.mean[stratum])
        change = (self.share - 1) * about + self.bias
        return torch.as_tensor(mean + torch.einsum("bdl,bl->bd", self.along[stratum], change).float().view_as(mean))


def regression_on_sizes(world: GaussianWorld) -> Tensor:
    """Cov(x_0, sizes) Cov(sizes)^-1 of every stratum from the dense covariance: (T, D, L)."""
    covariance = world.basis @ world.covariance @ world.basis.T
    pick = torch.zeros(2, 48, dtype=torch.float64)
    pick[0, 16:32] = 1
    pick[1, 32:] = 1
    return covariance @ pick.T @ torch.linalg.inv(pick @ covariance @ pick.T)


def wrapped(world: GaussianWorld, table: SizeTable, share: float, bias: float) -> SizeCalibrated:
    return SizeCalibrated(Modest(world, share, bias), table)


def one_correction(at: int, matrix: list[list[float]]) -> SizeTable:
    correction = torch.zeros(2, len(LEVELS), 2, 3, dtype=torch.float64)
    correction[:, at] = torch.tensor(matrix, dtype=torch.float64)
    return SizeTable(correction)


def test_an_added_size_is_that_size_and_the_rest_of_the_slice_follows(world: GaussianWorld) -> None:
    """With B = (0 | b) exactly b pixels are added, in the direction of E[x_0 | sizes]."""
    added = torch.tensor([7.0, -3.0])
    table = one_correction(5, [[0, 0, 7.0], [0, 0, -3.0]])
    x, stratum = drawn(world, 6, seed=1)
    sigma = torch.full((6, 2), LEVELS[5])
    plain = Modest(world, 1.0, 0.0)(x, sigma, stratum)
    change = wrapped(world, table, 1.0, 0.0)(x, sigma, stratum) - plain
    torch.testing.assert_close(sizes(change), added.double().expand(6, 2), atol=1e-3, rtol=1e-4)
    expected = torch.einsum("bdl,l->bd", regression_on_sizes(world)[stratum], added.double())
    torch.testing.assert_close(change.flatten(1).double(), expected, atol=1e-3, rtol=1e-3)


def test_a_share_of_a_size_is_meant_about_the_stratums_mean(world: GaussianWorld) -> None:
    """With B = (I | 0) twice the deviation is left: the mean slice of a stratum stays what it is."""
    table = one_correction(5, [[1, 0, 0], [0, 1, 0]])
    stratum, sigma = torch.tensor([0, 1]), torch.full((2, 2), LEVELS[5])
    torch.testing.assert_close(wrapped(world, table, 1.0, 0.0)(world.mean, sigma, stratum), world.mean)


def test_an_exact_denoiser_is_left_alone(world: GaussianWorld) -> None:
    x, stratum = drawn(world, 6000, seed=2)
    table = fit_sizes(Modest(world, 1.0, 0.0), x, stratum, torch.Generator().manual_seed(3), batch=1000)
    assert float(table.correction[..., :2].abs().max()) < 0.06
    assert bool((table.correction[:, 0] == 0).all())


@pytest.mark.parametrize("level", [LEVELS[2], LEVELS[5], LEVELS[7]])
def test_sizes_that_move_too_little_are_put_right(world: GaussianWorld, level: float) -> None:
    """The calibrated denoiser is the exact one again, on fresh slices; the faulty one is far from it."""
    x, stratum = drawn(world, 6000, seed=4)
    faulty = Modest(world, 0.7, 5.0)
    table = fit_sizes(faulty, x, stratum, torch.Generator().manual_seed(5), batch=1000)
    fresh, of = drawn(world, 2000, seed=6)
    sigma = torch.full((2000, 2), level)
    noisy = add_noise(fresh, sigma, torch.randn(fresh.shape, generator=torch.Generator().manual_seed(7)), GROUPS)
    exact, mended = GaussianDenoiser(world)(noisy, sigma, of), SizeCalibrated(faulty, table)(noisy, sigma, of)
    error = (sizes(mended) - sizes(exact)).square().mean().sqrt()
    fault = (sizes(faulty(noisy, sigma, of)) - sizes(exact)).square().mean().sqrt()
    assert float(error) < 0.08 * float(fault)
    assert float((mended - exact).abs().mean()) < 0.08 * float((faulty(noisy, sigma, of) - exact).abs().mean())


def test_given_labels_and_low_noise_are_left_alone_bit_by_bit(world: GaussianWorld) -> None:
    table = SizeTable(torch.ones(2, len(LEVELS), 2, 3, dtype=torch.float64))
    table.correction[:, 0] = 0
    x, stratum = drawn(world, 4, seed=8)
    sigma = torch.tensor([[5.0, 0.002], [0.002, 5.0], [0.09, 0.09], [0.05, 0.05]])
    faulty = Modest(world, 0.7, 5.0)
    assert torch.equal(SizeCalibrated(faulty, table)(x, sigma, stratum), faulty(x, sigma, stratum))
    equal = torch.full((4, 2), 5.0)
    assert not torch.equal(SizeCalibrated(faulty, table)(x, equal, stratum), faulty(x, equal, stratum))


def test_between_two_levels_the_correction_is_linear_in_ln_sigma() -> None:
    correction = torch.arange(len(LEVELS), dtype=torch.float64)[None, :, None, None].expand(1, -1, 1, 2)
    table, none = SizeTable(correction), torch.zeros(1, dtype=torch.long)
    for s, level in enumerate(LEVELS):
        assert float(table.at(torch.tensor([level]), none)[0, 0, 0]) == pytest.approx(s, abs=1e-5)
    between = torch.tensor([(LEVELS[3] * LEVELS[4]) ** 0.5])
    assert float(table.at(between, none)[0, 0, 0]) == pytest.approx(3.5, abs=1e-5)
    assert float(table.at(torch.tensor([1000.0]), none)[0, 0, 0]) == len(LEVELS) - 1
    assert float(table.at(torch.tensor([0.001]), none)[0, 0, 0]) == 0


def test_a_thin_stratum_changes_little_and_an_empty_one_nothing(world: GaussianWorld) -> None:
    x, stratum = drawn(world, 2000, seed=9)
    keep = stratum == 0
    keep[int((stratum == 1).nonzero()[0])] = True
    faulty = Modest(world, 0.7, 5.0)
    table = fit_sizes(faulty, x[keep], stratum[keep], torch.Generator().manual_seed(0), batch=500)
    assert 0 < float(table.correction[1, 5].norm()) < 0.5 * float(table.correction[0, 5].norm())
    table = fit_sizes(faulty, x[stratum == 0], stratum[stratum == 0], torch.Generator().manual_seed(0), batch=500)
    assert bool((table.correction[1] == 0).all())
