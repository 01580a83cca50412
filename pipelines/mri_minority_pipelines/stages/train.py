"""train: denoiser, scores, levels and classifier; each part is skipped when it is there already."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from lightning_fabric import Fabric

from mri_minority.core.errors import DataError, UsageError
from mri_minority.minority.levels import LevelScale, check_levels, fit_levels
from mri_minority.slices.store import SliceStore
from mri_minority.training.loop import rows_of
from mri_minority.training.processes import fabric_for
from mri_minority.transforms.spatial import AXES
from mri_minority.volumes.atomic import sha256_of, write_json_atomic
from mri_minority_pipelines import grain
from mri_minority_pipelines import rarity as rarities
from mri_minority_pipelines.begin_from import where_from
from mri_minority_pipelines.config import ClassifierConfig, PrepareConfig, Recipe, ScoreConfig
from mri_minority_pipelines.distances import distance_of
from mri_minority_pipelines.events import Event
from mri_minority_pipelines.given_sources import check_fit
from mri_minority_pipelines.model_folder import ModelFolder, load_world
from mri_minority_pipelines.stages import audit as audit_stage
from mri_minority_pipelines.stages import calibrate_sizes, segmenter, train_classifier, train_denoiser
from mri_minority_pipelines.stages import score as score_stage
from mri_minority_pipelines.stages.follow import plan_of

Part = Literal["all", "denoiser", "score", "classifier", "audit"]


def run(
    recipe: Recipe,
    store: SliceStore,
    out: Path,
    rarity: str,
    part: Part,
    device: torch.device,
    tell: Callable[[Event], None],
) -> dict[str, Any]:
    """Make or complete a model folder; return its card.

    Args:
        recipe: All settings.
        store: The prepared slices.
        out: The model folder.
        rarity: What rare means: "minority", "attribute:NAME" or "file:TSV".
        part: Stop after this part; "all" goes to the end.
        device: Where to compute.
        tell: Receives progress.

    Raises:
        UsageError: A rarity that does not exist, or settings that contradict the model or each other.
        DataError: The folder holds a model of other slices, finished or not.
    """
    # The slices are what they are: a recipe cannot change how the store was cut.
    cut = PrepareConfig.model_validate(store.header["settings"]).with_classes(store.label_names)
    recipe = recipe.model_copy(update={"prepare": cut})
    folder = ModelFolder(out)
    slices_hash = store.sha256
    # What cannot work must fail before an hour of training: too many levels, a wrong name.
    if part not in ("denoiser", "audit"):
        _check_levels(recipe.classifier, store)
        _check_distance(recipe.score, rarity, store, device)
    if rarity != "minority":
        scores = rarities.external_scores(rarity, store)
    fabric = fabric_for(device)
    rows_of(plan_of(recipe.denoiser, out), fabric.global_rank, fabric.world_size)
    rows_of(plan_of(recipe.classifier, out), fabric.global_rank, fabric.world_size)
    if (out / "model.json").is_file():
        if not store.is_known_as(folder.card()["store_sha256"]):
            raise DataError(f"{out} is a model of other slices than {store.folder}; choose another --out")
        check_fit(store, folder.card())
        if part not in ("denoiser", "audit"):
            _check_same_scale(recipe, rarity, folder)
    else:
        _begin(out, slices_hash, fabric)
        train_denoiser.run(recipe.denoiser, store, out, fabric, tell)
        if fabric.is_global_zero:
            folder.write_card(_first_card(recipe, store, slices_hash))
        fabric.barrier()
    if fabric.is_global_zero:
        calibrate_sizes.run(recipe.denoiser, store, folder, fabric.device, tell)
        grain.warn(folder, tell)
    fabric.barrier()
    if part == "denoiser":
        return folder.card()
    if part == "audit":
        _audit(recipe, store, folder, fabric, tell)
        return folder.card()
    columns: dict[str, torch.Tensor] = {}
    made_from: dict[str, Any] = {"rarity": rarities.without_folders(rarity)}
    if rarity == "minority":
        work = out / ".training"
        work.mkdir(exist_ok=True, parents=True)
        net = folder.denoiser().to(fabric.device)
        parts = score_stage.lost_parts_of_store(recipe.score, net, store, work, fabric.device, tell)
        result = score_stage.scores_of(recipe.score, parts, store)
        scores = result.score
        columns["standard_error"] = result.standard_error
        made_from |= {"score": recipe.score.model_dump(mode="json"), "rank_stability": round(result.stability, 4)}
    _finish(recipe.classifier, store, folder, scores, columns, made_from, part, fabric, tell)
    if part == "all":
        _audit(recipe, store, folder, fabric, tell)
    return folder.card()


def _begin(out: Path, slices_hash: str, fabric: Fabric) -> None:
    """Note whose slices an unfinished model learns from; the card, which says it, comes last.

    Raises:
        DataError: It was begun with others: it would know people whom its card, and the copy audit, do not.
    """
    said = out / ".training" / "begun.json"
    if said.is_file() and json.loads(said.read_text(encoding="utf-8"))["slices_sha256"] != slices_hash:
        raise DataError(f"the training in {out} was begun with other slices; choose another --out, or remove {out}")
    fabric.barrier()
    if fabric.is_global_zero:
        write_json_atomic(said, {"slices_sha256": slices_hash})


def _check_same_scale(recipe: Recipe, rarity: str, folder: ModelFolder) -> None:
    """Refuse to score anew for a classifier that was trained on other scores: thresholds and weights would part.

    Raises:
        UsageError: The model has this classifier, with other levels or another score.
    """
    entry = folder.card()["classifiers"].get(rarities.slug(rarity))
    if entry is None:
        return
    cure = "choose another --out, or give the recipe that the model was trained with"
    if entry["levels"] != recipe.classifier.levels:
        raise UsageError(
            f"expected {entry['levels']} levels, as the classifier for {rarity} in {folder.path} has, found "
            f"{recipe.classifier.levels}; {cure}"
        )
    if rarity == "minority" and ScoreConfig.model_validate(entry["score"]).model_dump() != recipe.score.model_dump():
        raise UsageError(
            f"expected the score {entry['score']} of the classifier in {folder.path}, found another; {cure}"
        )


def _check_distance(config: ScoreConfig, rarity: str, store: SliceStore, device: torch.device) -> None:
    """Refuse a distance that cannot be measured on these slices.

    Raises:
        UsageError: It needs labels that are not there, or a network that is not.
        DataError: Its network cannot be read.
    """
    if rarity != "minority":
        return
    if config.distance == "labels" and not store.label_names:
        raise UsageError(f"expected slices with labels for --distance labels, {store.folder} has none")
    distance_of(config, device, store.channels)


def _check_levels(config: ClassifierConfig, store: SliceStore) -> None:
    strata = torch.as_tensor(store.strata()[store.indices("train")])
    try:
        check_levels(strata, len(store.strata_names), config.levels)
    except ValueError as error:
        raise UsageError(str(error)) from error


def _audit(
    recipe: Recipe, store: SliceStore, folder: ModelFolder, fabric: Fabric, tell: Callable[[Event], None]
) -> None:
    """The copy audit, by the first process; without held-out subjects there is nothing to calibrate it on."""
    if fabric.is_global_zero:
        rarity = audit_stage.rarity_of_table(folder.path, len(store.rows))
        segmenter.run(recipe.audit, store, folder.path / segmenter.FILE, fabric.device, tell)
        net = folder.denoiser().to(fabric.device)
        if not audit_stage.run(recipe.audit, store, folder.path / audit_stage.FILE, rarity, net, tell):
            tell(Event("note", 0, 0, {"text": "no copy audit: it needs held-out subjects (--holdout)"}))
        elif audit_stage.load(folder.path / audit_stage.FILE, store).leaks:
            text = "the model has learnt its training slices by heart: train for less time, or on more subjects"
            tell(Event("note", 0, 0, {"text": text}))
    fabric.barrier()


def _finish(
    config: ClassifierConfig,
    store: SliceStore,
    folder: ModelFolder,
    scores: torch.Tensor,
    columns: dict[str, torch.Tensor],
    made_from: dict[str, Any],
    part: Part,
    fabric: Fabric,
    tell: Callable[[Event], None],
) -> dict[str, Any]:
    """Levels from scores, then the classifier; both end in the card."""
    name = rarities.slug(made_from["rarity"])
    strata, train = torch.as_tensor(store.strata()), torch.as_tensor(store.indices("train"))
    try:
        scale = fit_levels(scores[train], strata[train], len(store.strata_names), config.levels)
    except ValueError as error:
        raise UsageError(str(error)) from error
    level = scale.of(scores, strata)
    table = f"scores-{name}.tsv"
    if fabric.is_global_zero:
        score_stage.write_scores(folder.path / table, store, {"score": scores, **columns, "level": level})
    if part == "score":
        return folder.card()
    card = folder.card()
    weights = folder.path / f"classifier-{name}.safetensors"
    if name not in card["classifiers"] or not weights.is_file():
        world = load_world(folder.path / "world.safetensors", len(store.label_names))
        report = train_classifier.run(config, store, world, scale, level, weights, fabric, tell)
        if fabric.is_global_zero:
            card = folder.card()  # read again: another classifier may have been added meanwhile
            card["classifiers"][name] = {
                **made_from,
                "config": config.model_dump(mode="json"),
                "levels": scale.levels,
                "thresholds": scale.thresholds.tolist(),
                "report": report,
                "sha256": sha256_of(weights),
            }
            folder.write_card(card)
        fabric.barrier()
    return folder.card()


def scale_of(entry: dict[str, Any]) -> LevelScale:
    """The level thresholds that a card's classifier entry holds."""
    return LevelScale(torch.tensor(entry["thresholds"], dtype=torch.float64))


def _first_card(recipe: Recipe, store: SliceStore, slices_hash: str) -> dict[str, Any]:
    train = store.indices("train")
    counts = np.bincount(store.strata()[train], minlength=len(store.strata_names))
    return {
        "made": time.strftime("%Y-%m-%d"),
        "recipe": recipe.model_dump(mode="json"),
        "store_sha256": slices_hash,
        "label_names": list(store.label_names),
        "strata": store.header["strata"],
        "stratum_slices": counts.tolist(),
        "planes": [_typical_plane(store, train[store.strata()[train] == t]) for t in range(len(counts))],
        "real_attributes": rarities.real_attributes(store),
        "channel_names": list(store.channel_names),
        "intensity_scale": np.median([store.rows[i].scale for i in train], axis=0).tolist(),
        "train_subjects": len({store.rows[i].subject for i in train}),
        "begun_from": where_from(recipe.denoiser),
        "classifiers": {},
    }


def _typical_plane(store: SliceStore, index: np.ndarray) -> list[list[float]]:
    """Where slices of a stratum lie on average: an axis-aligned affine that is nobody's."""
    affines = np.array([store.rows[i].affine for i in index]).reshape(-1, 4, 4)
    axis = AXES[store.header["settings"]["plane"]]
    order = [*[a for a in range(3) if a != axis], axis]
    spacing_mm = np.median(np.linalg.norm(affines[:, :3, :3], axis=1), axis=0)
    plane = np.eye(4)
    plane[:3, :3] = np.eye(3)[:, order] * spacing_mm.round(4)
    plane[:3, 3] = affines[:, :3, 3].mean(axis=0).round(1)
    return plane.tolist()
