"""prepare: volumes in, slice store out."""

import json
import shutil
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mri_minority import __version__
from mri_minority.core.errors import DataError
from mri_minority.slices.select import CutSlices, SliceSettings, cut_slices
from mri_minority.slices.split import held_out_subjects
from mri_minority.slices.store import FORMAT, SliceStore, StoreWriter
from mri_minority.slices.strata import fit_strata
from mri_minority.volumes.atomic import write_json_atomic
from mri_minority.volumes.channels import chosen
from mri_minority.volumes.discover import Found, discover, write_quarantine
from mri_minority.volumes.file_names import kind_of
from mri_minority.volumes.fingerprint import fingerprint
from mri_minority.volumes.read import read_found
from mri_minority.volumes.same_names import told_apart
from mri_minority.volumes.sites import shared
from mri_minority_pipelines.config import PrepareConfig
from mri_minority_pipelines.events import Event, beside, publish_folder


@dataclass(frozen=True)
class ForModel:
    """How slices are cut for a model that is there already.

    Args:
        config: As its own slices were cut.
        sites: Sites that it knows. They are kept however few people of them there are: it names them already.
    """

    config: PrepareConfig
    sites: frozenset[str]


@dataclass(frozen=True)
class PrepareReport:
    """What came out.

    Args:
        store: Where the store is.
        volumes: Volumes used.
        slices: Slices in the store.
        quarantined: Files refused.
        strata: Slices in each stratum.
    """

    store: Path
    volumes: int
    slices: int
    quarantined: int
    strata: dict[str, int]


@dataclass(frozen=True)
class _Read:
    """What became of one volume: its slices and hash, or why it was refused; neither where the store has it."""

    item: Found
    cut: CutSlices | None = None
    sha256: str = ""
    reason: str | None = None


def run(
    config: PrepareConfig,
    sources: list[Path],
    out: Path,
    tell: Callable[[Event], None],
    workers: int = 1,
    known_sites: frozenset[str] = frozenset(),
) -> PrepareReport:
    """Read, transform and cut every volume; refuse bad ones by name; finish with strata and splits.

    Interrupting is safe: the store is built under a temporary name and the same command goes on with it, as long as it
    finds the same images.

    Args:
        config: How volumes become slices.
        sources: Folders and files.
        out: The store to make.
        tell: Receives progress.
        workers: Volumes read at the same time, and so held in memory. The store is the same for any number.
        known_sites: Sites that are noted even if only one subject has them.

    Raises:
        DataError: Nothing usable was found, names do not say who is who, or `out` is something else: a store of other
            settings or images too.
    """
    finished = _finished(out, config)
    if finished is not None and "sources" not in finished.header:  # an earlier version did not note them
        return _report(finished, tell)
    found = chosen(told_apart(discover(sources)), config.sequence, config.channel)
    sites = shared((item.site, item.subject) for item in found) | known_sites
    images = fingerprint(found, sites)
    if finished is not None:
        if finished.header["sources"] != images:
            raise DataError(
                f"expected the images that {out} was prepared from, found others, or changed ones; choose another "
                f"--out, or remove {out}; to use its slices as they are, give it in place of the images"
            )
        return _report(finished, tell)
    building = beside(out, "building")
    settings = SliceSettings(
        config.spacing_mm, config.size, config.plane, config.heights, config.ceiling, config.labels, config.foreground
    )
    _begin(building, config, images, tell)
    _say_what_is_known(found, tell)
    writer = StoreWriter(building, config.size, config.channels)
    held_out = held_out_subjects((f.subject for f in found), config.holdout, config.seed)
    quarantine = []
    whose = {row.sha256: row.subject for row in writer.rows}
    tell(Event("prepare", 0, len(found), {}))
    for number, read in enumerate(_in_order(found, settings, writer.done(), workers), start=1):
        if read.cut is not None and whose.setdefault(read.sha256, read.item.subject) != read.item.subject:
            # One head under two names could be learnt from and held out.
            quarantine.append(
                (str(read.item.image), f"expected another image than {whose[read.sha256]}'s, it is the same file")
            )
        elif read.cut is not None:
            split = "holdout" if read.item.subject in held_out else "train"
            kind = (read.item.sequence or "", read.item.site if read.item.site in sites else "")
            writer.append(read.cut, read.item.subject, read.item.series, read.sha256, split, kind)
        elif read.reason:
            quarantine.append((str(read.item.image), read.reason))
        tell(Event("prepare", number, len(found), {}))
    write_quarantine(building / "quarantine.tsv", quarantine)
    if not any(row.split == "train" for row in writer.rows):
        reasons = "; ".join(dict.fromkeys(reason for _, reason in quarantine)) or "no training subject was left"
        write_quarantine(out.resolve().with_name(f"{out.resolve().name}.quarantine.tsv"), quarantine)
        raise DataError(f"expected usable volumes, found none among {len(found)}: {reasons[:400]}")
    _finish(writer, config, found, images, len(quarantine))
    (building / "settings.json").unlink()
    publish_folder(building, out)
    return _report(SliceStore(out), tell)


def _finish(writer: StoreWriter, config: PrepareConfig, found: list[Found], images: str, quarantined: int) -> None:
    """Fit the strata to the training slices, and write table and header."""
    train = [row for row in writer.rows if row.split == "train"]
    strata = fit_strata(
        np.array([row.height for row in train]),
        config.heights,
        config.strata,
        config.stratum_min_slices,
        [(row.sequence, row.site) for row in train],
    )
    kinds = [(row.sequence, row.site) for row in writer.rows]
    writer.finish(
        strata.of(np.array([row.height for row in writer.rows]), kinds).tolist(),
        {
            "version": __version__,
            "settings": config.model_dump(mode="json"),
            "sources": images,
            "label_names": list(config.labels),
            "channel_names": _channel_names(config, found),
            "strata": strata.as_json(),
            "volumes": len({row.series for row in writer.rows}),
            "quarantined": quarantined,
        },
    )


def _channel_names(config: PrepareConfig, found: list[Found]) -> list[str]:
    """What every image channel is: as the recipe says, else as the images say if they all say the same, else ""."""
    if isinstance(config.sequence, tuple):
        return [kind_of(word) for word in config.sequence]
    usable = [item.images for item in found if not item.problem]
    said = [{images[n].sequence or "" for images in usable} for n in range(config.channels)]
    names = [kinds.pop() if len(kinds) == 1 else "" for kinds in said]
    return [kind_of(config.sequence)] if config.sequence else names


def _finished(out: Path, config: PrepareConfig) -> SliceStore | None:
    """The store, if it is there already.

    Raises:
        DataError: It was prepared with other settings, or something else is there.
    """
    if (out / "store.json").is_file():
        store = SliceStore(out)
        # Classes are numbered in their order, which maps are not compared by.
        if PrepareConfig.model_validate(store.header["settings"]) != config or store.label_names != (*config.labels,):
            raise DataError(f"{out} was prepared with other settings; choose another folder or remove it")
        return store
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(f"expected an empty or new folder for the store, {out} holds something else")
    return None


def _begin(building: Path, config: PrepareConfig, images: str, tell: Callable[[Event], None]) -> None:
    """Make the working folder; what a run with other settings or images, or an older version, left in it goes.

    Splits and sites depend on all of the images: with a list that has grown, one subject could be on both sides.
    """
    said = building / "settings.json"
    settings = {
        **{"format": FORMAT, **config.model_dump(mode="json")},
        **{"sources": images, "label_names": list(config.labels)},
    }
    if building.exists() and not (said.is_file() and json.loads(said.read_text(encoding="utf-8")) == settings):
        if (building / "rows.jsonl").is_file():
            text = "an interrupted preparation had other images or settings: it is begun anew"
            tell(Event("note", 0, 0, {"text": text}))
        shutil.rmtree(building)
    if not building.exists():
        write_json_atomic(said, settings)


def _in_order(
    found: list[Found], settings: SliceSettings, done: frozenset[tuple[str, str]], workers: int
) -> Iterator[_Read]:
    """Read volumes several at a time, and give them in the order they were found."""
    if workers <= 1:
        yield from (_read(item, settings, done) for item in found)
        return
    with ThreadPoolExecutor(workers) as pool:
        waiting: deque[Future[_Read]] = deque()
        try:
            for item in found:
                if len(waiting) == workers:
                    yield waiting.popleft().result()
                waiting.append(pool.submit(_read, item, settings, done))
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def _read(item: Found, settings: SliceSettings, done: frozenset[tuple[str, str]]) -> _Read:
    """Read and cut one volume, or say why it was refused."""
    if item.problem:
        return _Read(item, reason=item.problem)
    if settings.labels and item.label is None:
        return _Read(item, reason="expected a label map beside it, found none")
    try:
        volumes = read_found(item)
        cut = None if (item.series, volumes[0].sha256) in done else cut_slices(volumes, settings)
    except DataError as error:
        return _Read(item, reason=str(error))
    return _Read(item, cut, volumes[0].sha256)


def _say_what_is_known(found: list[Found], tell: Callable[[Event], None]) -> None:
    """Say what will be mixed, whose name is in several folders, and which headers do not say that nobody is named."""
    kinds = sorted({item.sequence for item in found if item.sequence})
    if len(kinds) > 1:
        text = (
            f"images of several sequences go into one store ({', '.join(kinds)}), each as a slice of its own; "
            "`sequence` in a recipe takes one, or joins several of a head as channels"
        )
        tell(Event("note", 0, 0, {"text": text}))
    shared_names = len({item.subject for item in found if item.shares_name})
    if shared_names:
        text = (
            f"{shared_names} names stand in several folders, and each is taken for one person, so that nobody is both "
            "learnt from and held out; if they are different people, let the file names say so"
        )
        tell(Event("note", 0, 0, {"text": text}))
    images = [image for item in found for image in item.images]
    named = sum(image.dicom is not None and not image.dicom.anonymous for image in images)
    if named:
        text = (
            f"{named} DICOM series do not say that the patient's identity was removed: nothing of their headers is "
            "kept, but a face or text in the pixels would be"
        )
        tell(Event("note", 0, 0, {"text": text}))


def _report(store: SliceStore, tell: Callable[[Event], None]) -> PrepareReport:
    counts = np.bincount(store.strata(), minlength=len(store.strata_names)).tolist()
    for sentence in store.header["strata"]["merged"]:
        tell(Event("note", 0, 0, {"text": sentence}))
    header: dict[str, Any] = store.header
    return PrepareReport(
        store.folder,
        int(header["volumes"]),
        len(store.rows),
        int(header["quarantined"]),
        dict(zip(store.strata_names, counts, strict=True)),
    )
