"""What `--insert` puts into real slices: shapes at places that real ones have; a painted patch where there are none."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from mri_minority.anatomy.edit import CannotReach, Edit
from mri_minority.anatomy.lesion_add import LesionAdd
from mri_minority.anatomy.lesion_graft import LesionGraft
from mri_minority.core.errors import UsageError
from mri_minority.slices.store import SliceStore
from mri_minority_pipelines.given_sources import Base, NoneQualifies, StoreBases, room_for

LEAST_MM2 = 20.0


@dataclass(frozen=True)
class Insertion:
    """What was asked for.

    Args:
        structure: Name of the class.
        range_mm2: Area to reach, drawn evenly; None: a donor's own, or for a painted patch from 20 mm2 to the largest
            real 95th percentile.
        text: As it was typed.
    """

    structure: str
    range_mm2: tuple[float, float] | None
    text: str


@dataclass(frozen=True)
class Inserted:
    """The change that inserts.

    Args:
        asked: What to insert.
        donors: Real slices that show the structure; None: paint a patch.
        card: The model's card.
    """

    asked: Insertion
    donors: StoreBases | None
    card: dict[str, Any]

    @property
    def text(self) -> str:
        """As it was typed."""
        return f"--insert {self.asked.text}"

    def __call__(self, base: Base, value: int, rng: np.random.Generator) -> tuple[Edit, dict[str, Any]]:
        """The edit of one slice, and where its shape comes from."""
        pixels = None
        if self.asked.range_mm2 is not None:
            pixels = self._pixels(self.asked.range_mm2, base, rng)
        if self.donors is None:
            patch = pixels or self._pixels(self._usual_mm2(), base, rng)
            return LesionAdd(patch), {"shape_from": "painted"}
        donor = self._donor(base, rng)
        edit = LesionGraft(donor.label == value, room_for(donor, self.card), pixels)
        return edit, {
            "shape_from": "person",
            "shape_series_sha256": donor.trace["source_series_sha256"],
            "shape_index": donor.trace["source_index"],
        }

    def _donor(self, base: Base, rng: np.random.Generator) -> Base:
        """A slice of somebody else, of the same stratum."""
        donors = self.donors
        assert donors is not None
        rows = donors.rows[donors.stratum[donors.rows] == base.stratum]
        rows = np.array([at for at in rows if donors.store.rows[at].subject != base.subject], dtype=np.int64)
        if not len(rows):
            raise CannotReach(
                f"nobody else shows {self.asked.structure} at {self.card['strata']['names'][base.stratum]}"
            )
        return donors.at(int(rng.choice(rows)))

    def _pixels(self, range_mm2: tuple[float, float], base: Base, rng: np.random.Generator) -> int:
        return max(1, round(float(rng.uniform(*range_mm2)) / (base.pixel_mm[0] * base.pixel_mm[1])))

    def _usual_mm2(self) -> tuple[float, float]:
        largest = max(row[1] for row in self.card["real_attributes"][f"{self.asked.structure}_area_mm2"])
        return LEAST_MM2, max(largest, 2 * LEAST_MM2)


def parse_insertion(text: str, label_names: tuple[str, ...]) -> Insertion:
    """Read `NAME`, `NAME=AREA` or `NAME=LOW..HIGH` (mm2).

    Raises:
        UsageError: There is no such class, or the range is none.
    """
    name, _, amount = text.partition("=")
    if name not in label_names:
        raise UsageError(f"expected --insert with a class among {', '.join(label_names)}, found {name!r}")
    if not amount:
        return Insertion(name, None, text)
    try:
        ends = [float(end) for end in amount.split("..")]
    except ValueError:
        ends = []
    if not 1 <= len(ends) <= 2 or not all(0 < end < np.inf for end in ends):
        raise UsageError(f"expected an area in mm2 or LOW..HIGH after {name}= in --insert, found {amount!r}")
    return Insertion(name, (min(ends), max(ends)), text)


def donors_in(store: SliceStore, card: dict[str, Any], structure: str, needed: bool) -> StoreBases | None:
    """Training slices that show the structure; None where there are none and none are needed.

    Raises:
        NoneQualifies: There are none, and they are needed.
    """
    value = list(card["label_names"]).index(structure) + 1
    pixel_mm2 = float(np.prod(card["recipe"]["prepare"]["spacing_mm"][:2]))
    every = list(range(len(card["strata"]["names"])))
    why = f"training slices that show {structure}"
    try:
        return StoreBases(
            store, card, every, lambda m: (m == value).sum() * pixel_mm2 >= LEAST_MM2, "training map", why
        )
    except NoneQualifies:
        if needed:
            raise
        return None
