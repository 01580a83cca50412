"""Grow one side of a paired structure."""

from dataclasses import dataclass, replace

import numpy as np

from mri_minority.anatomy.edit import Edited, LabelMap, Mask, present
from mri_minority.anatomy.flow import Field, Goal, deform
from mri_minority.anatomy.kinds import DEFORMED, FACTOR, Kind


@dataclass(frozen=True)
class Asymmetry:
    """Grow the part of a structure on one side of the labelled area's mid-line.

    Args:
        factor: Wanted area of that side over its area now, 1 or more.
        side: "right" or "left"; None lets the generator choose.
        kind: Its name.
    """

    factor: float
    side: str | None = None
    kind: str = "asymmetry"

    def apply(self, label: LabelMap, value: int, room: Mask, rng: np.random.Generator) -> Edited:
        """Deform until that side is factor times as large; `reached` is the factor."""
        present(label, value)
        side = self.side or ("right", "left")[int(rng.integers(2))]
        columns = np.flatnonzero((label > 0).any(axis=1))
        off = np.arange(label.shape[0]) - (columns[0] + columns[-1]) / 2
        off = off if side == "right" else -off
        half = (off > 0)[:, None]
        area = float(present(np.where(half, label, 0).astype(np.uint8), value).sum())
        weight = (1 / (1 + np.exp(-off)))[:, None]

        def one_side(mask: Mask, out: Field) -> Field:
            return np.asarray(out * weight, dtype=np.float64)

        goal = Goal(
            lambda mask: float((mask & half).sum()),
            self.factor * area,
            max(1.0, 0.02 * self.factor * area),
            f"the {side} side of class {value} of {self.factor:.3g} times its {area:.0f} pixels",
        )
        done = deform(label, value, room, one_side, goal)
        return replace(done, reached=done.reached / area)


KINDS = {"asymmetry": Kind(FACTOR, lambda amount: Asymmetry(amount), DEFORMED, (1.0, float("inf")))}
