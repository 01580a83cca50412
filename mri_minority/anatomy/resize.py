"""Grow or shrink a structure: its neighbours are pressed or drawn along, the outline stays."""

from dataclasses import dataclass, replace

import numpy as np

from mri_minority.anatomy.edit import Edited, LabelMap, Mask, present
from mri_minority.anatomy.flow import Goal, deform
from mri_minority.anatomy.kinds import DEFORMED, FACTOR, Kind
from mri_minority.core.errors import UsageError


@dataclass(frozen=True)
class Resize:
    """Multiply a structure's area.

    Args:
        factor: Wanted area over its area now, above 0.
        kind: "grow" or "shrink".
    """

    factor: float
    kind: str = "grow"

    def __post_init__(self) -> None:
        """Refuse a factor that does the opposite of its name."""
        fits = self.factor >= 1 if self.kind == "grow" else 0 < self.factor <= 1
        if not fits:
            limit = "1 or more" if self.kind == "grow" else "above 0 and at most 1"
            raise UsageError(f"expected a factor of {limit} to {self.kind}, found {self.factor:g}")

    def apply(self, label: LabelMap, value: int, room: Mask, rng: np.random.Generator) -> Edited:
        """Deform until the area is factor times what it was; `reached` is the factor."""
        area = int(present(label, value).sum())
        sign = 1.0 if self.factor >= 1 else -1.0
        goal = Goal(
            lambda mask: sign * float(mask.sum()),
            sign * self.factor * area,
            max(1.0, 0.02 * self.factor * area),
            f"class {value} of {self.factor:.3g} times its {area} pixels",
        )
        done = deform(label, value, room, lambda mask, out: sign * out, goal)
        return replace(done, reached=abs(done.reached) / area)


KINDS = {
    "grow": Kind(FACTOR, lambda amount: Resize(amount, "grow"), DEFORMED, (1.0, float("inf"))),
    "shrink": Kind(FACTOR, lambda amount: Resize(amount, "shrink"), DEFORMED, (0.0, 1.0)),
}
