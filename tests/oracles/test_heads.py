"""The ordinal head against naive differences of sigmoids, and what `--class` means."""

import math

import pytest
import torch
from torch import Tensor

from mri_minority.core.errors import UsageError
from mri_minority.minority.heads import cut_points, level_loss, log_probabilities, log_probability_of, outputs_of
from mri_minority.minority.target import wanted_levels


def naive(f: Tensor, levels: int) -> Tensor:
    """P(level = k) = sigmoid(f - theta_{k-1}) - sigmoid(f - theta_k), with theta_k = ln((k+1) / (L-k-1)): (B, L)."""
    theta = torch.tensor([math.log((k + 1) / (levels - k - 1)) for k in range(levels - 1)], dtype=torch.float64)
    above = torch.sigmoid(f.double()[:, None] - theta)
    edges = torch.cat([torch.ones(len(f), 1), above, torch.zeros(len(f), 1)], dim=1)
    return edges[:, :-1] - edges[:, 1:]


@pytest.mark.parametrize("levels", [2, 3, 10, 100])
def test_ordinal_is_the_difference_of_sigmoids(levels: int) -> None:
    f = torch.linspace(-8, 8, 33, dtype=torch.float64)
    found = log_probabilities("ordinal", f[:, None], levels)
    torch.testing.assert_close(found.exp(), naive(f, levels), atol=1e-12, rtol=1e-8)
    torch.testing.assert_close(found.exp().sum(dim=1), torch.ones(33, dtype=torch.float64))
    single = log_probabilities("ordinal", f.float()[:, None], levels)
    torch.testing.assert_close(single.double(), found, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("levels", [2, 7, 100])
def test_a_network_that_knows_nothing_is_uniform(levels: int) -> None:
    found = log_probabilities("ordinal", torch.zeros(1, 1, dtype=torch.float64), levels)
    torch.testing.assert_close(found, torch.full((1, levels), -math.log(levels), dtype=torch.float64))
    assert outputs_of("ordinal", levels) == 1
    shares = torch.sigmoid(cut_points(levels))
    torch.testing.assert_close(shares, torch.arange(1, levels, dtype=torch.float64) / levels)


def test_exceedance_falls_with_the_level_and_rises_with_the_output() -> None:
    f = torch.linspace(-60, 60, 41, dtype=torch.float64)[:, None]
    p = log_probabilities("ordinal", f, 9).exp()
    above = 1 - p.cumsum(dim=1)
    assert bool((above.diff(dim=1) <= 1e-15).all())
    assert bool((above[:, :-1].diff(dim=0) >= -1e-15).all())
    # More output, rarer: the expected level goes from one end to the other.
    expected = (p * torch.arange(9)).sum(dim=1)
    assert float(expected[0]) < 1e-9
    assert float(expected[-1]) > 8 - 1e-9


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("f", [-60.0, -20.0, 0.0, 20.0, 60.0])
def test_gradient_of_the_top_level_is_exact_at_any_output(f: float, dtype: torch.dtype) -> None:
    """d log sigmoid(f - theta) / df = sigmoid(theta - f): about 1 where guidance is needed most, not 0 or NaN."""
    output = torch.tensor([[f]], dtype=dtype, requires_grad=True)
    log_p = log_probabilities("ordinal", output, 10)
    wanted = torch.zeros(1, 10, dtype=torch.bool)
    wanted[:, -1] = True
    (gradient,) = torch.autograd.grad(log_probability_of(log_p, wanted).sum(), output)
    exact = 1 / (1 + math.exp(f - math.log(9)))
    assert float(gradient) == pytest.approx(exact, rel=1e-5)
    assert bool(torch.isfinite(log_p).all())
    if f == -60.0:
        assert float(log_p[0, -1].detach()) == pytest.approx(-60 - math.log(9), rel=1e-6)


@pytest.mark.parametrize("f", [-60.0, 60.0])
def test_gradient_of_a_middle_level_pulls_back(f: float) -> None:
    output = torch.tensor([[f]], requires_grad=True)
    (gradient,) = torch.autograd.grad(log_probabilities("ordinal", output, 10)[0, 4], output)
    assert float(gradient) == pytest.approx(-1.0 if f > 0 else 1.0, rel=1e-5)


def test_softmax_head() -> None:
    outputs = torch.randn(5, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = log_probabilities("softmax", outputs, 4)
    torch.testing.assert_close(found.exp(), outputs.exp() / outputs.exp().sum(dim=1, keepdim=True))
    assert outputs_of("softmax", 4) == 4


def test_total_probability_of_some_levels() -> None:
    """The sum of probabilities of what is wanted, row by row; everything wanted is certain."""
    p = torch.tensor([[0.1, 0.2, 0.3, 0.4], [0.7, 0.1, 0.1, 0.1]], dtype=torch.float64)
    wanted = torch.tensor([[True, False, True, False], [False, False, False, True]])
    torch.testing.assert_close(log_probability_of(p.log(), wanted).exp(), torch.tensor([0.4, 0.1], dtype=torch.float64))
    assert log_probability_of(p.log(), torch.ones(2, 4, dtype=torch.bool)).tolist() == pytest.approx([0.0, 0.0])


def test_gradient_of_a_range_leaves_the_others_alone() -> None:
    """d log sum p_k = softmax within the range, and exactly zero outside."""
    log_p = torch.tensor([[0.1, 0.2, 0.3, 0.4]]).log().requires_grad_(True)
    wanted = torch.tensor([[False, True, True, False]])
    (gradient,) = torch.autograd.grad(log_probability_of(log_p, wanted).sum(), log_p)
    torch.testing.assert_close(gradient, torch.tensor([[0.0, 0.4, 0.6, 0.0]]))


def test_loss_is_the_mean_negative_log_likelihood() -> None:
    p = torch.tensor([[0.1, 0.9], [0.25, 0.75]])
    assert float(level_loss(p.log(), torch.tensor([1, 0]))) == pytest.approx(-(math.log(0.9) + math.log(0.25)) / 2)


@pytest.mark.parametrize(
    ("text", "levels", "wanted"),
    [
        ("rare", 5, [4]),
        ("common", 5, [0]),
        ("0", 5, [0]),
        ("3", 5, [3]),
        ("rarest:20%", 10, [8, 9]),
        ("rarest:5%", 10, [9]),
        ("rarest:0.5%", 10, [9]),
        ("rarest:12.5%", 8, [7]),
        ("rarest:100%", 3, [0, 1, 2]),
        ("50%-60%", 10, [5]),
        ("0%-100%", 4, [0, 1, 2, 3]),
        ("0%-50%", 4, [0, 1]),
        ("80%-100%", 20, [16, 17, 18, 19]),
        ("62.5%-87.5%", 8, [5, 6]),
    ],
)
def test_wanted_levels(text: str, levels: int, wanted: list[int]) -> None:
    assert wanted_levels(text, levels).nonzero().ravel().tolist() == wanted


@pytest.mark.parametrize("levels", range(2, 31))
def test_neighbouring_ranges_share_no_level_and_leave_none_out(levels: int) -> None:
    """Borders fall on the middles of levels for many of these; each level belongs to one range still."""
    for width in (10, 20, 25, 50):
        claimed = torch.zeros(levels, dtype=torch.long)
        for low in range(0, 100, width):
            middles = [(k + 0.5) * 100 / levels for k in range(levels)]
            if any(low <= m < low + width for m in middles):
                claimed += wanted_levels(f"{low}%-{low + width}%", levels)
            else:
                with pytest.raises(UsageError, match="narrower"):
                    wanted_levels(f"{low}%-{low + width}%", levels)
        assert claimed.tolist() == [1] * levels


@pytest.mark.parametrize(
    ("text", "levels", "wanted"),
    [("30%-50%", 5, [1]), ("50%-70%", 5, [2]), ("0%-10%", 5, [0]), ("0%-100%", 3, [0, 1, 2])],
)
def test_a_middle_on_the_border_belongs_to_the_upper_range(text: str, levels: int, wanted: list[int]) -> None:
    if text == "0%-10%":  # the middle of level 0 is 10 %: it begins the next range
        with pytest.raises(UsageError, match="narrower"):
            wanted_levels(text, levels)
        assert wanted_levels("10%-20%", levels).nonzero().ravel().tolist() == wanted
    else:
        assert wanted_levels(text, levels).nonzero().ravel().tolist() == wanted


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("5", "level from 0 .* to 4"),
        ("99", "found 99"),
        ("-1", "found '-1'"),
        ("2.5", "found '2.5'"),
        ("\u00b2", "found"),  # a superscript two is a digit to str.isdigit
        ("", "found ''"),
        ("Rare", "found 'Rare'"),
        ("rarest", "expected rare"),
        ("rarest:5", "expected rare"),
        ("rarest:0%", "expected rare"),
        ("rarest:101%", "expected rare"),
        ("rarest:-5%", "expected rare"),
        ("60%-50%", "expected rare"),
        ("50%-50%", "expected rare"),
        ("50%-120%", "expected rare"),
        ("51%-52%", "narrower than one of the 5 levels"),
    ],
)
def test_wrong_classes_are_refused(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        wanted_levels(text, 5)
