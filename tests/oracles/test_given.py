"""Given one group, a region or a start: the other part is a draw from its exact conditional."""

import pytest
import torch
from torch import Tensor

from mri_minority.diffusion.given import CERTAIN, CLEAN, IMAGE, LABEL, draw_given, from_level, held
from mri_minority.diffusion.guidance import Guided
from mri_minority.diffusion.kernel import sigma_path
from mri_minority.diffusion.loss import NoiseLevels
from mri_minority.diffusion.solvers import SOLVERS
from tests.support.worlds import DenseGaussian, correlated_world, no_strata

CPU = torch.device("cpu")
ITEMS = 2500


def unlikely(world: DenseGaussian, group: int) -> Tensor:
    """Slices whose given group lies 1.5 standard deviations off; the other group is nonsense that nobody may read."""
    spread = world.covariance[0].diagonal().sqrt().view(1, 2, 1, 3)
    known = torch.full((ITEMS, 2, 1, 3), 77.0)
    known[:, group] = (world.mean[:, group] + 1.5 * spread[:, group]).float()
    return known


def conditional(world: DenseGaussian, known: Tensor, group: int, level: float = CLEAN) -> tuple[Tensor, Tensor]:
    """Mean (3,) and covariance (3, 3) of the other group given this one at a noise level, by Schur's complement."""
    order = [3, 4, 5, 0, 1, 2] if group == IMAGE else [0, 1, 2, 3, 4, 5]
    mean, covariance = world.mean.flatten()[order], world.covariance[0][order][:, order]
    seen = covariance[3:, 3:] + level**2 * torch.eye(3, dtype=torch.float64)
    gain = covariance[:3, 3:] @ torch.linalg.inv(seen)
    at = mean[:3] + gain @ (known[0, group].double().flatten() - mean[3:])
    return at, covariance[:3, :3] - gain @ covariance[3:, :3]


@pytest.mark.parametrize(("group", "level"), [(LABEL, CERTAIN), (LABEL, CLEAN), (IMAGE, CLEAN)])
@pytest.mark.parametrize("name", SOLVERS)
def test_the_conditional_is_exact(name: str, group: int, level: float) -> None:
    """p(image | label) and p(label | image): mean and full covariance, for every solver."""
    world, steps = correlated_world(6), 120 if SOLVERS[name].order < 2 else 60
    known = unlikely(world, group)
    path = held(sigma_path(20.0, 0.01, steps, 2), group, level)
    found = draw_given(
        world, SOLVERS[name], path, known, list(range(ITEMS)), no_strata(known), 5, world.groups, CPU
    ).double()
    mean, covariance = conditional(world, known, group, level)
    assert torch.equal(found[:, group].float(), known[:, group])
    drawn = found[:, 1 - group].flatten(1)
    scale = covariance.diagonal().sqrt()
    assert ((drawn.mean(dim=0) - mean).abs() / scale).max() < 4 / ITEMS**0.5 + 0.03
    correlation = torch.cov(drawn.T) / (scale[:, None] * scale)
    torch.testing.assert_close(correlation, covariance / (scale[:, None] * scale), atol=0.14, rtol=0)
    # Without the condition it would be elsewhere, and wider.
    alone = world.mean[0, 1 - group].flatten()
    assert ((mean - alone).abs() / scale).max() > 0.3


def test_clean_is_what_training_calls_given() -> None:
    assert NoiseLevels().clean == CLEAN


def test_guidance_still_moves_the_image_and_never_the_label() -> None:
    """At w = 1 towards a linear observation of the image: Bayes' rule on top of the condition, exactly."""
    world = correlated_world(6)
    known = unlikely(world, LABEL)
    mean, covariance = conditional(world, known, LABEL)
    wanted, noise = mean + 1.0, 0.3

    def log_p(x: Tensor, sigma: Tensor, stratum: Tensor) -> Tensor:
        image = world(x, sigma, stratum)[:, 0].flatten(1)  # of x_sigma: p(y | x) = N(y; E x_0, Cov x_0 + noise^2)
        level = sigma[0, 0].double() ** 2 * torch.eye(3, dtype=torch.float64)
        spread = covariance - covariance @ torch.linalg.solve(covariance + level, covariance)
        total = spread + noise**2 * torch.eye(3, dtype=torch.float64)
        off = wanted - image.double()
        return -0.5 * (off @ torch.linalg.inv(total) * off).sum(dim=1)

    guided = Guided(world, log_p, 1.0, world.groups)
    path = held(sigma_path(20.0, 0.01, 120, 2), LABEL)
    found = draw_given(
        guided, SOLVERS["dpmpp_2m"], path, known, list(range(ITEMS)), no_strata(known), 5, world.groups, CPU
    )
    gain = covariance @ torch.linalg.inv(covariance + noise**2 * torch.eye(3, dtype=torch.float64))
    scale = covariance.diagonal().sqrt()
    off = found[:, 0].flatten(1).double().mean(dim=0) - (mean + gain @ (wanted - mean))
    assert (off.abs() / scale).max() < 0.1
    assert torch.equal(found[:, LABEL], known[:, LABEL])


def test_a_blurred_start_remembers_as_much_as_its_noise_leaves() -> None:
    """Started at sigma from x_0 the flow gives, on average, the exact flow of E x_sigma: near x_0 for little noise."""
    world = correlated_world(4)
    known = unlikely(world, LABEL)
    known[:, IMAGE] = (world.mean[:, 0] + 2 * world.covariance[0].diagonal().sqrt()[:3].view(1, 1, 3)).float()
    whole = sigma_path(20.0, 0.01, 200, 2)
    for sigma in (0.1, 1.0):
        path = from_level(whole, sigma)
        found = draw_given(
            world, SOLVERS["heun"], path, known, list(range(ITEMS)), no_strata(known), 5, world.groups, CPU, True
        )
        exact = world.flow(known[:1].double(), sigma, 0.0)[0]
        torch.testing.assert_close(found.double().mean(dim=0), exact, atol=0.03, rtol=0)


def test_paths() -> None:
    path = sigma_path(10.0, 0.02, 8, 2)
    assert torch.equal(held(path, LABEL)[:, 0], path[:, 0])
    assert set(held(path, LABEL)[:, 1].tolist()) == {CLEAN}
    short = from_level(path, 1.0)
    assert short[0].tolist() == [1.0, 1.0]
    assert short[-1].tolist() == [0.0, 0.0]
    assert bool((short[1:] <= short[:-1]).all())
    with pytest.raises(ValueError, match="several channel groups"):
        held(sigma_path(10.0, 0.02, 8, 1), 0)
    with pytest.raises(ValueError, match="above zero"):
        from_level(path, 0.0)
