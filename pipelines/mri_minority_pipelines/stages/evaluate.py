"""evaluate: everything that can be measured of a data set, in metrics.json and on a page to read."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from mri_minority import __version__
from mri_minority.core.errors import DataError
from mri_minority.evaluate.attributes import attribute_names, measure, size_attributes
from mri_minority.evaluate.halves import half_intervals
from mri_minority.evaluate.segmenter import dice, segment
from mri_minority.report.page import Page, write_page
from mri_minority.slices.store import SliceStore
from mri_minority.volumes.atomic import write_json_atomic
from mri_minority_pipelines.config import AuditConfig
from mri_minority_pipelines.events import Event
from mri_minority_pipelines.fidelity_table import (
    NEIGHBOURS,
    each_its_own,
    fidelity_table,
    rounded,
    similarity,
    subjects_of,
)
from mri_minority_pipelines.model_folder import ModelFolder
from mri_minority_pipelines.precision_by_rarity import precision_by_rarity
from mri_minority_pipelines.rarity import pixel_area_mm2
from mri_minority_pipelines.stages import audit_set, segmenter
from mri_minority_pipelines.synthetic import FEWEST, SyntheticSet, read_set

_REAL = 400
_SUSPICIOUS = 20
AGREEMENT_GATE = 0.6
"""Dice with the independent segmenter below which image and label map do not belong together."""


def run(
    folder: Path,
    store: SliceStore,
    model: ModelFolder | None,
    out: Path,
    seed: int,
    device: torch.device,
    tell: Callable[[Event], None],
    with_viewer: bool = True,
    unguided: Path | None = None,
) -> dict[str, Any]:
    """Measure a data set, write `metrics.json` and `report.html`, return the metrics.

    Args:
        folder: What `synthesize` wrote.
        store: The slices that its model learnt from.
        model: The model, for its audit and segmenter; None makes an audit and leaves agreement out.
        out: Where to write.
        seed: Chooses real slices and the halves behind intervals.
        device: Where the segmenter computes.
        tell: Receives progress.
        with_viewer: Put niivue into the page, which makes it 1.1 MB larger.
        unguided: Another set of the model, drawn without guidance, for the histograms.

    Raises:
        DataError: The set is damaged, too small, or of another store.
    """
    slices = read_set(folder, store)
    if len(slices.image) < FEWEST:
        raise DataError(f"expected {FEWEST} or more slices to judge a set, found {len(slices.image)} in {folder}")
    auditor = audit_set.auditor_for(store, model, model.recipe().audit if model else AuditConfig(), tell)
    verdicts = auditor.judge(slices.image)
    train = _same_strata(store, store.indices("train"), slices, seed)
    if len(train) <= NEIGHBOURS:
        raise DataError(
            f"expected more than {NEIGHBOURS} training slices of the same strata in {store.folder}, found {len(train)}"
        )
    held = _same_strata(store, store.indices("holdout"), slices, seed)
    metrics: dict[str, Any] = {
        "version": __version__,
        "slices": len(slices.image),
        "real_slices": len(train),
        "audit": audit_set.summary_of(auditor, slices, verdicts),
        "fidelity": fidelity_table(store, slices, train, held, seed, tell),
        "diversity_ms_ssim": {
            "synthetic": similarity(slices.image, each_its_own(len(slices.image)), seed),
            "real": similarity(store.read(train)[0], subjects_of(store, train), seed),
        },
        "attributes": {},
        "agreement": None,
    }
    plain = read_set(unguided, store) if unguided else None
    shown: dict[str, dict[str, list[float]]] = {}
    if slices.label is not None and store.label_names:
        metrics["attributes"], shown = _attributes(store, slices, plain, seed)
        metrics["agreement"] = _agreement(store, slices, held, model, device)
        metrics["precision_by_rarity"] = precision_by_rarity(metrics["attributes"], store, slices, train, held)
    write_json_atomic(out / "metrics.json", metrics)
    order = np.argsort([-v["suspicion"] for v in verdicts])[:_SUSPICIOUS]
    matches = store.read(store.indices("train")[[verdicts[i]["nearest"] for i in order]])[0]
    write_page(
        out / "report.html",
        Page(metrics, slices.manifest, _card(folder), slices.image, slices.label, order, matches, shown, with_viewer),
    )
    return metrics


def _card(folder: Path) -> str:
    path = folder / "README.md"
    return path.read_text(encoding="utf-8") if path.is_file() else "This data set has no data card."


def _same_strata(
    store: SliceStore, index: npt.NDArray[np.int64], slices: SyntheticSet, seed: int
) -> npt.NDArray[np.int64]:
    """Real slices, at most 400, in the strata of the synthetic ones and in their proportions."""
    rng, strata, parts = np.random.default_rng(seed), store.strata(), []
    counts = {int(t): int((slices.stratum == t).sum()) for t in np.unique(slices.stratum)}
    for t, count in counts.items():
        here = index[strata[index] == t]
        parts.append(rng.permutation(here)[: max(1, round(_REAL * count / len(slices.stratum)))])
    return np.sort(np.concatenate(parts)) if parts else np.zeros(0, np.int64)


def _attributes(
    store: SliceStore, slices: SyntheticSet, plain: SyntheticSet | None, seed: int
) -> tuple[dict[str, Any], dict[str, dict[str, list[float]]]]:
    """Share of slices beyond the real 95th percentile of their stratum; and the values behind it."""
    train, strata, mm2 = store.indices("train"), store.strata(), pixel_area_mm2(store)
    train = train[np.isin(strata[train], slices.stratum)]
    label = store.read(train)[1]
    assert slices.label is not None
    table: dict[str, Any] = {}
    values: dict[str, dict[str, list[float]]] = {}
    names = attribute_names(store.label_names)
    people, own = subjects_of(store, train), each_its_own(len(slices.image))
    pictured = {*size_attributes(names), *(name for name in names if name.endswith("_count"))}
    for name in names:
        real, drawn = (measure(name, part, store.label_names, mm2) for part in (label, slices.label))
        interval = half_intervals((people, own), partial(_beyond, real, strata[train], drawn, slices.stratum), seed)
        table[name] = {
            "beyond_real_p95": round(_beyond(real, strata[train], drawn, slices.stratum)["beyond_real_p95"], 4),
            "interval_95": rounded(interval),
            "mean_real": round(float(real.mean()), 5),
            "mean_synthetic": round(float(drawn.mean()), 5),
        }
        if name in pictured:
            values[name] = {"real": real.tolist()}
            if plain is not None and plain.label is not None:
                here = np.isin(plain.stratum, slices.stratum)
                values[name]["unguided"] = measure(name, plain.label[here], store.label_names, mm2).tolist()
            values[name]["synthetic"] = drawn.tolist()
    return table, values


def _beyond(
    real: npt.NDArray[np.float64],
    real_stratum: npt.NDArray[np.int64],
    drawn: npt.NDArray[np.float64],
    stratum: npt.NDArray[np.int64],
    index: tuple[npt.NDArray[np.int64], ...] | None = None,
) -> dict[str, float]:
    """Share of drawn values beyond the real 95th percentile of their stratum; of a part of each set.

    Strata without real slices, and those whose percentile is 0 (the structure is hardly ever there), do not count, as
    in `synthesize`.
    """
    if index is not None:
        real, real_stratum, drawn, stratum = real[index[0]], real_stratum[index[0]], drawn[index[1]], stratum[index[1]]
    beyond: list[npt.NDArray[np.bool_]] = []
    for t in np.intersect1d(stratum, real_stratum):
        limit = np.quantile(real[real_stratum == t], 0.95)
        beyond += [drawn[stratum == t] > limit] if limit > 0 else []
    return {"beyond_real_p95": float(np.concatenate(beyond).mean()) if beyond else 0.0}


def _agreement(
    store: SliceStore,
    slices: SyntheticSet,
    held: npt.NDArray[np.int64],
    model: ModelFolder | None,
    device: torch.device,
) -> dict[str, Any] | None:
    """Dice of label maps with what the segmenter reads in the images; of held-out real slices beside it."""
    if model is None or not (model.path / segmenter.FILE).is_file() or slices.label is None:
        return None
    net = segmenter.load(model.path / segmenter.FILE, store)
    read = segment(net, slices.image, device)
    image, label = store.read(held) if len(held) else (slices.image[:0], slices.label[:0])
    real = segment(net, image, device) if len(held) else label
    table, judged, worst = {}, [], np.full(len(read), np.inf)
    for number, name in enumerate(store.label_names, 1):
        drawn, other = dice(read, slices.label, number), dice(real, label, number)
        # A label that the segmenter does not find in real slices either says nothing of the synthetic ones.
        if (_mean(other) or 0.0) >= AGREEMENT_GATE:
            judged.append(name)
            worst = np.fmin(worst, drawn)
        table[name] = {"synthetic": _mean(drawn), "held-out real": _mean(other)}
    below = [name for name, value in zip(slices.names, worst, strict=True) if value < AGREEMENT_GATE]
    return {"dice": table, "gate": AGREEMENT_GATE, "judged_by": judged, "below_gate": below}


def _mean(values: npt.NDArray[np.float64]) -> float | None:
    return None if np.isnan(values).all() else round(float(np.nanmean(values)), 4)
