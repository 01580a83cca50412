"""The training loop, as a generator: logging, checkpoints and stopping stay with the caller."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mri_minority.core.errors import DataError
from mri_minority.training.ema import Ema

_PATIENCE = 20


@dataclass(frozen=True)
class Budget:
    """When training ends: after so many steps or so much time, whichever comes first.

    Args:
        steps: Most optimiser steps.
        seconds: Most seconds, counted over all the runs that a resumed training consists of.
    """

    steps: int
    seconds: float

    def share(self, step: int, seconds: float) -> float:
        """How much of the budget is used, 0 to 1."""
        return min(1.0, max(step / self.steps, seconds / self.seconds))


@dataclass(frozen=True)
class Progress:
    """Where training stands after a step.

    Args:
        step: Optimiser steps done.
        seconds: Seconds spent, over all runs.
        loss: Loss of this step's batch.
        share: How much of the budget is used, 0 to 1.
    """

    step: int
    seconds: float
    loss: float
    share: float


def learning_rate_factor(share: float, step: int, warmup: int = 200) -> float:
    """Linear warm-up, constant for the first half of the budget, then linear to zero."""
    return min(1.0, (step + 1) / warmup) * min(1.0, 2 * (1 - share))


def optimise(
    module: nn.Module,
    loss_of: Callable[[int], Tensor],
    optimiser: torch.optim.Optimizer,
    ema: Ema,
    budget: Budget,
    done: Progress,
) -> Iterator[Progress]:
    """Train until the budget is used up, yielding after every step.

    All randomness of step n comes from generators named after n (in `loss_of`), so a resumed run draws what an
    uninterrupted one would have.

    Args:
        module: Being trained; in training mode.
        loss_of: Step number -> scalar loss.
        optimiser: Its learning rates are scaled by :func:`learning_rate_factor`.
        ema: Updated after every step.
        budget: When to stop.
        done: Where to go on from; step 0 for a new run.

    Raises:
        DataError: The loss was not finite 20 times in a row.
    """
    base = [group["initial_lr"] for group in optimiser.param_groups]
    step, before, begun, failures = done.step, done.seconds, time.monotonic(), 0
    while budget.share(step, before + time.monotonic() - begun) < 1:
        factor = learning_rate_factor(budget.share(step, before + time.monotonic() - begun), step)
        for group, rate in zip(optimiser.param_groups, base, strict=True):
            group["lr"] = rate * factor
        loss = loss_of(step)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        step += 1
        if torch.isfinite(norm) and torch.isfinite(loss):
            failures = 0
            optimiser.step()
            ema.update(module, step)
        else:
            failures += 1
            if failures >= _PATIENCE:
                raise DataError(f"expected a finite loss, found none in {failures} steps up to step {step}")
        seconds = before + time.monotonic() - begun
        yield Progress(step, seconds, float(loss.detach()), budget.share(step, seconds))


def adamw(module: nn.Module, learning_rate: float, weight_decay: float) -> torch.optim.AdamW:
    """AdamW, fused, remembering its base learning rate for the schedule."""
    optimiser = torch.optim.AdamW(module.parameters(), lr=learning_rate, weight_decay=weight_decay, fused=True)
    for group in optimiser.param_groups:
        group["initial_lr"] = learning_rate
    return optimiser
