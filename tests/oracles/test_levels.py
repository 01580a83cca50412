"""Levels inside strata, against counting."""

import pytest
import torch
from torch import Tensor

from mri_minority.minority.levels import LevelScale, fit_levels


def scores(n: int, seed: int) -> Tensor:
    return torch.rand(n, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("levels", [2, 5, 10])
def test_equal_population_in_every_stratum(levels: int) -> None:
    """Even where one stratum scores a thousand times higher than the other: rare is asked inside."""
    stratum = torch.arange(90) % 3 % 2  # 60 and 30 slices, interleaved
    score = scores(90, 0) * torch.where(stratum == 1, 1000.0, 1.0)
    level = fit_levels(score, stratum, 2, levels).of(score, stratum)
    for t, n in ((0, 60), (1, 30)):
        assert torch.bincount(level[stratum == t], minlength=levels).tolist() == [n // levels] * levels


@pytest.mark.parametrize(("n", "levels"), [(7, 5), (11, 3), (23, 7), (99, 10), (5, 5)])
def test_populations_differ_by_one_at_most(n: int, levels: int) -> None:
    stratum = torch.zeros(n, dtype=torch.long)
    counts = torch.bincount(fit_levels(scores(n, 1), stratum, 1, levels).of(scores(n, 1), stratum), minlength=levels)
    assert len(counts) == levels
    assert int(counts.max() - counts.min()) <= 1


def test_level_0_is_common_and_the_last_is_rarest() -> None:
    """Ten scores, five levels: pairs, in order, however they are shuffled."""
    order = torch.randperm(10, generator=torch.Generator().manual_seed(2))
    score, stratum = order.float(), torch.zeros(10, dtype=torch.long)
    assert torch.equal(fit_levels(score, stratum, 1, 5).of(score, stratum), order // 2)


def test_bins_are_right_closed() -> None:
    """A score equal to a threshold belongs to the lower level; the next number above it does not."""
    scale = LevelScale(torch.tensor([[1.0, 2.0, 3.0]], dtype=torch.float64))
    score = torch.tensor([0.0, 1.0, 1.0 + 1e-12, 2.0, 2.5, 3.0, 3.0 + 1e-12, 1e30, -1e30], dtype=torch.float64)
    assert scale.levels == 4
    assert scale.of(score, torch.zeros(9, dtype=torch.long)).tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 0]


def test_thresholds_are_scores_of_slices() -> None:
    """The scores that end each fifth: those at threshold are still inside."""
    score = torch.arange(1.0, 21.0)
    scale = fit_levels(score, torch.zeros(20, dtype=torch.long), 1, 5)
    assert scale.thresholds.tolist() == [[4.0, 8.0, 12.0, 16.0]]


def test_new_slices_use_their_own_stratum() -> None:
    scale = LevelScale(torch.tensor([[1.0, 2.0], [10.0, 20.0]], dtype=torch.float64))
    score = torch.tensor([5.0, 5.0, 15.0, 25.0])
    assert scale.of(score, torch.tensor([0, 1, 1, 1])).tolist() == [2, 0, 1, 2]


def test_a_higher_score_never_has_a_lower_level() -> None:
    """Also with many ties, and for scores that were not in the fit."""
    generator = torch.Generator().manual_seed(3)
    fitted = torch.randint(4, (60,), generator=generator).float()
    stratum = torch.zeros(60, dtype=torch.long)
    scale = fit_levels(fitted, stratum, 1, 6)
    probe = torch.linspace(-2, 6, 300)
    level = scale.of(probe, torch.zeros(300, dtype=torch.long))
    assert bool((level.diff() >= 0).all())
    assert int(level[0]) == 0
    assert int(level[-1]) == 5
    # Equal scores have equal levels.
    again = scale.of(fitted, stratum)
    assert all(len(set(again[fitted == value].tolist())) == 1 for value in range(4))


def test_too_few_slices() -> None:
    stratum = torch.tensor([0] * 9 + [1] * 4)
    with pytest.raises(ValueError, match="5 levels and a stratum of 4 slices"):
        fit_levels(scores(13, 4), stratum, 2, 5)
    with pytest.raises(ValueError, match="a stratum of 0 slices"):
        fit_levels(scores(13, 4), stratum, 3, 2)
    with pytest.raises(ValueError, match="2 or more levels"):
        fit_levels(scores(13, 4), stratum, 2, 1)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_scores_that_are_no_numbers_are_refused(bad: float) -> None:
    score, stratum = scores(10, 5), torch.zeros(10, dtype=torch.long)
    scale = fit_levels(score, stratum, 1, 2)
    score[3] = bad
    with pytest.raises(ValueError, match="finite, 1 are not"):
        fit_levels(score, stratum, 1, 2)
    with pytest.raises(ValueError, match="finite, 1 are not"):
        scale.of(score, stratum)
