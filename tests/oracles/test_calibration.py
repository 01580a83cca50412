"""Calibration against classifiers whose errors are known."""

import math

import pytest
import torch
from sklearn.metrics import roc_auc_score

from mri_minority.minority.calibration import auroc, calibration_of, expected_calibration_error
from mri_minority.minority.heads import log_probabilities


def test_errors_in_closed_form() -> None:
    """Three bins by hand; a confidence on a border belongs to the bin below, as in the paper."""
    confidence = torch.tensor([0.15, 0.2, 0.75, 0.75, 0.75, 1.0])
    hit = torch.tensor([True, False, True, True, False, True])
    wanted = (abs(0.35 - 1) + abs(2.25 - 2) + 0.0) / 6
    assert expected_calibration_error(confidence, hit) == pytest.approx(wanted, abs=1e-6)
    assert expected_calibration_error(torch.tensor([0.2, 0.21]), torch.tensor([True, False])) == pytest.approx(
        (0.8 + 0.21) / 2, abs=1e-6
    )
    assert expected_calibration_error(torch.zeros(4), torch.zeros(4, dtype=torch.bool)) == 0


@pytest.mark.parametrize("head", ["ordinal", "softmax"])
def test_a_true_classifier_is_calibrated_and_a_bold_one_is_not(head: str) -> None:
    """Levels drawn from the head's own probabilities: no error but that of counting. Outputs times three: an error."""
    generator, levels, n = torch.Generator().manual_seed(0), 4, 20000
    outputs = 1.5 * torch.randn(n, 1 if head == "ordinal" else levels, generator=generator)
    log_p = log_probabilities(head, outputs, levels)  # type: ignore[arg-type]
    truth = torch.multinomial(log_p.exp(), 1, generator=generator)[:, 0]
    honest = calibration_of(log_p, truth)
    bold = calibration_of(log_probabilities(head, 3 * outputs, levels), truth)  # type: ignore[arg-type]
    assert honest.items == n
    assert honest.ece < 0.015
    assert honest.ece_top < 0.015
    assert bold.ece > 0.1
    assert bold.ece_top > 0.05
    entropy = -(log_p.exp() * log_p).sum(dim=1).mean()
    assert honest.log_likelihood == pytest.approx(-float(entropy), abs=0.02)
    assert bold.log_likelihood < honest.log_likelihood


def test_a_classifier_that_knows_nothing() -> None:
    """Uniform over five levels: -ln 5, a fifth right with a confidence of a fifth, AUROC a half."""
    found = calibration_of(torch.full((10, 5), -math.log(5)), torch.arange(10) % 5)
    assert found.log_likelihood == pytest.approx(-math.log(5))
    assert found.ece == pytest.approx(0.0, abs=1e-6)
    assert found.ece_top == pytest.approx(0.0, abs=1e-6)
    assert found.auroc_top == 0.5


def test_auroc_is_sklearns() -> None:
    generator = torch.Generator().manual_seed(1)
    score = torch.randint(6, (200,), generator=generator).double()  # many ties
    positive = torch.rand(200, generator=generator) < 0.2
    assert auroc(score, positive) == pytest.approx(roc_auc_score(positive.numpy(), score.numpy()))
    assert auroc(score, torch.zeros(200, dtype=torch.bool)) is None
    assert auroc(score, torch.ones(200, dtype=torch.bool)) is None


def test_one_slice_and_none() -> None:
    """A validation set smaller than a batch is measured; an empty or broken one is refused."""
    found = calibration_of(torch.tensor([[0.2, 0.8]]).log(), torch.tensor([1]))
    assert (found.items, found.auroc_top) == (1, None)
    assert found.ece == pytest.approx(0.2, abs=1e-6)
    for bad in (torch.zeros(0, 3), torch.full((2, 3), float("nan"))):
        with pytest.raises(ValueError, match="one or more slices"):
            calibration_of(bad, torch.zeros(len(bad), dtype=torch.long))
