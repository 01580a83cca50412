"""What `--insert` puts into real slices: shapes at places that real ones have; a painted patch where there are none."""

from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mri_minority.anatomy.alike import Look, least_alike, look
from mri_minority.anatomy.edit import CannotReach, Edit
from mri_minority.anatomy.lesion_add import LesionAdd
from mri_minority.anatomy.lesion_graft import LesionGraft
from mri_minority.core.errors import UsageError
from mri_minority.slices.store import SliceStore
from mri_minority_pipelines.given_sources import Base, NoneQualifies, StoreBases, room_for

LEAST_MM2 = 20.0

_UNALIKE = 0.25
"""Share of donors that are less like their nearest donor than a slice must be to be lent a shape.

Scans reach differently far down: at the same height one shows temporal lobes, another one the base of the skull, where
a shape laid over it by the heads' boxes ends in bone and muscle (docs/decisions/0014-whose-shape-fits.md)."""

_MOST_DONORS = 2000


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
class Donors:
    """Real slices that show a structure.

    Args:
        bases: The slices.
        rows: Their positions in the store (D,), at most 2,000.
        looks: What each looks like (D, 24 x 24).
        least: How alike a slice must be to one of them.
    """

    bases: StoreBases
    rows: npt.NDArray[np.int64]
    looks: Look
    least: float

    def of_others(self, base: Base) -> npt.NDArray[np.bool_]:
        """Which are of somebody else, at a slice's height (D,)."""
        theirs = np.array([self.bases.store.rows[at].subject != base.subject for at in self.rows])
        return np.asarray(theirs & (self.bases.stratum[self.rows] == base.stratum), dtype=bool)

    def alike(self, seen: Look) -> npt.NDArray[np.bool_]:
        """Which look like a slice (D,)."""
        return np.asarray(self.looks @ seen >= self.least, dtype=bool)


@dataclass(frozen=True)
class Inserted:
    """The change that inserts.

    Args:
        asked: What to insert.
        donors: Real slices that show the structure; None: paint a patch.
        card: The model's card.
    """

    asked: Insertion
    donors: Donors | None
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
        """A slice of somebody else that shows the same part of the head."""
        assert self.donors is not None
        donors = self.donors
        fits = donors.of_others(base)
        here = f"{self.asked.structure} at {self.card['strata']['names'][base.stratum]}"
        if not fits.any():
            raise CannotReach(f"nobody else shows {here}")
        fits &= donors.alike(look(base.image[0], room_for(base, self.card)))
        if not fits.any():
            raise CannotReach(f"no slice of others that shows {here} looks like this one")
        return donors.bases.at(int(rng.choice(donors.rows[fits])))

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


def donors_in(store: SliceStore, card: dict[str, Any], structure: str, needed: bool) -> Donors | None:
    """Training slices that show the structure; None where there are none and none are needed.

    Raises:
        NoneQualifies: There are none, and they are needed.
    """
    value = list(card["label_names"]).index(structure) + 1
    every = list(range(len(card["strata"]["names"])))
    why = f"training slices that show {structure}"
    try:
        bases = StoreBases(store, card, every, lambda m: bool((m == value).any()), "training map", why)
        rows = _large_enough(bases, value, why)
    except NoneQualifies:
        if needed:
            raise
        return None
    at = np.unique(np.linspace(0, len(rows) - 1, _MOST_DONORS).round().astype(np.int64))
    return _seen(bases, rows[at], card)


def _large_enough(bases: StoreBases, value: int, why: str) -> npt.NDArray[np.int64]:
    """Rows where the structure has :data:`LEAST_MM2` or more; pixels are as large as each slice's affine says.

    Raises:
        NoneQualifies: None has.
    """
    kept: list[int] = []
    for part in np.array_split(bases.rows, max(1, len(bases.rows) // 512)):
        for row, label in zip(part, bases.store.read(part)[1], strict=True):
            affine = np.array(bases.store.rows[row].affine).reshape(4, 4)
            pixel_mm2 = float(np.linalg.norm(np.cross(affine[:3, 0], affine[:3, 1])))
            if (label == value).sum() * pixel_mm2 >= LEAST_MM2:
                kept.append(int(row))
    if not kept:
        raise NoneQualifies(
            f"expected {why} on {LEAST_MM2:g} mm2 or more in {bases.store.folder}, found none; choose another store"
        )
    return np.array(kept, dtype=np.int64)


def _seen(bases: StoreBases, rows: npt.NDArray[np.int64], card: dict[str, Any]) -> Donors:
    """Look at the slices; those without a head lend nothing."""
    looks: dict[int, Look] = {}
    for row in rows:
        base = bases.at(int(row))
        with suppress(CannotReach):
            looks[int(row)] = look(base.image[0], room_for(base, card))
    kept, every = np.array(list(looks), dtype=np.int64), np.array(list(looks.values()), dtype=np.float32)
    whose = np.unique([bases.store.rows[at].subject for at in kept], return_inverse=True)[1].astype(np.int64)
    return Donors(bases, kept, every, least_alike(every, bases.stratum[kept], whose, _UNALIKE))
