"""Where a lesion map lies in a head that it does not show: against the model's mean slices, or within its own stack."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from skimage.filters import threshold_otsu

from mri_minority.anatomy.edit import room_of
from mri_minority.core.errors import DataError
from mri_minority.slices.strata import Strata
from mri_minority.transforms.spatial import AXES
from mri_minority_pipelines.given import Given

AFFINE_CURE = "give it the affine of the scan it was drawn on, laid out in the world as the model's scans are"

THICK_MM = 3.0
"""Slices from this thickness on are a stack that was laid about a head: nearly all of its planes show the head."""

_STACK = 0.5
"""Share of a mean head's length that such a stack has at least; a shorter one shows a part of a head."""

_INSIDE = 0.5
"""Share of a file's labelled pixels that must lie within the mean heads."""


@dataclass(frozen=True)
class MeanHead:
    """Where a model's slices lie on average.

    Args:
        planes: float64 (T, 4, 4), one slice's affine for every stratum of the first kind, the lowest first.
        strata: All of the model's.
        heights: Lowest and highest normalised height of its slices.
        size: Of its slices (H, W).
        axis: Of the world, along which they follow each other.
    """

    planes: npt.NDArray[np.float64]
    strata: Strata
    heights: tuple[float, float]
    size: tuple[int, int]
    axis: int

    @classmethod
    def of(cls, card: dict[str, Any]) -> "MeanHead":
        """Read a model's card."""
        settings, strata = card["recipe"]["prepare"], Strata.from_json(card["strata"])
        low, high = settings["heights"]
        planes = np.array(card["planes"])[: len(strata.edges[0])]
        size = (int(settings["size"][0]), int(settings["size"][1]))
        return cls(planes, strata, (float(low), float(high)), size, AXES[settings["plane"]])

    @property
    def length_mm(self) -> float | None:
        """From the lowest to the highest point of the head; None where a single stratum does not tell."""
        at, middle = self.planes[:, self.axis, 3], self.strata.middles(self.heights[0])[: len(self.planes)]
        return None if len(at) == 1 else float((at[-1] - at[0]) / (middle[-1] - middle[0]))

    def nearest(self, affine: npt.NDArray[np.float64]) -> tuple[int, float]:
        """The stratum whose mean slice is nearest to a plane, and how far away it is in millimetres."""
        away_mm = [abs(float(self._middle_in(affine, t)[2])) * np.linalg.norm(affine[:3, 2]) for t in self._each()]
        return int(np.argmin(away_mm)), float(np.min(away_mm))

    def reach_mm(self) -> float:
        """How far from the nearest mean slice a plane may lie: heads are not all laid alike."""
        gaps = np.abs(np.diff(self.planes[:, self.axis, 3]))
        return float(gaps.max()) if len(gaps) else np.inf

    def centre_in(self, affine: npt.NDArray[np.float64], stratum: int) -> tuple[int, int]:
        """Pixel of a plane that lies at the middle of a mean slice's field."""
        row, column = self._middle_in(affine, stratum)[:2].round().astype(int)
        return int(row), int(column)

    def by_stack(self, index: int, planes: int) -> int | None:
        """Stratum of a plane by its place among all of a whole head's stack; None above or below the model's slices."""
        height = (index + 0.5) / planes
        if not self.heights[0] <= height <= self.heights[1]:
            return None
        return int(self.strata.of(np.array([height]))[0])

    def is_stack(self, planes: int, thickness_mm: float) -> bool:
        """Whether so many planes are a stack about a whole head.

        Training measured heights from the first plane that shows the head to the last, which for such a stack are
        nearly its own. Where its head lay in the scanner says less, and its affine may be made up.
        """
        length_mm = self.length_mm
        long_enough = length_mm is None or planes * thickness_mm >= _STACK * abs(length_mm)
        return planes > 1 and thickness_mm >= THICK_MM and long_enough

    def _each(self) -> range:
        return range(len(self.planes))

    def _middle_in(self, affine: npt.NDArray[np.float64], stratum: int) -> npt.NDArray[np.float64]:
        """The middle of a mean slice's field, in a plane's own coordinates (3,)."""
        row, column = (n // 2 for n in self.size)
        return np.asarray((np.linalg.inv(affine) @ self.planes[stratum] @ np.array([row, column, 0.0, 1.0]))[:3])


def check_inside(given: list[Given], means: npt.NDArray[np.float32], name: str) -> None:
    """Refuse a file whose labelled pixels lie mostly outside the model's heads: it was laid out some other way.

    Args:
        given: Its slices, on the model's grid.
        means: Mean channels of every stratum (T, C, H, W), the image first.
        name: Of the file.

    Raises:
        DataError: Most lie outside.
    """
    inside = total = 0
    for one in given:
        image = means[one.stratum, 0]
        head = room_of((image > threshold_otsu(image)).astype(np.uint8))
        inside, total = inside + int((head & (one.label > 0)).sum()), total + int((one.label > 0).sum())
    if inside < _INSIDE * total:
        raise DataError(
            f"expected labelled pixels inside the heads that the model knows in {name}, {1 - inside / total:.0%} lie "
            f"outside; {AFFINE_CURE}"
        )
