"""Move lesions without deforming what lies around."""

from dataclasses import dataclass

import numpy as np

from mri_minority.anatomy.edit import CannotReach, Edited, LabelMap, Mask, present
from mri_minority.anatomy.kinds import LENGTH, Kind
from mri_minority.anatomy.lesion import put, without


@dataclass(frozen=True)
class LesionMove:
    """Move every piece of a class alike.

    Args:
        pixels: How far.
        angle: Where to, in degrees from right (0) over anterior (90); None: the first that fits, from a random one on.
        kind: Its name.
    """

    pixels: float
    angle: float | None = None
    kind: str = "move"

    def apply(self, label: LabelMap, value: int, room: Mask, rng: np.random.Generator) -> Edited:
        """Lift the lesions, fill what they leave, put them down; `reached` is how far, in pixels."""
        where = np.argwhere(present(label, value))
        first = float(rng.uniform(0, 360)) if self.angle is None else self.angle
        for angle in first + np.arange(0, 360 if self.angle is None else 1, 30):
            way = np.rint(self.pixels * np.array([np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))])).astype(int)
            there = where + way
            if (there < 0).any() or (there >= label.shape).any() or not room[tuple(there.T)].all():
                continue
            patch = np.zeros(label.shape, dtype=bool)
            patch[tuple(there.T)] = True
            return Edited(put(without(label, value), value, patch), float(np.linalg.norm(way)))
        raise CannotReach(f"lesions moved by {self.pixels:.3g} pixels would leave the head; ask for less")


KINDS = {"move": Kind(LENGTH, lambda amount: LesionMove(amount), 1)}
