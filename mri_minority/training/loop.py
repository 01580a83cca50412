"""The training loop on Lightning Fabric, as a generator: what is logged and where results go stays with the caller."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from mri_minority.core.errors import DataError
from mri_minority.training.checkpoint import load_run, save_run
from mri_minority.training.ema import Ema
from mri_minority.training.stopping import stop_requests

_PATIENCE = 20

LossOf = Callable[[nn.Module, int, slice], Tensor]
"""(network, step, rows of the step's batch) -> the rows' loss, summed, over the size of the whole batch."""


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


@dataclass(frozen=True)
class Plan:
    """How one network is trained.

    Args:
        budget: When to stop.
        batch: Slices per optimiser step, over all processes.
        micro_batch: Most slices that one process takes at once; the rest of its share follows (gradient accumulation).
        learning_rate: Before :func:`learning_rate_factor`.
        weight_decay: Of AdamW.
        ema: Longest memory of the averaged weights.
        checkpoint: File that holds the run in progress.
        checkpoint_seconds: Time between two checkpoints.
        settings: What a resumed run must have in common with the one that began it.
    """

    budget: Budget
    batch: int
    micro_batch: int
    learning_rate: float
    weight_decay: float
    ema: float
    checkpoint: Path
    checkpoint_seconds: float
    settings: dict[str, Any]


def learning_rate_factor(share: float, step: int, warmup: int = 200) -> float:
    """Linear warm-up, constant for the first half of the budget, then linear to zero."""
    return min(1.0, (step + 1) / warmup) * min(1.0, 2 * (1 - share))


def rows_of(plan: Plan, rank: int, processes: int) -> list[slice]:
    """Which rows of every batch a process takes, piece by piece; equally many for every process.

    Raises:
        DataError: The batch cannot be shared equally.
    """
    if plan.batch % processes:
        raise DataError(f"expected a batch that {processes} processes can share equally, got {plan.batch} slices")
    share = plan.batch // processes
    size = min(plan.micro_batch, share)
    if share % size:
        raise DataError(f"expected a micro_batch that divides {share} slices per process, got {size}")
    return [slice(first, first + size) for first in range(rank * share, (rank + 1) * share, size)]


def train(
    fabric: Fabric, module: nn.Module, loss_of: LossOf, plan: Plan, quick: nn.Module | None = None
) -> Iterator[tuple[Progress, Ema]]:
    """Train until the budget is used up, yielding after every step; goes on from the plan's checkpoint.

    All randomness of step n is named after n (in `loss_of`) and the checkpoint holds everything else, so a run that
    was cut short anywhere and repeated gives the same weights bit for bit (with a budget of steps, on the same
    machine). SIGTERM, SIGUSR1 and Ctrl-C end the run after a checkpoint, as KeyboardInterrupt.

    Args:
        fabric: Device, precision and processes.
        module: The network, in training mode.
        loss_of: See :data:`LossOf`; a step's gradient is the sum over all rows, whoever computes them.
        plan: The rest.
        quick: Called in place of the network, whose weights it shares (the compiled network).

    Yields:
        Where training stands, and the averaged weights.

    Raises:
        DataError: The loss was not finite 20 times in a row, the checkpoint belongs to other settings, or the batch
            cannot be shared equally among the processes.
        KeyboardInterrupt: A signal asked for the end; the checkpoint is written.
    """
    rows = rows_of(plan, fabric.global_rank, fabric.world_size)
    module.to(fabric.device)
    ema, optimiser = Ema(module, plan.ema), _adamw(module, plan)
    step, before = _resume(plan, module, ema, optimiser)
    network, driver = fabric.setup(module if quick is None else quick, optimiser)
    begun, saved, failures = time.monotonic(), before, 0

    def seconds() -> float:
        return before + time.monotonic() - begun

    def save() -> None:
        if fabric.is_global_zero:
            notes = {"step": step, "seconds": seconds(), "settings": plan.settings}
            save_run(plan.checkpoint, module, ema, optimiser, notes)

    with stop_requests() as stop:
        while True:
            share, stopping = _agreed(fabric, plan.budget.share(step, seconds()), stop())
            if stopping:
                save()
                raise KeyboardInterrupt
            if share >= 1:
                return
            for group in optimiser.param_groups:
                group["lr"] = plan.learning_rate * learning_rate_factor(share, step)
            driver.zero_grad(set_to_none=True)
            loss = _accumulate(fabric, network, loss_of, step, rows)
            norm = torch.as_tensor(fabric.clip_gradients(network, driver, max_norm=1.0, error_if_nonfinite=False))
            step += 1
            if bool(torch.isfinite(norm)) and bool(torch.isfinite(loss)):
                failures = 0
                driver.step()
                ema.update(module, step)
            else:
                failures += 1
                if failures >= _PATIENCE:
                    raise DataError(f"expected a finite loss, found none in {failures} steps up to step {step}")
            yield Progress(step, seconds(), float(loss), plan.budget.share(step, seconds())), ema
            # After the caller has logged the step: killed in between, it is done and logged again, and never missing.
            if seconds() - saved >= plan.checkpoint_seconds:
                saved = seconds()
                save()


def _accumulate(fabric: Fabric, network: nn.Module, loss_of: LossOf, step: int, rows: list[slice]) -> Tensor:
    """Gradient of one step; return the loss of the whole batch."""
    total = torch.zeros((), device=fabric.device)
    for number, piece in enumerate(rows):
        with fabric.no_backward_sync(network, enabled=number < len(rows) - 1):  # type: ignore[arg-type]
            # Processes average their gradients; what is wanted is their sum.
            loss = loss_of(network, step, piece)
            fabric.backward(loss * fabric.world_size)
        total += loss.detach()
    return fabric.all_reduce(total, reduce_op="sum") if fabric.world_size > 1 else total  # type: ignore[return-value]


def _agreed(fabric: Fabric, share: float, stop: bool) -> tuple[float, bool]:
    """The same answer in all processes: clocks differ, and a signal may reach only one of them."""
    if fabric.world_size == 1:
        return share, stop
    both = torch.tensor([share, float(stop)], dtype=torch.float64, device=fabric.device)
    largest = fabric.all_reduce(both, reduce_op="max")
    return float(largest[0]), bool(largest[1])


def _resume(plan: Plan, module: nn.Module, ema: Ema, optimiser: torch.optim.Optimizer) -> tuple[int, float]:
    """Steps and seconds done, with everything put back in place."""
    if not plan.checkpoint.is_file():
        return 0, 0.0
    notes = load_run(plan.checkpoint, module, ema, optimiser)
    if notes["settings"] != plan.settings:
        raise DataError(
            f"{plan.checkpoint} was begun with other settings; finish it with those, or choose another --out"
        )
    return notes["step"], notes["seconds"]


def _adamw(module: nn.Module, plan: Plan) -> torch.optim.AdamW:
    return torch.optim.AdamW(module.parameters(), lr=plan.learning_rate, weight_decay=plan.weight_decay, fused=True)
