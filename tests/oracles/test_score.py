"""The minority score against its expectation: noise levels, channels, common random numbers, weights, errors."""

import pytest
import torch
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score
from torch import Tensor

from mri_minority.core.rng import generator_for
from mri_minority.diffusion.denoiser import Denoiser
from mri_minority.diffusion.kernel import ChannelGroups
from mri_minority.minority.score import Distance, channel_errors, combine, lost_parts, part_weights
from tests.support.worlds import IsotropicGaussian, no_strata, rare_world

ONE_PART = torch.ones(1, 1)


def parts_of(
    denoiser: Denoiser,
    x_0: Tensor,
    sigma: float,
    draws: int,
    items: list[int] | None = None,
    seed: int = 0,
    distance: Distance = channel_errors,
) -> Tensor:
    """Lost parts of slices of one group."""
    items = list(range(len(x_0))) if items is None else items
    groups = ChannelGroups((x_0.shape[1],))
    return lost_parts(denoiser, x_0, no_strata(x_0), sigma, items, draws, seed, groups, distance)


@pytest.mark.parametrize("sigma", [0.2, 0.5, 2.0, 6.4])
def test_expectation_in_a_gaussian_world(sigma: float) -> None:
    """E (D - x_0)^2 = (1-k)^2 (x_0 - mu)^2 + k^2 sigma^2, within four standard errors, for near and far slices."""
    world = IsotropicGaussian(0.2, 0.5)
    x_0 = torch.tensor([0.2, 0.6, -1.0, 2.0]).view(4, 1, 1, 1).expand(4, 1, 8, 8).clone()
    scores = combine(parts_of(world, x_0, sigma, 100), ONE_PART, no_strata(x_0))
    exact = world.expected_loss(x_0, sigma).mean(dim=(1, 2, 3)).double()
    assert ((scores.score - exact).abs() < 4 * scores.standard_error + 1e-12).all()
    assert (scores.standard_error < 0.1 * exact).all()


def test_expectation_channel_by_channel() -> None:
    """Parts stay apart: each channel has its own expectation."""
    world = IsotropicGaussian(0.0, 0.5)
    x_0 = torch.stack([torch.full((8, 8), value) for value in (0.0, 0.5, -1.5)])[None]
    found = parts_of(world, x_0, 1.0, 300).mean(dim=1)[0]
    torch.testing.assert_close(found, world.expected_loss(x_0, 1.0).mean(dim=(2, 3))[0], atol=0, rtol=0.04)


def test_ranks_by_distance_from_the_mode() -> None:
    world, generator = IsotropicGaussian(0.2, 0.5), torch.Generator().manual_seed(1)
    x_0 = 0.2 + 0.5 * torch.randn(60, 1, 4, 4, generator=generator)
    scores = combine(parts_of(world, x_0, 6.4, 40), ONE_PART, no_strata(x_0))
    distance = (x_0 - 0.2).square().mean(dim=(1, 2, 3))
    assert spearmanr(scores.score.numpy(), distance.numpy()).statistic > 0.999
    assert scores.stability > 0.99


@pytest.mark.parametrize("sigma", [0.3, 6.4])
def test_corollary_1(sigma: float) -> None:
    """||x_0 - D||^2 = sigma^2 ||eps_theta - eps||^2, draw by draw, eps being what (seed, draw, item) names."""
    world, x_0 = rare_world(), rare_world().sample(6, torch.Generator().manual_seed(2))[0]
    items = [3, 14, 15, 92, 65, 35]
    found = parts_of(world, x_0, sigma, 3, items, seed=7)
    for draw in range(3):
        eps = torch.stack([torch.randn(1, 2, 2, generator=generator_for(7, "score", draw, item)) for item in items])
        x = x_0 + sigma * eps
        eps_theta = (x - world(x, torch.full((6, 1), sigma, dtype=torch.float64), no_strata(x))) / sigma
        wanted = sigma**2 * (eps_theta - eps).square().mean(dim=(2, 3))
        torch.testing.assert_close(found[:, draw], wanted, atol=1e-6, rtol=1e-5)


def test_unclipped() -> None:
    """A slice that the denoiser moves far beyond [-1, 1] is measured as it is."""
    x_0 = torch.full((1, 1, 2, 2), -1.0)
    assert channel_errors(x_0, x_0 + 5).tolist() == [[25.0]]
    assert channel_errors(torch.zeros(1, 1, 1, 2), torch.tensor([[[[1.0, 3.0]]]])).tolist() == [[5.0]]


def test_common_random_numbers() -> None:
    """Draw j of item i is the same noise in any batch, so its score is the same number, bit by bit."""
    world, generator = IsotropicGaussian(0.2, 0.5), torch.Generator().manual_seed(3)
    x_0 = torch.randn(5, 2, 3, 3, generator=generator)
    whole = parts_of(world, x_0, 2.0, 4, [10, 11, 12, 13, 14])
    order = torch.tensor([3, 0, 4])
    assert torch.equal(parts_of(world, x_0[order], 2.0, 4, [13, 10, 14]), whole[order])
    assert torch.equal(parts_of(world, x_0[2:3], 2.0, 4, [12]), whole[2:3])
    assert torch.equal(parts_of(world, x_0, 2.0, 2, [10, 11, 12, 13, 14]), whole[:, :2])
    # Other items, draws and seeds are other noise.
    assert not torch.equal(parts_of(world, x_0[2:3], 2.0, 4, [13]), whole[2:3])
    assert not torch.equal(whole[:, 0], whole[:, 1])
    assert not torch.equal(parts_of(world, x_0, 2.0, 4, [10, 11, 12, 13, 14], seed=1), whole)


def test_flags_the_rare_component() -> None:
    """4 % of the slices come from elsewhere: they get the high scores."""
    world = rare_world()
    x_0, level = world.sample(1500, torch.Generator().manual_seed(4))
    assert 30 < int(level.sum()) < 90
    scores = combine(parts_of(world, x_0, 2.0, 10), ONE_PART, no_strata(x_0))
    assert roc_auc_score(level.numpy(), scores.score.numpy()) > 0.95


def test_every_group_is_noised() -> None:
    """The score's noise level reaches image and labels alike, and each item keeps its stratum."""
    seen = []

    def denoiser(x: Tensor, sigma: Tensor, stratum: Tensor) -> Tensor:
        seen.append((sigma.clone(), stratum.clone()))
        return torch.zeros_like(x)

    x_0, stratum = torch.zeros(2, 3, 4, 4), torch.tensor([1, 0])
    lost_parts(denoiser, x_0, stratum, 3.0, [0, 1], 2, 0, ChannelGroups((1, 2)), channel_errors)
    assert len(seen) == 2
    for sigma, strata in seen:
        assert sigma.tolist() == [[3.0, 3.0], [3.0, 3.0]]
        assert strata.tolist() == [1, 0]


# Combining draws.


def test_mean_and_standard_error() -> None:
    """By hand: draws 1, 2, 6 have mean 3 and standard error sqrt(7) / sqrt(3)."""
    parts = torch.tensor([[[1.0], [2.0], [6.0]], [[4.0], [4.0], [4.0]]])
    scores = combine(parts, ONE_PART, torch.tensor([0, 0]))
    assert scores.score.tolist() == [3.0, 4.0]
    assert scores.standard_error.tolist() == [pytest.approx((7 / 3) ** 0.5), 0.0]


def test_standard_error_is_how_much_scores_scatter() -> None:
    """The same slice under 400 names: the scores scatter by the standard error that each of them states."""
    x_0 = torch.full((400, 1, 4, 4), 0.8)
    scores = combine(parts_of(IsotropicGaussian(0.0, 0.5), x_0, 1.0, 16), ONE_PART, no_strata(x_0))
    assert float(scores.score.std()) == pytest.approx(float(scores.standard_error.mean()), rel=0.12)


def test_parts_are_weighed_in_their_stratum() -> None:
    parts = torch.tensor([[[1.0, 10.0], [3.0, 30.0]]] * 2)
    scores = combine(parts, torch.tensor([[1.0, 0.0], [0.25, 0.75]]), torch.tensor([0, 1]))
    assert scores.score.tolist() == [2.0, 0.25 * 2 + 0.75 * 20]


def test_stability_compares_disjoint_draws() -> None:
    """Spearman between even and odd draws: here opposite rankings, though each half is perfectly consistent."""
    even = torch.tensor([1.0, 2.0, 3.0, 4.0])
    parts = torch.stack([even, even.flip(0), even, even.flip(0)], dim=1)[:, :, None]
    assert combine(parts, ONE_PART, torch.zeros(4, dtype=torch.long)).stability == pytest.approx(-1.0)
    shuffled = torch.tensor([2.0, 1.0, 3.0, 4.0])
    parts = torch.stack([even, shuffled], dim=1)[:, :, None]
    assert combine(parts, ONE_PART, torch.zeros(4, dtype=torch.long)).stability == pytest.approx(0.8)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_scores_that_are_no_numbers_are_refused(bad: float) -> None:
    parts = torch.ones(4, 2, 1)
    parts[1, 0], parts[3, 1] = bad, bad
    with pytest.raises(ValueError, match="finite, 2 slices"):
        combine(parts, ONE_PART, torch.zeros(4, dtype=torch.long))


def test_one_draw_has_no_standard_error() -> None:
    with pytest.raises(ValueError, match="two draws, got 1"):
        combine(torch.ones(4, 1, 1), ONE_PART, torch.zeros(4, dtype=torch.long))


def test_kinds_of_weights() -> None:
    parts, stratum = torch.ones(4, 2, 3), torch.tensor([0, 0, 1, 1])

    def rows(kind: str) -> list[list[float]]:
        weights: list[list[float]] = part_weights(parts, stratum, 2, kind).tolist()
        return weights

    assert rows("image") == [[1.0, 0.0, 0.0]] * 2
    assert rows("labels") == [[0.0, 0.5, 0.5]] * 2
    assert rows("both") == [[pytest.approx(1 / 3)] * 3] * 2
    # Equal means: nothing to balance.
    assert rows("balanced") == [[pytest.approx(1 / 3)] * 3] * 2
    # Without labels the image is all there is.
    for kind in ("image", "both", "balanced"):
        assert part_weights(parts[:, :, :1], stratum, 1, kind).tolist() == [[1.0]]


def test_both_is_the_squared_error_of_the_state() -> None:
    """Corollary 1 for image and labels together."""
    world = IsotropicGaussian(0.0, 0.5)
    x_0 = torch.randn(3, 4, 5, 5, generator=torch.Generator().manual_seed(5))
    parts = parts_of(world, x_0, 1.0, 2)
    found = combine(parts, part_weights(parts, no_strata(x_0), 1, "both"), no_strata(x_0)).score

    def squared(x_0: Tensor, denoised: Tensor) -> Tensor:
        return (denoised - x_0).square().mean(dim=(1, 2, 3))[:, None]

    whole = combine(parts_of(world, x_0, 1.0, 2, distance=squared), ONE_PART, no_strata(x_0)).score
    torch.testing.assert_close(found, whole, atol=1e-7, rtol=1e-6)


def test_balanced_parts_count_the_same_in_every_stratum() -> None:
    """Weighed, every part has the same mean share; a part that is nearly absent is held at 2 % of the largest mean."""
    generator = torch.Generator().manual_seed(6)
    means = torch.tensor([[4.0, 1.0, 0.5], [2.0, 8.0, 1e-7]])
    stratum = torch.tensor([0] * 30 + [1] * 30)
    parts = means[stratum][:, None] * (0.5 + torch.rand(60, 4, 3, generator=generator))
    weights = part_weights(parts, stratum, 2, "balanced")
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(2, dtype=torch.float64))
    found = torch.stack([parts[stratum == t].double().mean(dim=(0, 1)) for t in range(2)])
    share = weights * found
    torch.testing.assert_close(share[0], share[0, :1].expand(3))
    torch.testing.assert_close(share[1, 0], share[1, 1])
    floor = 0.02 * found.max()
    torch.testing.assert_close(weights[1, 2] / weights[1, 0], found[1, 0] / floor)


@pytest.mark.parametrize(("kind", "width"), [("lpips", 3), ("labels", 1), ("", 2)])
def test_unknown_weights_are_refused(kind: str, width: int) -> None:
    with pytest.raises(ValueError, match=f"image, labels, both, balanced for {width} parts, got '{kind}'"):
        part_weights(torch.ones(4, 2, width), torch.zeros(4, dtype=torch.long), 1, kind)
