"""The minority score where the answer is known."""

import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor

from mri_minority.core.rng import normal_for
from mri_minority.minority.score import channel_errors, combine, lost_parts, part_weights
from tests.support.worlds import ONE_GROUP, IsotropicGaussian, no_strata, rare_world


def _lost(denoiser: object, x_0: Tensor, sigma: float, draws: int, items: list[int] | None = None) -> Tensor:
    items = items or list(range(len(x_0)))
    return lost_parts(denoiser, x_0, no_strata(x_0), sigma, items, draws, 9, ONE_GROUP, channel_errors)  # type: ignore[arg-type]


def test_expected_loss_in_a_gaussian_world() -> None:
    """(1 - k)^2 (x_0 - mu)^2 + k^2 sigma^2, within five standard errors; so it ranks by distance from the mode."""
    world = IsotropicGaussian(0.2, 0.5)
    x_0 = torch.tensor([0.2, 0.5, 0.9, 1.5, -1.4], dtype=torch.float64)[:, None, None, None].expand(-1, 1, 4, 4)
    parts = _lost(world, x_0, 0.8, 400)
    result = combine(parts, torch.ones(1, 1), no_strata(x_0))
    expected = world.expected_loss(x_0, 0.8).mean(dim=(1, 2, 3))
    assert bool(((result.score - expected).abs() < 5 * result.standard_error).all())
    assert result.score.argsort().tolist() == (x_0[:, 0, 0, 0] - 0.2).abs().argsort().tolist()


def test_corollary_one() -> None:
    """||x_0 - D||^2 = sigma^2 ||eps_theta - eps||^2 with eps_theta = (x_sigma - D) / sigma: unclipped, it is exact."""
    world, sigma = rare_world(), 1.3
    x_0, _ = world.sample(6, torch.Generator().manual_seed(0))
    eps = normal_for(9, list(range(6)), (1, 2, 2), "score", 0).to(x_0)
    x_sigma = x_0 + sigma * eps
    predicted = (x_sigma - world(x_sigma, torch.full((6, 1), sigma), no_strata(x_0))) / sigma
    reweighted = sigma**2 * ((predicted - eps) ** 2).mean(dim=(2, 3))
    torch.testing.assert_close(_lost(world, x_0, sigma, 1)[:, 0], reweighted)


def test_an_item_does_not_depend_on_its_batch() -> None:
    """Common random numbers: alone or among others, in any order, bit for bit."""
    world = IsotropicGaussian(0.0, 0.5)
    x_0 = torch.randn(7, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    together = _lost(world, x_0, 1.0, 3)
    alone = _lost(world, x_0[[4, 2]], 1.0, 3, items=[4, 2])
    assert torch.equal(alone, together[[4, 2]])


def test_the_rare_component_is_flagged() -> None:
    """4 % of the mixture, found by what denoising loses."""
    world = rare_world()
    x_0, level = world.sample(1500, torch.Generator().manual_seed(2))
    score = combine(_lost(world, x_0, 1.5, 8), torch.ones(1, 1), no_strata(x_0)).score
    assert roc_auc_score((level == 1).numpy(), score.numpy()) > 0.95


def test_weights_and_standard_error() -> None:
    """Balanced weights make every part's mean equal; the standard error is that of the mean of the draws."""
    generator = torch.Generator().manual_seed(3)
    scale = torch.tensor([1.0, 10.0, 0.5])
    parts = torch.rand(40, 4, 3, generator=generator) * scale
    stratum = torch.arange(40) % 2
    weights = part_weights(parts, stratum, 2, "balanced")
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(2, dtype=torch.float64))
    for t in range(2):
        means = parts[stratum == t].double().mean(dim=(0, 1)) * weights[t]
        torch.testing.assert_close(means, means[:1].expand(3))
    assert part_weights(parts, stratum, 2, "image").tolist() == [[1, 0, 0]] * 2
    assert part_weights(parts, stratum, 2, "labels").tolist() == [[0, 0.5, 0.5]] * 2
    result = combine(parts, weights, stratum)
    each = (parts.double() * weights[stratum][:, None]).sum(dim=2)
    torch.testing.assert_close(result.standard_error, each.std(dim=1) / 2)
    torch.testing.assert_close(result.score, each.mean(dim=1))


def test_what_cannot_be_scored_is_refused() -> None:
    """NaN must not fall silently into a level; one draw has no standard error; a wrong distance is named."""
    parts = torch.ones(3, 2, 2)
    stratum = torch.zeros(3, dtype=torch.long)
    weights = part_weights(parts, stratum, 1, "both")
    parts[1, 0, 0] = float("nan")
    with pytest.raises(ValueError, match="1 slices"):
        combine(parts, weights, stratum)
    with pytest.raises(ValueError, match="two draws"):
        combine(torch.ones(3, 1, 2), weights, stratum)
    with pytest.raises(ValueError, match="balanced"):
        part_weights(torch.ones(3, 2, 2), stratum, 1, "lpips")
