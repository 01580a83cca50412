"""Following a training run: progress for people, a journal, and a look at the averaged weights now and then."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from lightning_fabric import Fabric
from torch import nn

from mri_minority.core.errors import DataError
from mri_minority.training.ema import Ema
from mri_minority.training.journal import Journal
from mri_minority.training.loop import Budget, Plan, Progress
from mri_minority_pipelines.config import ClassifierConfig, DenoiserConfig, DiscriminatorConfig, frozen
from mri_minority_pipelines.events import Event

_MOST_REPORTS = 10
_SECONDS_PER_REPORT = 180.0

Report = Callable[[Journal, Progress], None]
"""Looks at the network as it stands (averaged weights, evaluation mode) and logs what it sees."""


def plan_of(
    config: DenoiserConfig | ClassifierConfig | DiscriminatorConfig, checkpoint: Path, learns: str | None = None
) -> Plan:
    """The training plan that a configuration asks for; `learns` is a hash of what is learnt, beside the settings."""
    return Plan(
        Budget(config.max_steps, 60 * config.minutes),
        config.batch,
        config.micro_batch,
        config.learning_rate,
        config.weight_decay,
        config.ema,
        checkpoint,
        config.checkpoint_seconds,
        frozen(config) | ({"learns": learns} if learns else {}),
    )


def follow(
    fabric: Fabric,
    net: nn.Module,
    steps: Iterator[tuple[Progress, Ema]],
    folder: Path,
    name: str,
    seconds: float,
    log_steps: int,
    report: Report,
    tell: Callable[[Event], None],
) -> Progress:
    """Walk a training run to its end; leaves the averaged weights in the network, in evaluation mode.

    Args:
        fabric: Only its first process logs and reports.
        net: The network that is trained.
        steps: What :func:`mri_minority.training.loop.train` yields.
        folder: Of the logs.
        name: Of the logs and the progress bar.
        seconds: The budget; short runs are looked at less often.
        log_steps: Steps between two log entries.
        report: Called at equal shares of the budget.
        tell: Receives progress.

    Returns:
        The last step.

    Raises:
        DataError: The budget allowed no step at all.
    """
    reports = int(np.clip(seconds / _SECONDS_PER_REPORT, 1, _MOST_REPORTS))
    journal, reported, smooth, last, ema = None, 0, float("nan"), None, None
    for last, ema in steps:
        if journal is None and fabric.is_global_zero:
            journal = Journal(folder, name, last.step - 1)
            reported = int(last.share * reports)
        smooth = last.loss if np.isnan(smooth) else 0.98 * smooth + 0.02 * last.loss
        if journal is None:
            continue
        if last.step % log_steps == 0:
            journal.numbers(last.step, seconds=round(last.seconds, 1), share=round(last.share, 5), loss=last.loss)
            tell(Event(f"train {name}", last.share, 1.0, {"loss": smooth, "step": last.step}))
        if int(last.share * reports) > reported and last.share < 1:
            reported = int(last.share * reports)
            with ema.in_place_of_weights(net):
                report(journal, last)
    if last is None or ema is None:
        raise DataError(f"the budget of {name} was used up before its first step; give it more time, or start it anew")
    ema.copy_to(net)
    net.eval()
    if journal is not None:
        report(journal, last)
        journal.close()
        tell(Event(f"train {name}", 1.0, 1.0, {"loss": smooth, "step": last.step}))
    return last
