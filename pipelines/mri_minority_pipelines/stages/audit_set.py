"""audit DIR: the verdict on every slice of a data set, and what it is worth."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from mri_minority.core.errors import AuditError, DataError
from mri_minority.evaluate.attributes import measure
from mri_minority.export.dataset import read_manifest
from mri_minority.slices.store import SliceStore
from mri_minority_pipelines.config import AuditConfig
from mri_minority_pipelines.events import Event
from mri_minority_pipelines.model_folder import ModelFolder
from mri_minority_pipelines.rarity import pixel_area_mm2
from mri_minority_pipelines.stages import audit
from mri_minority_pipelines.synthetic import SyntheticSet, read_set


def run(
    folder: Path, store: SliceStore, model: ModelFolder | None, config: AuditConfig, tell: Callable[[Event], None]
) -> dict[str, Any]:
    """Audit a data set against the training slices of a store.

    Without a model that holds an audit file, one is learnt and kept beside the store (`STORE.audit.safetensors`).

    Returns:
        The summary of the set, `verdicts` by slice name, and `copies`: names of rejected slices.

    Raises:
        DataError: The set is damaged, or the store is another one, or nobody is held out.
    """
    slices = read_set(folder, store)
    auditor = auditor_for(store, model, config, tell)
    verdicts = auditor.judge(slices.image)
    return {**summary_of(auditor, slices, verdicts), "label_area_rate": _plausible_labels(slices, store)}


def check_derived(folder: Path, allowed: bool) -> None:
    """Refuse slices that are derived from people: parts of them are a person's scan, whatever a comparison finds.

    Raises:
        AuditError: They are, and that was not allowed.
        DataError: There is no data set.
    """
    if read_manifest(folder).get("derived") and not allowed:
        raise AuditError(
            f"the slices in {folder} are derived from people's scans and must not leave the institution as synthetic "
            "data; say --allow-derived to compare them all the same"
        )


def summary_of(auditor: audit.Auditor, slices: SyntheticSet, verdicts: list[dict[str, Any]]) -> dict[str, Any]:
    """What is said of the set, with names."""
    summary = auditor.summary(verdicts, slices.image)
    names = slices.names
    return {
        **summary,
        "duplicates": [[names[a], names[b]] for a, b in summary["duplicates"]],
        "copies": [name for name, v in zip(names, verdicts, strict=True) if v["verdict"] == "reject"],
        "verdicts": dict(zip(names, verdicts, strict=True)),
    }


def auditor_for(
    store: SliceStore, model: ModelFolder | None, config: AuditConfig, tell: Callable[[Event], None]
) -> audit.Auditor:
    """The model's audit if it has one, else one beside the store, made if need be."""
    if (ready := auditor_at_hand(store, model)) is not None:
        return ready
    path = _beside(store)
    rarity = None if model is None else audit.rarity_of_table(model.path, len(store.rows))
    if not audit.run(config, store, path, rarity, None, tell):
        raise DataError(
            f"expected held-out subjects in {store.folder} to calibrate the audit on, found too few; prepare it with "
            "--holdout 0.2"
        )
    return audit.load(path, store)


def auditor_at_hand(store: SliceStore, model: ModelFolder | None) -> audit.Auditor | None:
    """The model's audit, or the one beside the store; None where neither was made.

    Raises:
        DataError: It is of other slices, or damaged.
    """
    if model is not None:
        if not store.is_known_as(model.card()["store_sha256"]):
            raise DataError(
                f"expected the slices that {model.path} was trained on, {store.folder} holds others: copies of its "
                "people would pass"
            )
        if (model.path / audit.FILE).is_file():
            return audit.load(model.path / audit.FILE, store)
    return audit.load(_beside(store), store) if _beside(store).is_file() else None


def _beside(store: SliceStore) -> Path:
    return store.folder.with_name(f"{store.folder.name}.{audit.FILE}")


def _plausible_labels(slices: SyntheticSet, store: SliceStore) -> dict[str, float]:
    """Share of slices in which a label's area lies within the range of the training slices of the stratum."""
    if slices.label is None:
        return {}
    train, strata, mm2 = store.indices("train"), store.strata(), pixel_area_mm2(store)
    inside: dict[str, list[bool]] = {name: [] for name in store.label_names}
    for t in np.unique(slices.stratum):
        here = train[strata[train] == t]
        chosen = slices.label[slices.stratum == t]
        if not len(here):
            continue
        real = store.read(here[:: max(1, len(here) // 500)])[1]
        for name in store.label_names:
            area = measure(f"{name}_area_mm2", real, store.label_names, mm2)
            found = measure(f"{name}_area_mm2", chosen, store.label_names, mm2)
            inside[name] += list((found >= area.min()) & (found <= area.max()))
    return {name: round(float(np.mean(values)), 4) for name, values in inside.items() if values}
