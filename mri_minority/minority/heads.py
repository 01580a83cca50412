"""From the classifier's outputs to log p(level): plain softmax, or ordinal with cumulative logits."""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

Head = Literal["ordinal", "softmax"]


def outputs_of(head: Head, levels: int) -> int:
    """How many numbers the network must give."""
    return 1 if head == "ordinal" else levels


def log_probabilities(head: Head, outputs: Tensor, levels: int) -> Tensor:
    """Return log p(level | outputs) (B, L).

    Ordinal (proportional odds, McCullagh 1980): P(level > k) = sigmoid(f - theta_k) with the cut points theta_k fixed
    where f = 0 makes all levels equally likely: a network that knows nothing says f = 0.

    Args:
        head: Which head.
        outputs: (B, 1) for ordinal, (B, L) for softmax.
        levels: L.
    """
    if head == "softmax":
        return functional.log_softmax(outputs, dim=1)
    cuts = cut_points(levels).to(outputs)
    shifted = outputs - cuts
    below = functional.logsigmoid(-shifted)
    above = functional.logsigmoid(shifted)
    # P(level = k) = sigmoid(f - theta_{k-1}) - sigmoid(f - theta_k)
    #              = P(level > k-1) P(level <= k) (1 - exp(theta_{k-1} - theta_k)), an identity without cancellation.
    gaps = torch.log1p(-torch.exp(cuts[:-1] - cuts[1:]))
    inner = above[:, :-1] + below[:, 1:] + gaps
    return torch.cat([below[:, :1], inner, above[:, -1:]], dim=1)


def cut_points(levels: int) -> Tensor:
    """theta_k = logit((k + 1) / L) for k = 0..L-2: equal shares at f = 0. float64 (L - 1,)."""
    shares = torch.arange(1, levels, dtype=torch.float64) / levels
    return torch.logit(shares)


def log_probability_of(log_p: Tensor, wanted: Tensor) -> Tensor:
    """log of the total probability of the wanted levels.

    Args:
        log_p: (B, L).
        wanted: bool (B, L), at least one True per row.

    Returns:
        (B,).
    """
    return log_p.masked_fill(~wanted, float("-inf")).logsumexp(dim=1)


def level_loss(log_p: Tensor, level: Tensor) -> Tensor:
    """Mean negative log-likelihood of the true levels."""
    return nn.functional.nll_loss(log_p, level)
