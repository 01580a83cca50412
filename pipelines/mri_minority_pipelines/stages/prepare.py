"""prepare: volumes in, slice store out."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mri_minority import __version__
from mri_minority.core.errors import DataError
from mri_minority.slices.select import SliceSettings, cut_slices
from mri_minority.slices.split import held_out_subjects
from mri_minority.slices.store import SliceStore, StoreWriter
from mri_minority.slices.strata import fit_strata
from mri_minority.volumes.atomic import write_json_atomic
from mri_minority.volumes.discover import Found, discover, write_quarantine
from mri_minority.volumes.nifti import read_volume
from mri_minority_pipelines.config import PrepareConfig
from mri_minority_pipelines.events import Event, publish_folder


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


def run(config: PrepareConfig, sources: list[Path], out: Path, tell: Callable[[Event], None]) -> PrepareReport:
    """Read, transform and cut every volume; refuse bad ones by name; finish with strata and splits.

    Interrupting is safe: the store is built under a temporary name and the same command goes on with it.

    Raises:
        DataError: Nothing usable was found, or `out` is something else.
    """
    if (out / "store.json").is_file():
        store = SliceStore(out)
        if store.header["settings"] != config.model_dump(mode="json"):
            raise DataError(f"{out} was prepared with other settings; choose another folder or remove it")
        return _report(store, tell)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(f"expected an empty or new folder for the store, {out} holds something else")
    found = discover(sources)
    building = out.with_name(f".{out.name}.building")
    settings = SliceSettings(
        config.spacing_mm, config.size, config.plane, config.heights, config.ceiling, config.labels
    )
    _begin(building, config)
    writer = StoreWriter(building, config.size)
    held_out = held_out_subjects((f.subject for f in found), config.holdout, config.seed)
    done, quarantine = writer.done(), []
    for number, item in enumerate(found):
        tell(Event("prepare", number, len(found), {}))
        reason = _add(item, settings, writer, done, "holdout" if item.subject in held_out else "train")
        if reason:
            quarantine.append((str(item.image), reason))
    tell(Event("prepare", len(found), len(found), {}))
    write_quarantine(building / "quarantine.tsv", quarantine)
    train = np.array([row.height for row in writer.rows if row.split == "train"])
    if not len(train):
        reasons = "; ".join(dict.fromkeys(reason for _, reason in quarantine)) or "no training subject was left"
        write_quarantine(out.with_name(f"{out.name}.quarantine.tsv"), quarantine)
        raise DataError(f"expected usable volumes, found none among {len(found)}: {reasons[:400]}")
    strata = fit_strata(train, config.heights, config.strata, config.stratum_min_slices)
    writer.finish(
        strata.of(np.array([row.height for row in writer.rows])).tolist(),
        {
            "version": __version__,
            "settings": config.model_dump(mode="json"),
            "label_names": list(config.labels),
            "strata": {"edges": list(strata.edges), "names": list(strata.names), "merged": list(strata.merged)},
            "volumes": len({row.series for row in writer.rows}),
            "quarantined": len(quarantine),
        },
    )
    (building / "settings.json").unlink()
    publish_folder(building, out)
    return _report(SliceStore(out), tell)


def _begin(building: Path, config: PrepareConfig) -> None:
    """Make the working folder; what another run with other settings left in it goes."""
    said, settings = building / "settings.json", config.model_dump(mode="json")
    if building.exists() and not (said.is_file() and json.loads(said.read_text(encoding="utf-8")) == settings):
        shutil.rmtree(building)
    if not building.exists():
        write_json_atomic(said, settings)


def _add(item: Found, settings: SliceSettings, writer: StoreWriter, done: frozenset[str], split: str) -> str | None:
    """Add one volume; return why it was refused, or None."""
    if item.problem:
        return item.problem
    if settings.labels and item.label is None:
        return "expected a label map beside it, found none"
    try:
        volume = read_volume(item.image, item.label, item.subject, item.series)
        if volume.sha256 not in done:
            writer.append(cut_slices(volume, settings), item.subject, item.series, volume.sha256, split)
    except DataError as error:
        return str(error)
    return None


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
