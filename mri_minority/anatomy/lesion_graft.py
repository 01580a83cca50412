"""Put a real lesion's shape at the same place of another head."""

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import distance_transform_edt, map_coordinates

from mri_minority.anatomy.alike import box_of
from mri_minority.anatomy.edit import CannotReach, Edited, LabelMap, Mask
from mri_minority.anatomy.lesion import depth, put, touches


@dataclass(frozen=True)
class LesionGraft:
    """Add a donor's lesions: shapes and places that a painted patch does not have.

    The donor's head is laid over the other one by the boxes around them, axis by axis.

    Args:
        donor: Where the donor's lesions are (H, W).
        donor_room: Inside of the donor's head (H, W).
        pixels: Wanted area: the shape is worn down or grown to it; None: as it comes.
        kind: Its name.
    """

    donor: Mask
    donor_room: Mask
    pixels: int | None = None
    kind: str = "graft"

    def apply(self, label: LabelMap, value: int, room: Mask, rng: np.random.Generator) -> Edited:
        """Lay the shape over the map; `reached` is its area in pixels.

        Raises:
            CannotReach: It would leave the head, touch a lesion that is there, or nothing of it would be left.
        """
        grid = np.meshgrid(*[np.arange(n, dtype=np.float64) for n in label.shape], indexing="ij")
        pairs = zip(grid, box_of(room), box_of(self.donor_room), strict=True)
        at = [
            (x - low) * (donor_high - donor_low) / (high - low) + donor_low
            for x, (low, high), (donor_low, donor_high) in pairs
        ]
        signed = distance_transform_edt(~self.donor) - distance_transform_edt(self.donor)
        laid = map_coordinates(signed, at, order=1, mode="nearest")
        wanted = int((laid < 0).sum()) if self.pixels is None else self.pixels
        inside = np.where(depth(room) > 1, laid, np.inf).ravel()
        chosen = np.argsort(inside, kind="stable")[:wanted]
        patch = np.isin(np.arange(label.size), chosen).reshape(label.shape)
        if wanted < 1 or not np.isfinite(inside[chosen]).all() or touches(patch, label == value):
            raise CannotReach(f"a lesion of {wanted} pixels at the donor's place does not fit into this slice")
        return Edited(put(label, value, patch), float(patch.sum()))
