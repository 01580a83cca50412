"""One noise kernel in two coordinates, against MONAI's schedulers and the paper's formula."""

import pytest
import torch
from monai.networks.schedulers import DDPMScheduler

from mri_minority.diffusion.kernel import ChannelGroups, abar_from_sigma, add_noise, sigma_from_abar, sigma_path


@pytest.fixture(scope="module")
def scheduler() -> DDPMScheduler:
    """ADM's linear schedule of 1000 steps."""
    return DDPMScheduler(1000, schedule="linear_beta", beta_start=1e-4, beta_end=0.02)


def test_sigma_is_the_product_of_the_betas(scheduler: DDPMScheduler) -> None:
    """1 + sigma_t^2 = prod 1 / (1 - beta), from MONAI's betas; and MONAI's alphas_cumprod is the way back."""
    inflation = torch.cumprod(1 / (1 - scheduler.betas.double()), dim=0)
    sigma = sigma_from_abar(scheduler.alphas_cumprod)
    torch.testing.assert_close(sigma, (inflation - 1).sqrt(), atol=0, rtol=1e-3)
    torch.testing.assert_close(sigma[10:], (inflation - 1).sqrt()[10:], atol=0, rtol=2e-5)
    torch.testing.assert_close(
        abar_from_sigma((inflation - 1).sqrt()), scheduler.alphas_cumprod.double(), atol=0, rtol=2e-5
    )


def test_round_trip() -> None:
    sigma = torch.logspace(-3, 2, 40, dtype=torch.float64)
    torch.testing.assert_close(sigma_from_abar(abar_from_sigma(sigma)), sigma, atol=0, rtol=1e-9)
    assert sigma_from_abar(torch.tensor(1.0)) == 0


def test_the_noise_level_of_the_released_score(scheduler: DDPMScheduler) -> None:
    """0.6 T of ADM's linear schedule is about abar = 0.024, sigma = 6.4."""
    assert float(scheduler.alphas_cumprod[600]) == pytest.approx(0.024, abs=0.002)
    assert float(sigma_from_abar(scheduler.alphas_cumprod[600])) == pytest.approx(6.4, abs=0.3)


@pytest.mark.parametrize("t", [0, 100, 600, 999])
def test_a_variance_preserving_slice_divided_by_root_abar_is_ours(scheduler: DDPMScheduler, t: int) -> None:
    """x_t / sqrt(abar) = x_0 + sigma eps, with x_t noised by MONAI."""
    generator = torch.Generator().manual_seed(t)
    x_0, eps = torch.randn(2, 3, 1, 4, 4, generator=generator).unbind()
    abar = scheduler.alphas_cumprod[t]
    x_t = scheduler.add_noise(x_0, eps, torch.full((3,), t))
    sigma = sigma_from_abar(abar).expand(3, 1)
    torch.testing.assert_close(add_noise(x_0, sigma, eps, ChannelGroups((1,))), x_t / abar.sqrt(), rtol=1e-4, atol=1e-5)


def test_every_group_gets_its_own_noise() -> None:
    groups = ChannelGroups((1, 2))
    x_0, eps = torch.randn(2, 2, 3, 2, 2, generator=torch.Generator().manual_seed(0)).unbind()
    noisy = add_noise(x_0, torch.tensor([[0.5, 3.0], [0.0, 7.0]]), eps, groups)
    torch.testing.assert_close(noisy[0], x_0[0] + torch.tensor([0.5, 3.0, 3.0])[:, None, None] * eps[0])
    assert torch.equal(noisy[1, 0], x_0[1, 0])
    torch.testing.assert_close(noisy[1, 1:], x_0[1, 1:] + 7 * eps[1, 1:])
    torch.testing.assert_close(groups.mean(x_0), torch.stack([x_0[:, 0].mean((1, 2)), x_0[:, 1:].mean((1, 2, 3))], 1))
    assert groups.channels == 3


@pytest.mark.parametrize("rho", [3.0, 7.0])
def test_path_is_edm_equation_5(rho: float) -> None:
    path = sigma_path(40.0, 0.01, 12, 2, rho)
    wanted = [(40 ** (1 / rho) + i / 11 * (0.01 ** (1 / rho) - 40 ** (1 / rho))) ** rho for i in range(12)] + [0.0]
    torch.testing.assert_close(path, torch.tensor(wanted, dtype=torch.float64)[:, None].repeat(1, 2))


def test_path_has_edms_default_curvature_and_its_ends() -> None:
    path = sigma_path(80.0, 0.002, 18, 1)
    assert float(path[0]) == pytest.approx(80.0, rel=1e-12)
    assert float(path[-2]) == pytest.approx(0.002, rel=1e-9)
    assert float(path[-1]) == 0
    # Third level of EDM's 18-step path, computed by hand with rho = 7.
    assert float(path[2]) == pytest.approx(40.7856, rel=1e-4)
    assert sigma_path(80.0, 0.002, 1, 1).tolist() == [[pytest.approx(80.0)], [0.0]]


@pytest.mark.parametrize("arguments", [(80.0, 0.002, 0), (1.0, 1.0, 4), (1.0, 0.0, 4), (0.1, 0.5, 4)])
def test_impossible_paths_are_refused(arguments: tuple[float, float, int]) -> None:
    with pytest.raises(ValueError, match="sigma_min < sigma_max"):
        sigma_path(*arguments, 1)
