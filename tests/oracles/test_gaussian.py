"""The closed-form denoiser against the dense definition of a posterior mean."""

import pytest
import torch
from torch import Tensor

from mri_minority.diffusion.gaussian import GaussianDenoiser, GaussianWorld, fit_gaussian_world
from mri_minority.diffusion.kernel import ChannelGroups
from tests.support.worlds import DenseGaussian

GROUPS = ChannelGroups((1, 2))
SHAPE = (3, 2, 3)
"""One image channel and two label channels of 2 x 3 pixels: 18 numbers."""


def random_world(seed: int, rank: int = 4) -> GaussianWorld:
    """Two strata with different means, coefficient covariances and residuals."""
    generator = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(18, rank, generator=generator, dtype=torch.float64)).Q
    mix = torch.randn(2, rank, rank, generator=generator, dtype=torch.float64)
    return GaussianWorld(
        mean=torch.randn(2, *SHAPE, generator=generator),
        basis=basis,
        covariance=mix @ mix.mT + 0.1 * torch.eye(rank, dtype=torch.float64),
        residual_variance=torch.tensor([[0.04, 0.3, 0.05], [0.2, 0.01, 0.7]], dtype=torch.float64),
        groups=GROUPS,
    )


def dense_covariance(world: GaussianWorld) -> Tensor:
    """V C V^T + diag(r^2) of every stratum, written out."""
    pixels = world.mean.shape[2] * world.mean.shape[3]
    residual = torch.diag_embed(world.residual_variance.double().repeat_interleave(pixels, dim=1))
    basis = world.basis.double()
    return basis @ world.covariance.double() @ basis.T + residual


def scale_of_channels(variance: Tensor) -> Tensor:
    """Spread of each pixel's channel (18,), from the variances of all pixels."""
    return variance.view(3, 6).mean(dim=1).sqrt().repeat_interleave(6)


def dense(world: GaussianWorld) -> DenseGaussian:
    return DenseGaussian(world.mean.double(), dense_covariance(world), world.groups)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("sigmas", [(0.3, 0.3), (0.05, 4.0), (2.0, 0.002), (30.0, 0.5)])
def test_equals_the_dense_posterior_mean(seed: int, sigmas: tuple[float, float]) -> None:
    world = random_world(seed)
    generator = torch.Generator().manual_seed(seed + 100)
    sigma = torch.tensor([sigmas, sigmas[::-1]]).repeat(3, 1)
    stratum = torch.tensor([0, 0, 1, 1, 0, 1])
    x = world.mean[stratum] + 1.5 * torch.randn(6, *SHAPE, generator=generator)
    torch.testing.assert_close(
        GaussianDenoiser(world)(x, sigma, stratum), dense(world)(x, sigma, stratum), atol=1e-5, rtol=1e-5
    )


def test_without_structure_it_is_edm_c_skip() -> None:
    sigma_data = 0.5
    world = GaussianWorld(
        mean=torch.zeros(1, *SHAPE),
        basis=torch.zeros(18, 0),
        covariance=torch.zeros(1, 0, 0),
        residual_variance=torch.full((1, 3), sigma_data**2, dtype=torch.float64),
        groups=GROUPS,
    )
    x = torch.randn(5, *SHAPE, generator=torch.Generator().manual_seed(0))
    sigma = torch.tensor([[0.002, 0.002], [0.1, 0.1], [0.5, 0.5], [3.0, 3.0], [80.0, 80.0]])
    c_skip = sigma_data**2 / (sigma[:, :1, None, None] ** 2 + sigma_data**2)
    torch.testing.assert_close(
        GaussianDenoiser(world)(x, sigma, torch.zeros(5, dtype=torch.long)), c_skip * x, atol=1e-7, rtol=1e-6
    )


def test_no_noise_keeps_the_slice_and_all_noise_leaves_the_mean() -> None:
    world = random_world(2)
    stratum = torch.tensor([0, 1])
    x = world.mean[stratum] + torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(3))
    denoiser = GaussianDenoiser(world)
    torch.testing.assert_close(denoiser(x, torch.full((2, 2), 1e-4), stratum), x, atol=1e-5, rtol=0)
    torch.testing.assert_close(denoiser(x, torch.zeros(2, 2), stratum), x, atol=1e-5, rtol=0)
    torch.testing.assert_close(denoiser(x, torch.full((2, 2), 1e4), stratum), world.mean[stratum], atol=1e-5, rtol=0)


def test_a_known_group_gives_the_conditional_mean() -> None:
    """Labels free of noise, image lost in it: what remains is the regression of the image on its labels."""
    world = random_world(4)
    exact = dense(world)
    x = world.mean[:1] + torch.randn(1, *SHAPE, generator=torch.Generator().manual_seed(5))
    covariance = exact.covariance[0]
    gain = covariance[:6, 6:] @ torch.linalg.inv(covariance[6:, 6:])
    regression = world.mean[0, 0].double().flatten() + gain @ (x[0, 1:] - world.mean[0, 1:]).double().flatten()
    denoised = GaussianDenoiser(world)(x, torch.tensor([[1e4, 0.0]]), torch.tensor([0]))
    torch.testing.assert_close(denoised[0, 0].flatten().double(), regression, atol=2e-5, rtol=0)
    torch.testing.assert_close(denoised[0, 1:], x[0, 1:], atol=1e-5, rtol=0)


def test_fit_recovers_mean_and_covariance() -> None:
    """From 6000 slices per stratum: the mean to its standard error, the covariance to a few per cent."""
    truth = random_world(6)
    truth = GaussianWorld(truth.mean, truth.basis, truth.covariance, truth.residual_variance * 0.02, GROUPS)
    stratum = torch.arange(2).repeat_interleave(6000)
    slices = dense(truth).sample(stratum, torch.Generator().manual_seed(7)).float()
    fitted = fit_gaussian_world(slices, stratum, 2, GROUPS, rank=4, generator=torch.Generator().manual_seed(8))
    wanted, found = dense_covariance(truth), dense_covariance(fitted)
    standard_error = (wanted.diagonal(dim1=1, dim2=2) / 6000).sqrt().view(2, *SHAPE)
    assert ((fitted.mean - truth.mean).abs() < 5 * standard_error).all()
    for t in range(2):
        assert torch.linalg.matrix_norm(found[t] - wanted[t]) < 0.05 * torch.linalg.matrix_norm(wanted[t])
    # What the basis leaves of the residual: it is taken out by least squares in units of each channel's spread.
    unit = scale_of_channels(wanted.mean(dim=0).diagonal())
    basis = torch.linalg.qr(truth.basis / unit[:, None]).Q
    rest = (torch.eye(18) - basis @ basis.T) / unit
    residual = torch.diag_embed(truth.residual_variance.repeat_interleave(6, dim=1))
    left = (rest @ residual @ rest.T).diagonal(dim1=1, dim2=2) * unit**2
    wanted_residual = left.view(2, 3, 6).mean(dim=2)
    torch.testing.assert_close(fitted.residual_variance, wanted_residual, atol=0, rtol=0.03)


def test_fit_is_principal_components_with_shrinkage() -> None:
    """Against a full eigendecomposition, on few slices, where the shrinkage matters."""
    generator = torch.Generator().manual_seed(9)
    stratum = torch.tensor([0] * 9 + [1] * 21)
    scale = torch.linspace(2.0, 0.1, 18) ** 2
    slices = (torch.randn(30, 18, generator=generator) * scale).view(30, *SHAPE)
    fitted = fit_gaussian_world(slices, stratum, 2, GROUPS, rank=3, generator=generator)

    rows = slices.double().flatten(1)
    centred = torch.cat([rows[:9] - rows[:9].mean(dim=0), rows[9:] - rows[9:].mean(dim=0)])
    unit = scale_of_channels((centred**2).mean(dim=0))
    centred = centred / unit
    _values, vectors = torch.linalg.eigh(centred.T @ centred / 30)
    top = vectors[:, -3:]
    basis = fitted.basis.double() / unit[:, None]
    torch.testing.assert_close(basis @ basis.T, top @ top.T, atol=1e-4, rtol=0)

    within = torch.stack([centred[:9].T @ centred[:9] / 9, centred[9:].T @ centred[9:] / 21])
    for t, trust in ((0, 9 / 12), (1, 21 / 24)):
        wanted = top.T @ (trust * within[t] + (1 - trust) * (centred.T @ centred / 30)) @ top
        found = top.T @ basis @ fitted.covariance[t] @ basis.T @ top
        torch.testing.assert_close(found, wanted, atol=1e-3, rtol=1e-3)

    left = within - top @ (top.T @ within @ top) @ top.T - top @ top.T @ within @ (torch.eye(18) - top @ top.T)
    left = left - (torch.eye(18) - top @ top.T) @ within @ top @ top.T
    wanted_residual = (left.diagonal(dim1=1, dim2=2) * unit**2).reshape(2, 3, 6).mean(dim=2)
    torch.testing.assert_close(fitted.residual_variance, wanted_residual, atol=1e-4, rtol=1e-3)


def test_fit_needs_two_slices_in_every_stratum() -> None:
    with pytest.raises(ValueError, match=r"two slices.*\[3, 1\]"):
        fit_gaussian_world(
            torch.zeros(4, *SHAPE), torch.tensor([0, 0, 0, 1]), 2, GROUPS, 2, torch.Generator().manual_seed(0)
        )


@pytest.mark.parametrize("field", ["basis", "covariance", "residual_variance"])
def test_shapes_that_do_not_belong_together_are_refused(field: str) -> None:
    parts = vars(random_world(0)) | {field: torch.zeros(1, 1, 1)}
    with pytest.raises(ValueError, match=f"{field} must have shape"):
        GaussianWorld(**parts)
