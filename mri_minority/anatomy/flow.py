"""The deformation behind growing, shrinking and moving: many small smooth steps, each of which can be undone.

The edited map at pixel y is the given one at psi(y). A step composes psi with y -> y - u(y), where u is smooth, short,
and zero outside the room and within a margin of its outline: so psi stays invertible, the neighbours are carried
along, and the outline does not move.

Reference: Christensen, Rabbitt & Miller 1996, "Deformable templates using large deformation kinematics" (many small
steps make a large invertible deformation).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.ndimage import distance_transform_edt, gaussian_filter, map_coordinates
from skimage.measure import label as connected

from mri_minority.anatomy.edit import CannotReach, Edited, LabelMap, Mask, pieces

MARGIN = 1.5
"""Pixels inside the outline that do not move."""

_STEP = 0.4
_SMOOTH = 1.5
_MOST_STEPS = 300
_GAP = 1.5
_STALLED = 12

Field = npt.NDArray[np.float64]
"""float64 (2, H, W), in pixels."""

Direction = Callable[[Mask, Field], Field]
"""(the structure as it is, unit vectors pointing away from it) -> where pixels want to go, about 1 long at most."""


@dataclass(frozen=True)
class Goal:
    """When a deformation is done.

    Args:
        measure: Of the edited structure (mask) -> a number that rises while the flow goes on.
        target: Where to stop; reached to within half a pixel's worth, or `tolerance`.
        tolerance: Of the number.
        what: Words for an error: "ventricles grown 3 times".
    """

    measure: Callable[[Mask], float]
    target: float
    tolerance: float
    what: str


def deform(label: LabelMap, value: int, room: Mask, direction: Direction, goal: Goal) -> Edited:
    """Deform a label map until a goal is reached.

    Args:
        label: (H, W).
        value: The structure that is watched.
        room: (H, W); only what lies inside it, beyond :data:`MARGIN` pixels of its edge, can move.
        direction: Where the structure wants to go.
        goal: When to stop.

    Returns:
        The edited map; `reached` is the goal's own measure.

    Raises:
        CannotReach: No room is left, or the structure would merge, break or vanish before the goal.
    """
    inside = distance_transform_edt(np.pad(room, 1))[1:-1, 1:-1]
    free = np.clip(inside - MARGIN, 0, None)
    psi = np.stack(np.meshgrid(*[np.arange(n, dtype=np.float64) for n in label.shape], indexing="ij"))
    grid, now = psi.copy(), label
    topology = _topology(label == value)
    best = goal.measure(label == value)
    stalled = 0
    for _ in range(_MOST_STEPS):
        if best >= goal.target - goal.tolerance:
            break
        u = _velocity(now == value, free, direction)
        scale = 1.0
        while True:  # halve the last step until it does not overshoot
            moved = _composed(psi, grid - scale * u)
            then = warped(label, moved, room)
            found = goal.measure(then == value)
            if found <= goal.target + goal.tolerance or scale < 1e-2:
                break
            scale /= 2
        if _topology(then == value) != topology:
            raise CannotReach(f"{goal.what} would merge, break or lose a piece at {abs(best):.4g}; ask for less")
        stalled = stalled + 1 if found <= best + 1e-9 else 0
        if stalled > _STALLED:
            break
        psi, now, best = moved, then, max(best, found)
    if best < goal.target - goal.tolerance:
        raise CannotReach(
            f"{goal.what} would push tissue through the outline: {abs(goal.target):.4g} wanted, {abs(best):.4g} fits; "
            "ask for less"
        )
    smallest = float(jacobian(psi).min())
    if not smallest > 0 or (set(np.unique(label)) - set(np.unique(now))):
        raise CannotReach(f"{goal.what} would fold or lose tissue; ask for less")
    return Edited(now, goal.measure(now == value), smallest, psi)


def outward(mask: Mask) -> Field:
    """Unit vectors that point away from a structure, smoothed; shorter where two directions meet."""
    signed = distance_transform_edt(~mask) - distance_transform_edt(mask)
    return np.stack(np.gradient(gaussian_filter(signed, _SMOOTH)))


def jacobian(psi: Field) -> npt.NDArray[np.float64]:
    """Smallest of the four one-sided Jacobian determinants of a map at every pixel but the last (H - 1, W - 1)."""
    down, right = np.diff(psi, axis=1), np.diff(psi, axis=2)
    corners = [
        d[0] * r[1] - d[1] * r[0]
        for d in (down[:, :, :-1], down[:, :, 1:])
        for r in (right[:, :-1, :], right[:, 1:, :])
    ]
    return np.asarray(np.min(corners, axis=0), dtype=np.float64)


def warped(label: LabelMap, psi: Field, room: Mask) -> LabelMap:
    """The label map at psi: per class linear interpolation, the largest wins; outside the room the given map."""
    values = np.unique(label)
    votes = [map_coordinates((label == v).astype(np.float64), psi, order=1, mode="nearest") for v in values]
    result = values[np.argmax(votes, axis=0)].astype(np.uint8)
    return np.where(room, result, label)


def carried_along(image: npt.NDArray[np.float32], psi: Field) -> npt.NDArray[np.float32]:
    """An image (I, H, W) deformed as its label map was, linearly interpolated.

    Args:
        image: Of the slice whose map was edited.
        psi: `Edited.deformation`.
    """
    planes = [map_coordinates(plane, psi, order=1, mode="nearest") for plane in image]
    return np.stack(planes).astype(np.float32)


def _velocity(mask: Mask, free: npt.NDArray[np.float64], direction: Direction) -> Field:
    """One step's displacement: full at the structure, falling to zero at the outline and in narrow gaps."""
    away = distance_transform_edt(~mask)
    weight = free / np.maximum(free + away, 1e-9) * np.clip(free / 4, 0, 1) * _gaps(mask)
    u = direction(mask, outward(mask)) * weight
    smooth = np.stack([gaussian_filter(part, _SMOOTH) for part in u]) * np.clip(free / 3, 0, 1)
    longest = float(np.linalg.norm(smooth, axis=0).max())
    return np.asarray(smooth * (_STEP / max(longest, _STEP)), dtype=np.float64)


def _gaps(mask: Mask) -> npt.NDArray[np.float64]:
    """1 far from where two pieces of a structure come close, 0 between them."""
    numbered = connected(mask, connectivity=2)
    count = int(numbered.max())
    if count < 2:
        return np.ones(mask.shape)
    distances = np.sort([distance_transform_edt(numbered != n) for n in range(1, count + 1)], axis=0)
    return np.asarray(np.clip((distances[0] + distances[1] - 1 - _GAP) / 3, 0, 1), dtype=np.float64)


def _composed(psi: Field, at: Field) -> Field:
    return np.stack([map_coordinates(part, at, order=1, mode="nearest") for part in psi])


def _topology(mask: Mask) -> tuple[int, int]:
    """Pieces of a structure, and holes in it that are larger than two pixels."""
    around = connected(np.pad(~mask, 1, constant_values=True), connectivity=1)
    sizes = np.bincount(around.ravel())[1:]
    return pieces(mask), int((sizes > 2).sum())
