"""What a study compares: training sets of real subjects, and arms that add something to them."""

import re
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from filelock import FileLock

from mri_minority.core.errors import DataError, UsageError
from mri_minority.evaluate.groups import percentiles_within, rare_subjects
from mri_minority.slices.mixed import Extra
from mri_minority.slices.store import SliceStore
from mri_minority.slices.subset import nested_subjects, write_subset
from mri_minority.volumes.atomic import sha256_of
from mri_minority_pipelines.config import StudyConfig
from mri_minority_pipelines.model_folder import ModelFolder
from mri_minority_pipelines.synthetic import SyntheticSet, read_set

REAL, OVERSAMPLED = "real", "oversampled"
"""Arms that every study has: real slices only, and the rare ones among them shown more often."""

THEN_REAL = " then real"
"""Ends the name of an arm that adds its slices in the first half of the steps only."""


@dataclass(frozen=True)
class TrainingSet:
    """Real subjects that a segmenter may learn from.

    Args:
        name: As it was asked for.
        store: Their slices and all held-out ones.
        index: Positions of their slices in it.
    """

    name: str
    store: SliceStore
    index: npt.NDArray[np.int64]

    @property
    def subjects(self) -> int:
        """How many."""
        return len({self.store.rows[i].subject for i in self.index})


@dataclass(frozen=True)
class Arm:
    """What is added to a training set.

    Args:
        name: `real`, `oversampled`, or what a synthetic set was called.
        of: Name of the training set.
        folder: A synthetic data set, or a slice store; None for the first two.
        checked: Whether the model that drew it is known to have learnt from this training set alone.
        until: Share of the steps, from the first on, in which it is added.
    """

    name: str
    of: str
    folder: Path | None = None
    checked: bool = False
    until: float = 1.0


def training_set(
    text: str, store: SliceStore, rarity: npt.NDArray[np.float64], config: StudyConfig, stores: Path
) -> TrainingSet:
    """Read `all`, a number of subjects, `ordinary`, or `ordinary:NUMBER`.

    Ordinary leaves out the subjects whose slices are rarest on average (`config.rare_subjects` of them). Numbers are
    nested: the 10 are among the 20.

    Args:
        text: What was asked for.
        store: All slices.
        rarity: Of all slices (N,).
        config: Of the study.
        stores: Where stores of fewer subjects are written, each as `stores/NAME`.

    Raises:
        UsageError: It is none of these, or there are not so many subjects.
    """
    match = re.fullmatch(r"all|(ordinary)|(?:(ordinary):)?([1-9]\d*)", text)
    if not match:
        raise UsageError(f"expected a training set all, NUMBER, ordinary or ordinary:NUMBER, found {text!r}")
    if text == "all":
        return TrainingSet(text, store, store.indices("train"))
    train = store.indices("train")
    left_out: frozenset[str] = frozenset()
    if match[1] or match[2]:
        who = [store.rows[i].subject for i in train]
        left_out = rare_subjects(rarity[train], store.strata()[train], who, config.rare_subjects)
    chosen = nested_subjects(store, int(match[3] or 0), config.subset_seed, left_out)
    stores.parent.mkdir(parents=True, exist_ok=True)
    # Several processes may run the same study.
    with FileLock(stores.with_name(f".{stores.name}-{folder_name(text)}.lock")):
        written = write_subset(store, chosen, stores / folder_name(text))
    return TrainingSet(text, written, written.indices("train"))


def folder_name(text: str) -> str:
    """File-name form of a training set's or an arm's name."""
    return re.sub(r"[^A-Za-z0-9_.+-]+", "-", text)


def synthetic_arm(text: str, sets: tuple[str, ...]) -> Arm:
    """Read `FOLDER`, `NAME=FOLDER` or `NAME@SET=FOLDER`; without a name it is the folder's, without a set the only one.

    Raises:
        UsageError: The training set is not among those of the study, or must be said because there are several.
        DataError: There is no such folder.
    """
    match = re.fullmatch(r"(?:([^=@/]+)(?:@([^=/]+))?=)?(.+)", text)
    assert match is not None
    folder, of = Path(match[3]), match[2] or sets[0]
    if of not in sets or (len(sets) > 1 and not match[2]):
        raise UsageError(
            f"expected --synthetic NAME@SET=FOLDER with a training set among {', '.join(sets)}, found {text!r}; a "
            "generator may know only the subjects that the segmenter may learn from"
        )
    if not folder.is_dir():
        raise DataError(f"expected a synthetic data set at {folder}, found none")
    name = match[1] or folder.name
    if name in (REAL, OVERSAMPLED) or name.endswith(THEN_REAL):
        raise UsageError(f"expected another name than {name} for {folder}: it is kept for an arm of the study's own")
    return Arm(name, of, folder)


def then_real(arm: Arm) -> Arm:
    """The same slices as something to begin with: the second half of the steps is on real ones alone."""
    return replace(arm, name=arm.name + THEN_REAL, until=0.5)


def check_model(model: ModelFolder, of: TrainingSet) -> None:
    """Refuse a model that learnt from other subjects than the training set's.

    Raises:
        DataError: It did.
    """
    if not of.store.is_known_as(model.card()["store_sha256"]):
        raise DataError(
            f"expected a model trained on the slices in {of.store.folder}, {model.path} was trained on others: a "
            f"generator that knows more subjects than the segmenter's would be an unfair gain; train one with "
            f"`mri-minority train {of.store.folder}`"
        )


def knows_only(model: ModelFolder) -> bool:
    """Whether a model learnt from its training set alone: whom the one that it began with knew is not known here."""
    return not model.card().get("begun_from")


def extra_of(arm: Arm, of: TrainingSet, rarity: npt.NDArray[np.float64], rare: float, matched: bool) -> Extra | None:
    """The slices an arm adds.

    Args:
        arm: Which.
        of: Its training set.
        rarity: Of the slices of the set's store (N,).
        rare: Share of the training slices, inside strata, that are oversampled.
        matched: Whether they replace real slices of their own stratum only.

    Raises:
        DataError: A synthetic set is damaged, has no labels or does not fit the store; with `matched`, its strata are
            others than the store's, or the training set has no slices in them.
    """
    if arm.name == REAL:
        return None
    if arm.folder is None:
        strata = of.store.strata()[of.index]
        rank = percentiles_within(rarity[of.index], strata)
        highest = np.array([rank[i] == rank[strata == strata[i]].max() for i in range(len(rank))], dtype=bool)
        chosen = (rank > 1 - rare) | (highest & ~np.isin(strata, strata[rank > 1 - rare]))  # of few slices, the rarest
        return Extra(*of.store.read(of.index[chosen]), strata[chosen] if matched else None)
    if (arm.folder / "store.json").is_file():
        other = SliceStore(arm.folder)
        if other.label_names != of.store.label_names:
            raise DataError(f"expected the classes {of.store.label_names} in {arm.folder}, found {other.label_names}")
        index = other.indices("train")
        strangers = {other.rows[i].sha256 for i in index} - {of.store.rows[i].sha256 for i in of.index}
        if strangers:
            raise DataError(
                f"expected slices of the training set {of.name} in {arm.folder}, found {len(strangers)} other series: "
                "more labelled people, or people who are tested on, would be no fair comparison; `--sets` is for those"
            )
        found = Extra(*other.read(index))
        names = [other.strata_names[t] for t in other.strata()[index]]
    else:
        drawn = read_set(arm.folder, of.store, same_strata=False)
        _check_sources(drawn, of, arm.folder)
        if drawn.label is None:
            raise DataError(f"expected label maps in {arm.folder}, found none; a segmenter cannot learn without them")
        found = Extra(drawn.image, drawn.label)
        names = [str(row["trace"]["stratum_name"]) for row in drawn.manifest["slices"]]
    return replace(found, stratum=_strata_of(names, of, arm.folder)) if matched else found


def _strata_of(names: list[str], of: TrainingSet, folder: Path) -> npt.NDArray[np.int64]:
    """Strata of the training set's store by their names."""
    ours = list(of.store.strata_names)
    unknown = sorted(set(names) - set(ours))
    if unknown:
        raise DataError(
            f"expected slices of the strata in {of.store.folder}, found {unknown[0]!r} in {folder}; leave out "
            "--matched, or draw them with a model of this store"
        )
    strata = np.array([ours.index(name) for name in names], dtype=np.int64)
    if not np.isin(strata, of.store.strata()[of.index]).any():
        raise DataError(f"expected slices at heights of the training set {of.name}, found none in {folder}")
    return strata


def _check_sources(drawn: SyntheticSet, of: TrainingSet, folder: Path) -> None:
    """Slices derived from real ones, or whose label maps are real ones, may come from the training set only."""
    known = {of.store.rows[i].sha256 for i in of.index}
    traces = [row.get("trace", {}) for row in drawn.manifest["slices"]]
    said = {trace.get(key) for trace in traces for key in ("source_series_sha256", "shape_series_sha256")}
    other = said - known - {None}
    if other:
        raise DataError(
            f"expected slices made from people of the training set {of.name} alone, found {len(other)} other series in "
            f"{folder}: the segmenter would learn from people that it is tested on, or that its training set lacks"
        )


def fingerprint_of(arm: Arm) -> str:
    """What an arm's slices are known by."""
    if arm.folder is None:
        return ""
    if (arm.folder / "store.json").is_file():
        return SliceStore(arm.folder).sha256
    return sha256_of(arm.folder / "manifest.json")
