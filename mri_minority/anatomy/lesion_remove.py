"""Remove lesions: their pixels take the nearest other class."""

from dataclasses import dataclass

import numpy as np

from mri_minority.anatomy.edit import Edited, LabelMap, Mask, present
from mri_minority.anatomy.kinds import NOTHING, Kind
from mri_minority.anatomy.lesion import without


@dataclass(frozen=True)
class LesionRemove:
    """Remove every piece of a class.

    Args:
        kind: Its name.
    """

    kind: str = "remove"

    def apply(self, label: LabelMap, value: int, room: Mask, rng: np.random.Generator) -> Edited:
        """Fill with the surroundings; `reached` is how many pixels went."""
        return Edited(without(label, value), float(present(label, value).sum()))


KINDS = {"remove": Kind(NOTHING, lambda amount: LesionRemove(), 1)}
