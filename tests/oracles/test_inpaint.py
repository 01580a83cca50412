"""A region inside a channel, drawn given everything around it: exactly the Gaussian world's conditional."""

import pytest
import torch
from torch import Tensor

from mri_minority.diffusion.gaussian import GaussianDenoiser, GaussianWorld
from mri_minority.diffusion.given import CLEAN, LABEL, draw_given, held
from mri_minority.diffusion.guidance import Guided
from mri_minority.diffusion.inpaint import OutsideKept, OutsideKnown
from mri_minority.diffusion.kernel import ChannelGroups, sigma_path
from mri_minority.diffusion.solvers import SOLVERS
from tests.support.worlds import DenseGaussian, no_strata

CPU = torch.device("cpu")
ITEMS = 3000
SHAPE = (2, 2, 3)
PIXELS = 12


def low_rank_world(strata: int = 1, seed: int = 3) -> GaussianWorld:
    """An image and a label channel of six pixels that hang together by three directions."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    mix = normal(strata, 3, 3)
    return GaussianWorld(
        0.3 * normal(strata, *SHAPE),
        0.5 * normal(PIXELS, 3),
        mix @ mix.transpose(1, 2) + 0.2 * torch.eye(3),
        torch.tensor([[0.02, 0.03]]).expand(strata, 2) * torch.linspace(1, 2, strata)[:, None],
        ChannelGroups((1, 1)),
    )


def dense(world: GaussianWorld) -> DenseGaussian:
    """The same world with its covariance written out."""
    residual = world.residual_variance.double().repeat_interleave(PIXELS // 2, dim=1)
    basis = world.basis.double()
    return DenseGaussian(
        world.mean.double(), basis @ world.covariance.double() @ basis.T + torch.diag_embed(residual), world.groups
    )


def conditional(world: DenseGaussian, free: Tensor, at: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (n,) and covariance of the free pixels, the others known up to a noise variance each; Schur's complement."""
    mean, covariance = world.mean[0].flatten(), world.covariance[0]
    seen = covariance[~free][:, ~free] + torch.diag(noise[~free])
    gain = covariance[free][:, ~free] @ torch.linalg.inv(seen)
    return mean[free] + gain @ (at[~free] - mean[~free]), covariance[free][:, free] - gain @ covariance[~free][:, free]


def region_of(items: int) -> Tensor:
    """Two of the six pixels."""
    mask = torch.tensor([[True, False, False], [False, True, False]])
    return mask.expand(items, 1, 2, 3)


def off(world: DenseGaussian, items: int) -> Tensor:
    """A slice 1.5 standard deviations off in every pixel, up and down."""
    sign = torch.tensor([1.0, -1.0, 1.0] * 4, dtype=torch.float64)
    away = 1.5 * sign * world.covariance[0].diagonal().sqrt()
    return (world.mean[0] + away.view(SHAPE)).float().expand(items, *SHAPE).clone()


@pytest.mark.parametrize("given_label", [False, True])
@pytest.mark.parametrize("name", SOLVERS)
def test_a_region_is_a_draw_from_the_exact_conditional(name: str, given_label: bool) -> None:
    """Mean and full covariance for every solver, in both channels or in the image with its label given."""
    low = low_rank_world()
    world, net = dense(low), GaussianDenoiser(low)
    known, region = off(world, ITEMS), region_of(ITEMS)
    free, noise = region[0].expand(SHAPE).flatten().clone(), torch.zeros(PIXELS, dtype=torch.float64)
    steps = 200 if SOLVERS[name].order < 2 else 60
    path = sigma_path(30.0, 0.005, steps, 2)
    if given_label:
        free[PIXELS // 2 :] = False
        noise[PIXELS // 2 :] = CLEAN**2 * region[0].flatten()
        path = held(path, LABEL)
    found = draw_given(
        OutsideKnown(net, net, known, region),
        SOLVERS[name],
        path,
        known,
        list(range(ITEMS)),
        no_strata(known),
        5,
        low.groups,
        CPU,
    ).double()
    torch.testing.assert_close(found.flatten(1)[:, ~free], known.double().flatten(1)[:, ~free], atol=1e-5, rtol=0)
    mean, covariance = conditional(world, free, known[0].double().flatten(), noise)
    drawn, scale = found.flatten(1)[:, free], covariance.diagonal().sqrt()
    assert ((drawn.mean(dim=0) - mean).abs() / scale).max() < 4 / ITEMS**0.5 + 0.02
    spread = torch.cov(drawn.T) / (scale[:, None] * scale)
    torch.testing.assert_close(spread, covariance / (scale[:, None] * scale), atol=0.12, rtol=0)
    # Without the condition it would be far away, and much wider.
    alone = world.covariance[0].diagonal().sqrt()[free]
    assert ((mean - world.mean[0].flatten()[free]).abs() / scale).max() > 1
    assert (alone / scale).max() > 2


def test_the_posterior_mean_is_exact_for_every_item() -> None:
    """Each item with its own region, stratum and noise levels, against the dense formula."""
    low = low_rank_world(strata=3)
    world, net = dense(low), GaussianDenoiser(low)
    generator = torch.Generator().manual_seed(1)
    region = torch.rand(8, 1, 2, 3, generator=generator) < 0.4
    stratum = torch.arange(8) % 3
    known = world.sample(stratum, generator)
    sigma = torch.exp(torch.randn(8, 2, generator=generator, dtype=torch.float64))
    x = known + low.groups.spread(sigma) * torch.randn(known.shape, generator=generator, dtype=torch.float64)
    found = OutsideKnown(net, net, known, region)(x.float(), sigma, stratum).double().flatten(1)
    for n in range(8):
        free = region[n].expand(SHAPE).flatten()
        noise = torch.where(free, low.groups.spread(sigma[n : n + 1] ** 2).expand(1, *SHAPE).flatten(), 0)
        seen = torch.where(free, x[n].flatten(), known[n].flatten())
        mean, covariance = world.mean[stratum[n]].flatten(), world.covariance[stratum[n]]
        exact = mean + covariance @ torch.linalg.solve(covariance + torch.diag(noise), seen - mean)
        torch.testing.assert_close(found[n], exact, atol=2e-5, rtol=0)


def test_guidance_moves_the_region_by_bayes_rule_and_leaves_the_rest() -> None:
    """At w = 1 towards a noisy observation of the region."""
    low = low_rank_world()
    world, net = dense(low), GaussianDenoiser(low)
    known, region = off(world, ITEMS), region_of(ITEMS)
    free = region[0].expand(SHAPE).flatten()
    mean, covariance = conditional(world, free, known[0].double().flatten(), torch.zeros(PIXELS, dtype=torch.float64))
    wanted, level = mean + 2 * covariance.diagonal().sqrt(), 0.05
    told, unit = OutsideKnown(net, net, known, region), torch.eye(len(mean), dtype=torch.float64)

    def log_p(x: Tensor, sigma: Tensor, stratum: Tensor) -> Tensor:
        noise = sigma[0, 0].double() ** 2 * unit
        spread = covariance - covariance @ torch.linalg.solve(covariance + noise, covariance)
        unexpected = wanted - told(x, sigma, stratum).flatten(1)[:, free].double()
        elsewhere = x.flatten(1)[:, ~free].sum(dim=1)  # what a classifier reads outside must not move anything
        return elsewhere - 0.5 * (unexpected @ torch.linalg.inv(spread + level * unit) * unexpected).sum(dim=1)

    guided = OutsideKept(Guided(told, log_p, 1.0, low.groups), known, region)
    path = sigma_path(30.0, 0.005, 120, 2)
    found = draw_given(
        guided, SOLVERS["dpmpp_2m"], path, known, list(range(ITEMS)), no_strata(known), 5, low.groups, CPU
    )
    exact = mean + covariance @ torch.linalg.solve(covariance + level * unit, wanted - mean)
    drawn = found.flatten(1).double()
    assert ((drawn[:, free].mean(dim=0) - exact).abs() / covariance.diagonal().sqrt()).max() < 0.08
    torch.testing.assert_close(drawn[:, ~free], known.flatten(1)[:, ~free].double(), atol=1e-5, rtol=0)
