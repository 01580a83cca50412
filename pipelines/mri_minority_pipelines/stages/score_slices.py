"""score, as a command: the minority score and level of slices that the model need not know."""

import csv
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mri_minority.core.errors import DataError
from mri_minority.slices.store import SliceStore
from mri_minority.slices.strata import Strata
from mri_minority.training.checkpoint import load_tensors
from mri_minority.volumes.atomic import write_text_atomic
from mri_minority_pipelines.config import ScoreConfig
from mri_minority_pipelines.distances import with_file
from mri_minority_pipelines.events import Event, beside
from mri_minority_pipelines.given_sources import check_fit
from mri_minority_pipelines.model_folder import ModelFolder
from mri_minority_pipelines.stages import score as score_stage
from mri_minority_pipelines.stages.prepare import ForModel
from mri_minority_pipelines.stages.train import scale_of


def prepare_settings(model: ModelFolder) -> ForModel:
    """How volumes must be cut for a model: as its own were, nobody held out, and sites that its strata name kept."""
    strata = Strata.from_json(model.card()["strata"])
    sites = frozenset(site for group in strata.groups for _, site in group if site)
    return ForModel(model.recipe().prepare.model_copy(update={"holdout": 0.0}), sites)


def run(
    store: SliceStore,
    model: ModelFolder,
    out: Path,
    distance: str | None,
    device: torch.device,
    tell: Callable[[Event], None],
) -> dict[str, Any]:
    """Score every slice of a store with a model and write one line per slice.

    Noise level, draws, distance, strata, weights and levels are the model's, so scores can be compared with those of
    its training slices. Interrupting is safe: the same command goes on.

    Args:
        store: The slices, cut as the model's were.
        model: The model.
        out: The table (TSV). Its columns `row` and `score` are what `--rarity file:` reads.
        distance: `file:PATH` of the lab's network if the model's scores were made with one; None otherwise.
        device: Where to compute.
        tell: Receives progress.

    Returns:
        The table's path, the number of slices, the rank stability, and the share of slices in the top level.

    Raises:
        DataError: The slices do not fit the model, the model is incomplete, or a score is not finite.
        UsageError: The distance needs a file that was not named.
    """
    card = model.card()
    _check_fit(store, card)
    entry = card["classifiers"].get("minority")
    config = _score_config(card, distance)
    strata = torch.as_tensor(_strata_of(store, card))
    weights = _weights(model, config, store, card)
    work = beside(out, "work")
    _begin(work, {"store": store.sha256, "score": config.model_dump(mode="json")}, model)
    net = model.denoiser().to(device)
    parts = score_stage.lost_parts_of(config, net, store, strata, work, device, tell)
    if weights is None:
        weights = score_stage.part_weights_of(config, parts, store)
    result = score_stage.weighed(parts, weights, strata)
    columns: dict[str, torch.Tensor] = {"score": result.score, "standard_error": result.standard_error}
    if entry is not None:
        columns["level"] = scale_of(entry).of(result.score, strata)
    _write(out, store, strata, columns)
    shutil.rmtree(work)
    top = float((columns["level"] == entry["levels"] - 1).double().mean()) if entry is not None else None
    return {
        "out": str(out),
        "slices": len(store.rows),
        "rank_stability": None if np.isnan(result.stability) else round(result.stability, 4),
        "top_level_share": top,
    }


def _check_fit(store: SliceStore, card: dict[str, Any]) -> None:
    if not store.rows:
        raise DataError(f"expected slices to score in {store.folder}, found none")
    cure = "give the volumes instead of the store, and they are cut as they must be"
    check_fit(store, card, cure)
    theirs, ours = store.header["settings"].get("labels"), card["recipe"]["prepare"].get("labels")
    if theirs != ours:  # their order is that of the classes, which agree
        raise DataError(f"expected the label values {ours} in {store.folder}, found {theirs}; {cure}")


def _score_config(card: dict[str, Any], distance: str | None) -> ScoreConfig:
    entry = card["classifiers"].get("minority")
    settings = entry["score"] if entry is not None else card["recipe"]["score"]
    if distance is None:
        return ScoreConfig.model_validate(settings)
    config = ScoreConfig.model_validate(with_file(settings, distance))
    if config.distance.partition(":")[0] != settings["distance"].partition(":")[0]:
        raise DataError(
            f"the model's scores were made with the distance {settings['distance']}, found --distance "
            f"{config.distance}; scores of another distance cannot be compared with its levels"
        )
    return config


def _strata_of(store: SliceStore, card: dict[str, Any]) -> np.ndarray:
    """The model's strata, whatever the store's own are."""
    return Strata.from_json(card["strata"]).of(store.heights(), store.kinds())


def _weights(model: ModelFolder, config: ScoreConfig, store: SliceStore, card: dict[str, Any]) -> torch.Tensor | None:
    """The model's weights; None where it has none, but the store is its own, whose parts give them."""
    file = model.path / score_stage.WEIGHTS
    if file.is_file():
        tensors, notes = load_tensors(file)
        if notes["score"]["distance"] == config.distance:
            return tensors["weights"]
    if store.is_known_as(card["store_sha256"]):
        return None
    raise DataError(
        f"expected {file.name} of distance {config.distance} in the model folder, found none; run `mri-minority train` "
        "with --stage score and the model's own slices"
    )


def _begin(work: Path, header: dict[str, Any], model: ModelFolder) -> None:
    """Go on with the shards of the same request; throw away those of another."""
    text = json.dumps({**header, "model": model.fingerprint()}, sort_keys=True)
    said = work / "header.json"
    if work.exists() and (not said.is_file() or said.read_text(encoding="utf-8") != text):
        shutil.rmtree(work)
    work.mkdir(parents=True, exist_ok=True)
    said.write_text(text, encoding="utf-8")


def _write(out: Path, store: SliceStore, strata: torch.Tensor, columns: dict[str, torch.Tensor]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, delimiter="\t", lineterminator="\n")
    writer.writerow(["row", "subject", "series", "index", "height", "stratum", *columns])
    values = [column.tolist() for column in columns.values()]
    for number, row in enumerate(store.rows):
        cells = [format(value[number], ".6g") for value in values]
        place = [row.subject, row.series, row.index, format(row.height, ".4f"), int(strata[number])]
        writer.writerow([number, *place, *cells])
    write_text_atomic(out, text.getvalue())
