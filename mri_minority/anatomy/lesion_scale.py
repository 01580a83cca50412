"""Make lesions larger or smaller, each about its own place."""

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import distance_transform_edt

from mri_minority.anatomy.edit import CannotReach, Edited, LabelMap, Mask, pieces, present
from mri_minority.anatomy.kinds import FACTOR, Kind
from mri_minority.anatomy.lesion import depth, put, without


@dataclass(frozen=True)
class LesionScale:
    """Multiply the lesions' area: tissue becomes lesion or lesion tissue, nothing moves.

    Args:
        factor: Wanted area over the area now, above 0.
        kind: Its name.
    """

    factor: float
    kind: str = "scale"

    def apply(self, label: LabelMap, value: int, room: Mask, rng: np.random.Generator) -> Edited:
        """Take the pixels nearest to (or deepest in) the lesions; `reached` is the factor."""
        mask = present(label, value)
        area, wanted = int(mask.sum()), max(1, round(self.factor * int(mask.sum())))
        signed = distance_transform_edt(~mask) - distance_transform_edt(mask)
        # A pixel's own position breaks ties, so that exactly the wanted number is taken.
        rank = signed + 1e-6 * np.arange(mask.size).reshape(mask.shape) / mask.size
        rank = np.where(depth(room) > 1, rank, np.where(mask, rank, np.inf))
        chosen = np.argsort(rank.ravel(), kind="stable")[:wanted]
        if not np.isfinite(rank.ravel()[chosen]).all():
            raise CannotReach(f"lesions of {self.factor:.3g} times their {area} pixels do not fit; ask for less")
        patch = np.isin(np.arange(mask.size), chosen).reshape(mask.shape)
        if pieces(patch) != pieces(mask):
            raise CannotReach(
                f"lesions of {self.factor:.3g} times their {area} pixels would merge or vanish; ask for less change"
            )
        return Edited(put(without(label, value), value, patch), float(patch.sum()) / area)


KINDS = {"scale": Kind(FACTOR, lambda amount: LesionScale(amount), 1)}
