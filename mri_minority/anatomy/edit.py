"""What an edit of a label map is, and what every edit keeps."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
from scipy.ndimage import binary_closing, binary_fill_holes
from skimage.measure import label as connected

from mri_minority.core.errors import DataError

LabelMap = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]


class CannotReach(DataError):
    """The edit is too large for this slice: it would push tissue through the outline or tear it."""


@dataclass(frozen=True)
class Edited:
    """An edited label map.

    Args:
        label: uint8 (H, W).
        reached: What was reached of what was asked for, in the edit's own unit.
        jacobian_min: Smallest Jacobian determinant of the deformation, pixel by pixel; above 0 means that nothing is
            folded or torn. 1 where the edit is no deformation.
        deformation: Where each pixel of the edited map comes from in the given one, float64 (2, H, W) in pixels; an
            image can be carried along with it. None where the edit is no deformation.
    """

    label: LabelMap
    reached: float
    jacobian_min: float = 1.0
    deformation: npt.NDArray[np.float64] | None = None


@runtime_checkable
class Edit(Protocol):
    """Changes a label map; the same arguments give the same map, so that what the trace says can be replayed."""

    @property
    def kind(self) -> str:
        """Its name on the command line."""
        ...

    def apply(self, label: LabelMap, value: int, room: Mask, rng: np.random.Generator) -> Edited:
        """Edit one structure.

        Args:
            label: (H, W), 0 is background; first axis right, second anterior.
            value: The structure's class.
            room: (H, W), where the head's inside is; what lies outside stays as it is.
            rng: For edits that choose a place.

        Raises:
            CannotReach: The slice has no room for it.
            DataError: The structure is not in the map (or already is, where that matters).
        """
        ...


def room_of(label: LabelMap) -> Mask:
    """The inside of the labelled area's outline: furrows up to 3 pixels wide closed, holes filled; bool (H, W)."""
    padded = np.pad(label > 0, 4)
    closed = binary_closing(padded, iterations=2)
    return np.asarray(binary_fill_holes(closed)[4:-4, 4:-4], dtype=bool)


def pieces(mask: Mask) -> int:
    """Connected pieces (8-connected) of a mask."""
    return int(connected(mask, connectivity=2).max(initial=0))


def present(label: LabelMap, value: int) -> Mask:
    """Where the structure is.

    Raises:
        DataError: Nowhere.
    """
    mask: Mask = label == value
    if not mask.any():
        found = [int(v) for v in np.unique(label)]
        raise DataError(f"expected class {value} in the label map, found only {found}; choose maps that show it")
    return mask
