"""Add a lesion where there is room."""

from dataclasses import dataclass

import numpy as np

from mri_minority.anatomy.edit import CannotReach, Edited, LabelMap, Mask
from mri_minority.anatomy.kinds import AREA, Kind
from mri_minority.anatomy.lesion import blob, depth, put, touches

_TRIES = 20


@dataclass(frozen=True)
class LesionAdd:
    """Add one lesion of an area, apart from those that are there.

    Args:
        pixels: Its area.
        kind: Its name.
    """

    pixels: int
    kind: str = "add"

    def apply(self, label: LabelMap, value: int, room: Mask, rng: np.random.Generator) -> Edited:
        """Paint a smooth irregular patch at a place that the generator chooses; `reached` is its area in pixels."""
        free = depth(room & (label != value))
        places = np.argwhere(free >= (self.pixels / np.pi) ** 0.5 + 1)
        for _ in range(_TRIES if len(places) else 0):
            at = places[rng.integers(len(places))]
            patch = blob(label.shape, (float(at[0]), float(at[1])), self.pixels, rng)
            if bool((free[patch] > 1).all()) and not touches(patch, label == value):
                return Edited(put(label, value, patch), float(patch.sum()))
        raise CannotReach(f"a lesion of {self.pixels} pixels fits nowhere into this slice; ask for a smaller one")


KINDS = {"add": Kind(AREA, lambda amount: LesionAdd(max(1, round(amount))), 0)}
