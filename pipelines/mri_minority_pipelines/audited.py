"""Drawing under the audit: what is rejected is replaced by the next item numbers, and counted."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mri_minority.core.errors import AuditError
from mri_minority.export.nifti import listed
from mri_minority_pipelines.stages.audit import Auditor

if TYPE_CHECKING:
    from mri_minority_pipelines.stages.synthesize import Draw

NOT_RUN = "not run"
_PATIENCE = 3


def until_enough(
    draw: "Draw",
    do: Callable[["Draw"], None],
    look: Callable[[list[dict[str, Any]]], np.ndarray],
    auditor: Auditor,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], list["Draw"]]:
    """Draw, judge and draw again until as many slices passed as were asked for.

    Args:
        draw: The first round.
        do: Carries a round out.
        look: Rows of the manifest -> images (N, I, H, W) in [-1, 1].
        auditor: The judge.

    Returns:
        Rows that are kept, rows that were rejected, and all rounds.

    Raises:
        AuditError: Three in four slices were rejected: the model repeats what it learnt from.
    """
    wanted = draw.request.count
    kept: list[dict[str, Any]] = []
    rejected: list[dict[str, Any]] = []
    rounds = [draw]
    while True:
        do(rounds[-1])
        rows = rounds[-1].rows()
        for row, verdict in zip(rows, auditor.judge(look(rows)), strict=True):
            (rejected if verdict["verdict"] == "reject" else kept).append({**row, "audit": verdict})
        missing = wanted - len(kept)
        if not missing:
            return kept, rejected, rounds
        if len(rejected) >= _PATIENCE * wanted:
            raise AuditError(
                f"expected slices that are no copies, {len(rejected)} of {len(kept) + len(rejected)} drawn ones are "
                "too close to a training slice; train on more subjects or more briefly (--no-audit draws regardless)"
            )
        request = rounds[-1].request
        rounds.append(replace(draw, request=replace(request, count=request.count + missing), first=request.count))


def found(auditor: Auditor, kept: list[dict[str, Any]], rejected: int, images: np.ndarray) -> dict[str, Any]:
    """What the manifest says of the audit."""
    summary = auditor.summary([row["audit"] for row in kept], images)
    summary["duplicates"] = [[kept[a]["name"], kept[b]["name"]] for a, b in summary["duplicates"]]
    return {**summary, "rejected_and_replaced": rejected}


def sentence(found: dict[str, Any]) -> str:
    """The audit in a sentence, for data card and manifest."""
    alarm = [a for a in found["false_alarm"] if a is not None]
    text = (
        f"{found['rejected_and_replaced']} slices were rejected as too close to a training slice and replaced; "
        f"{found['review']} of {found['slices']} kept ones are worth a look. Calibrated on "
        f"{found['held_out_subjects']} held-out subjects"
    )
    if alarm:
        text += f", of whose real slices at most {max(alarm):.1%} would have been rejected in any rarity bin"
    return text + "."


def remove(folder: Path, rows: list[dict[str, Any]]) -> None:
    """Delete the files of rejected slices."""
    for row in rows:
        for path in (*listed(row["image"]), *listed(row["label"])):
            (folder / path).unlink(missing_ok=True)
