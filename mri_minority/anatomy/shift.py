"""Move a structure: a smooth push that fades towards the outline."""

from dataclasses import dataclass

import numpy as np

from mri_minority.anatomy.edit import Edited, LabelMap, Mask, present
from mri_minority.anatomy.flow import Goal, deform
from mri_minority.anatomy.kinds import DEFORMED, LENGTH, Kind


@dataclass(frozen=True)
class Shift:
    """Move a structure's centroid.

    Args:
        pixels: How far.
        angle: Where to, in degrees from right (0) over anterior (90); None lets the generator choose.
        kind: Its name.
    """

    pixels: float
    angle: float | None = None
    kind: str = "shift"

    def apply(self, label: LabelMap, value: int, room: Mask, rng: np.random.Generator) -> Edited:
        """Deform until the centroid has moved; `reached` is how far, in pixels along the direction."""
        mask = present(label, value)
        angle = np.deg2rad(self.angle if self.angle is not None else rng.uniform(0, 360))
        toward = np.array([np.cos(angle), np.sin(angle)])
        start = toward @ np.argwhere(mask).mean(axis=0)
        goal = Goal(
            lambda m: float(toward @ np.argwhere(m).mean(axis=0) - start) if m.any() else 0.0,
            self.pixels,
            0.1,
            f"class {value} moved by {self.pixels:.3g} pixels",
        )
        return deform(label, value, room, lambda m, out: np.broadcast_to(toward[:, None, None], out.shape), goal)


KINDS = {"shift": Kind(LENGTH, lambda amount: Shift(amount), DEFORMED)}
