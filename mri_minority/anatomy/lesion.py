"""What all lesion edits share: taking lesions out, putting them in, and the shapes they have."""

import numpy as np
import numpy.typing as npt
from scipy.ndimage import binary_dilation, distance_transform_edt, gaussian_filter
from skimage.measure import label as connected

from mri_minority.anatomy.edit import LabelMap, Mask


def without(label: LabelMap, value: int) -> LabelMap:
    """The map without a class: its pixels take the nearest other class, background included; (H, W)."""
    gone = label == value
    if gone.all():
        return np.zeros_like(label)
    nearest = distance_transform_edt(gone, return_distances=False, return_indices=True)
    return np.asarray(label[tuple(nearest)], dtype=np.uint8)


def put(label: LabelMap, value: int, mask: Mask) -> LabelMap:
    """The map with a class painted over a mask; (H, W)."""
    return np.where(mask, np.uint8(value), label)


def each_piece(mask: Mask) -> list[Mask]:
    """Connected pieces (8-connected), one mask each."""
    numbered = connected(mask, connectivity=2)
    return [numbered == n for n in range(1, int(numbered.max(initial=0)) + 1)]


def depth(room: Mask) -> npt.NDArray[np.float64]:
    """Distance from outside the room, in pixels (H, W); 0 outside."""
    return np.asarray(distance_transform_edt(np.pad(room, 1))[1:-1, 1:-1], dtype=np.float64)


def touches(mask: Mask, other: Mask) -> bool:
    """Whether two masks overlap or adjoin, corner to corner too: then they are one piece."""
    return bool((binary_dilation(mask, np.ones((3, 3))) & other).any())


def blob(shape: tuple[int, int], centre: tuple[float, float], area: int, rng: np.random.Generator) -> Mask:
    """A smooth irregular patch of exactly so many pixels in one piece: the lowest of a bowl with gentle bumps.

    Args:
        shape: (H, W).
        centre: Where, in pixels.
        area: Pixels, 1 or more.
        rng: Chooses the bumps.
    """
    radius = (area / np.pi) ** 0.5
    y, x = np.meshgrid(*[np.arange(n, dtype=np.float64) for n in shape], indexing="ij")
    bowl = np.hypot(y - centre[0], x - centre[1])
    bumps = gaussian_filter(rng.standard_normal(shape), max(1.0, radius / 2))
    height = bowl + 0.35 * radius * bumps / max(float(bumps.std()), 1e-9)
    inside = np.zeros(shape, dtype=bool)
    frontier = {(round(centre[0]), round(centre[1]))}
    for _ in range(area):  # grow pixel by pixel, the lowest first, so that it stays in one piece
        here = min(frontier, key=lambda p: (height[p], p))
        frontier.discard(here)
        inside[here] = True
        for step in ((1, 0), (-1, 0), (0, 1), (0, -1)):
            near = (here[0] + step[0], here[1] + step[1])
            if 0 <= near[0] < shape[0] and 0 <= near[1] < shape[1] and not inside[near]:
                frontier.add(near)
    return inside
