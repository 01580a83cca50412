"""Where given label maps come from: real slices or drawn ones, and what is done to them."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
from scipy.ndimage import binary_dilation
from skimage.filters import threshold_otsu

from mri_minority.anatomy.edit import CannotReach, Edit, Edited, room_of
from mri_minority.anatomy.flow import carried_along
from mri_minority.core.errors import DataError, UsageError
from mri_minority.core.rng import generator_for
from mri_minority.slices.store import SliceStore
from mri_minority.slices.strata import Strata
from mri_minority_pipelines.edits import EditRequest, described
from mri_minority_pipelines.given import MARGIN, Given
from mri_minority_pipelines.model_folder import channel_names

_TRIES = 25


@dataclass(frozen=True)
class Base:
    """A slice whose label map is to be edited.

    Args:
        image: float32 (I, H, W) in [-1, 1].
        label: uint8 (H, W).
        stratum: The model's.
        trace: Where it comes from.
        affine: float64 (4, 4), pixel (i, j, 0) -> RAS+ millimetres.
        white: Intensity that stands for +1 in each image channel; None: the model's.
        subject: Key of whose slice it is, which is written nowhere; empty for a drawn one.
    """

    image: npt.NDArray[np.float32]
    label: npt.NDArray[np.uint8]
    stratum: int
    trace: dict[str, Any]
    affine: npt.NDArray[np.float64]
    white: tuple[float, ...] | None = None
    subject: str = ""

    @property
    def pixel_mm(self) -> tuple[float, float]:
        """Sides of a pixel."""
        sides = np.linalg.norm(self.affine[:3, :2], axis=0)
        return float(sides[0]), float(sides[1])


class Change(Protocol):
    """What is done to a slice's label map."""

    @property
    def text(self) -> str:
        """As it was asked for."""
        ...

    def __call__(self, base: Base, value: int, rng: np.random.Generator) -> tuple[Edit, dict[str, Any]]:
        """The edit of one slice, and what the trace says of its source besides the edit's own parameters."""
        ...


@dataclass(frozen=True)
class Requested:
    """A change that `--edit` describes.

    Args:
        request: What to do.
        card: The model's card.
    """

    request: EditRequest
    card: dict[str, Any]

    @property
    def text(self) -> str:
        """As it was typed."""
        return f"--edit {self.request.text}"

    def __call__(self, base: Base, value: int, rng: np.random.Generator) -> tuple[Edit, dict[str, Any]]:
        """See :class:`Change`."""
        return self.request.edit(base.label, value, base.stratum, self.card, base.pixel_mm, rng), {}


def check_fit(store: SliceStore, card: dict[str, Any], cure: str = "prepare them with the model's recipe") -> None:
    """Refuse a store whose slices the model could not have learnt from.

    Args:
        store: The slices.
        card: The model's card.
        cure: What to do about another size, spacing or the like.

    Raises:
        DataError: How slices are cut, their channels or their classes differ.
    """
    theirs, ours = store.header["settings"], card["recipe"]["prepare"]
    for key in ("size", "spacing_mm", "plane", "ceiling", "foreground"):
        usual = "labels" if key == "foreground" else None  # older cards and stores know no other
        if theirs.get(key, usual) != ours.get(key, usual):
            raise DataError(
                f"expected slices cut as the model's ({key} {ours.get(key, usual)}), found {theirs.get(key, usual)} in "
                f"{store.folder}; {cure}"
            )
    check_channels(store, card)
    if list(store.label_names) != list(card["label_names"]):
        raise DataError(
            f"expected the classes {', '.join(card['label_names'])} in {store.folder}, found "
            f"{', '.join(store.label_names) or 'none'}; give a store prepared with the model's recipe"
        )


def check_channels(store: SliceStore, card: dict[str, Any]) -> None:
    """Refuse a store with other image channels than the model's.

    Raises:
        DataError: Their number or their names differ; a name that nobody gave fits any.
    """
    ours = channel_names(card)
    pairs = zip(store.channel_names, ours, strict=False)
    if store.channels != len(ours) or any(a and b and a != b for a, b in pairs):
        said = " + ".join(name or "unnamed" for name in ours)
        found = " + ".join(name or "unnamed" for name in store.channel_names)
        raise DataError(f"expected slices of {said}, as the model's, found {found} in {store.folder}; prepare those")


class NoneQualifies(DataError):
    """A store holds no slice of the kind that is looked for."""


class StoreBases:
    """Real slices of a store, in a random order that the seed fixes.

    Held-out people stay out: who is tested on must not be learnt from, not even changed a little.

    Args:
        store: The slices.
        card: The model's card.
        allowed: Strata they may come from.
        fits: Which label maps (H, W) qualify.
        whose: "training map" if only its label map is used, else "person": then affine and intensities are its own.
        why: Words for an error: what was looked for.
        split: Only slices of this one.
    """

    def __init__(
        self,
        store: SliceStore,
        card: dict[str, Any],
        allowed: list[int],
        fits: Callable[[npt.NDArray[np.uint8]], bool],
        whose: str,
        why: str,
        split: str = "train",
    ) -> None:
        """Look through the label maps; see the class.

        Raises:
            DataError: The store's slices are not the model's kind.
            NoneQualifies: None qualifies.
        """
        check_fit(store, card)
        self.stratum = Strata.from_json(card["strata"]).of(store.heights(), store.kinds())
        self.store, self.card, self.whose = store, card, whose
        rows = np.array(
            [i for i, r in enumerate(store.rows) if r.split == split and self.stratum[i] in allowed],
            dtype=np.int64,
        )
        kept: list[int] = []
        for part in np.array_split(rows, max(1, len(rows) // 512)):
            kept += [int(i) for i, label in zip(part, store.read(part)[1], strict=True) if fits(label)]
        if not kept:
            raise NoneQualifies(
                f"expected {why} in {store.folder}, found none; choose another store or other --heights"
            )
        self.rows = np.array(kept)

    def __call__(self, item: int, attempt: int, seed: int) -> Base:
        """The slice for an item's attempt."""
        rng = rng_for(seed, "base", item, attempt)
        return self.at(int(self.rows[rng.integers(len(self.rows))]))

    def at(self, at: int) -> Base:
        """The slice in a row of the store."""
        row = self.store.rows[at]
        image, label = self.store.read(np.array([at]))
        trace = {"label_from": self.whose, "source_series_sha256": row.sha256, "source_index": row.index}
        t = int(self.stratum[at])
        if self.whose != "person":
            return Base(image[0], label[0], t, trace, np.array(self.card["planes"][t]))
        white = tuple(float(self.store.header["settings"]["ceiling"]) * scale for scale in row.scale)
        return Base(image[0], label[0], t, trace, np.array(row.affine).reshape(4, 4), white, row.subject)


def rng_for(seed: int, *path: int | str) -> np.random.Generator:
    """numpy's generator of one item, named as in `core.rng`."""
    return np.random.default_rng(generator_for(seed, *path).initial_seed())


Keep = Literal["nothing", "outside", "carried"]
"""What becomes of a slice's image when its map is edited: all is drawn anew; it stays, but for where the map changes
and :data:`MARGIN` about it; or it is deformed as the map is, to start from."""


def edited(
    change: Change,
    structure: str,
    base_of: Callable[[int, int, int], Base],
    count: int,
    seed: int,
    card: dict[str, Any],
    keep: Keep = "nothing",
) -> Iterator[Given]:
    """Edited label maps; a map that has no room for its edit is passed over for another one.

    Args:
        change: What to do with a slice.
        structure: The class that is edited.
        base_of: (item, attempt, seed) -> a slice.
        count: How many.
        seed: Of the run.
        card: The model's card.
        keep: Of the slice's image.

    Raises:
        DataError: An item found no map with room in 25 tries.
        UsageError: The image is to be carried along with an edit that is no deformation.
    """
    value = list(card["label_names"]).index(structure) + 1
    for item in range(count):
        refused: DataError | None = None
        for attempt in range(_TRIES):
            base = base_of(item, attempt, seed)
            try:
                yield _one(change, structure, base, value, rng_for(seed, "edit", item, attempt), card, keep)
                break
            except (CannotReach, DataError) as error:
                refused = error
        else:
            raise DataError(f"no label map in {_TRIES} has room for {change.text}; the last one: {refused}")


def _one(
    change: Change,
    structure: str,
    base: Base,
    value: int,
    rng: np.random.Generator,
    card: dict[str, Any],
    keep: Keep,
) -> Given:
    edit, source = change(base, value, rng)
    done: Edited = edit.apply(base.label, value, room_for(base, card), rng)
    trace = {
        **base.trace,
        "edit": change.text,
        "structure": structure,
        **described(edit),
        **source,
        "reached": round(done.reached, 4),
        "jacobian_min": round(done.jacobian_min, 4),
    }
    if keep == "nothing":
        return Given(done.label, base.stratum, base.affine, trace)
    if keep == "carried":
        if done.deformation is None:
            raise UsageError(f"expected an edit that deforms with --from, found {change.text}; leave out --from")
        image = carried_along(base.image, done.deformation)
        return Given(done.label, base.stratum, base.affine, trace, image, white=base.white)
    region = np.asarray(binary_dilation(done.label != base.label, iterations=MARGIN), dtype=bool)
    return Given(
        done.label, base.stratum, base.affine, {**trace, "derived": True}, base.image, region, white=base.white
    )


def room_for(base: Base, card: dict[str, Any]) -> npt.NDArray[np.bool_]:
    """The head's inside: the labelled area, or where labels do not cover it what is bright."""
    if card["recipe"]["prepare"].get("foreground", "labels") == "labels":
        return room_of(base.label)
    bright = base.image[0] > threshold_otsu(base.image[0])
    return room_of(bright.astype(np.uint8))
