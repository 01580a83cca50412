"""augment: does it help a segmenter? The same training with and without, tested on subjects nobody learnt from."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from mri_minority import __version__
from mri_minority.core.errors import DataError, UsageError
from mri_minority.evaluate.attributes import size_attribute
from mri_minority.export.dataset import read_manifest
from mri_minority.report.study import label_of, write_study
from mri_minority.slices.store import SliceStore
from mri_minority.training.checkpoint import load_tensors
from mri_minority.volumes.atomic import write_json_atomic
from mri_minority_pipelines.config import StudyConfig
from mri_minority_pipelines.events import Event
from mri_minority_pipelines.model_folder import ModelFolder, find_model
from mri_minority_pipelines.pieces import Piece, forget_locks, work_through
from mri_minority_pipelines.progress import Progress
from mri_minority_pipelines.rarity import attribute_scores, external_scores, hash_of_table, without_folders
from mri_minority_pipelines.stages import augment_run, synthesize
from mri_minority_pipelines.stages.augment_run import Run
from mri_minority_pipelines.study import (
    OVERSAMPLED,
    REAL,
    Arm,
    TrainingSet,
    check_model,
    extra_of,
    fingerprint_of,
    folder_name,
    knows_only,
    synthetic_arm,
    then_real,
    training_set,
)
from mri_minority_pipelines.study_results import RunValues, results_of

_REPEATED = {
    "seeds",
    "ratios",
    "sets",
    "draws",
    "rarity",
    "attribute",
    "rare",
    "rare_subjects",
    "subset_seed",
    "oversample",
    "then_real",
    "matched",
}
"""Settings that say which runs there are, or how they are judged; the others are what each run is made with. `matched`
is noted with the runs that it changes."""


@dataclass(frozen=True)
class Draws:
    """Synthetic sets that the study draws itself, from models of its training sets.

    Args:
        models: Training set -> the model that learnt from it.
        methods: As in `synthesize`; `attribute` is minority guidance by the study's attribute.
        count: Slices of each.
        seed: Of the drawing.
    """

    models: dict[str, ModelFolder]
    methods: tuple[str, ...]
    count: int
    seed: int


def run(
    config: StudyConfig,
    store: SliceStore,
    synthetic: list[str],
    draws: Draws,
    out: Path,
    device: torch.device,
    tell: Callable[[Event], None],
) -> dict[str, Any]:
    """Train every arm with every seed, test on the held-out subjects, write `results.json` and `report.html`.

    Interrupting is safe: each (training set, arm, ratio, seed) is one file, and the same command does what is missing.
    Arms, ratios, seeds and training sets may be added later. Several processes may run the same command.

    Args:
        config: The study.
        store: Real slices, some subjects held out.
        synthetic: `NAME@SET=FOLDER`, see :func:`mri_minority_pipelines.study.synthetic_arm`.
        draws: What to draw beside them.
        out: The study's folder.
        device: Where to compute.
        tell: Receives progress.

    Raises:
        UsageError: An unknown training set, attribute, rarity or method.
        DataError: Nobody is held out, a set does not fit, a model knows other subjects, or `out` holds another study.
    """
    _check(config, store)
    attribute = config.attribute or size_attribute(store.label_names[-1], store.label_names)
    rarity, values = rarity_of(config, store, attribute)
    sets = training_sets(config, store, values, out)
    by_name = {found.name: found for found in sets}
    for found in sets:
        _check_order(store, found.store)
    arms = [Arm(name, s.name) for s in sets for name in (REAL, OVERSAMPLED)[: 1 + config.oversample]]
    arms += [_checked(synthetic_arm(text, config.sets), draws) for text in synthetic]
    arms += _drawn(draws, by_name, attribute, out, device, tell)
    arms += [then_real(arm) for arm in arms if arm.folder is not None and config.then_real]
    if len({(folder_name(arm.of), folder_name(arm.name)) for arm in arms}) < len(arms):
        raise UsageError("expected every arm once per training set; give the --synthetic sets different names")
    runs = [
        Run(arm, ratio, seed)
        for arm in arms
        for ratio in ((0.0,) if arm.name == REAL else config.ratios)
        for seed in config.seeds
    ]
    made_with: dict[str, object] = {
        "settings": config.model_dump(mode="json", exclude=_REPEATED),
        "store": store.sha256,
    }
    progress = Progress(len(runs), config.steps, tell)
    pieces = []
    for one in runs:
        of = by_name[one.arm.of]
        values_here = values if of.store is store else _carried_over(values, store, of.store)
        depends: dict[str, object] = {**made_with, "set": of.store.sha256, "extra": fingerprint_of(one.arm)}
        if one.arm.name == OVERSAMPLED:
            depends["extra"] = [rarity, config.rare, *hash_of_table(config.rarity)]
        if config.matched and one.arm.name != REAL:
            depends["matched"] = True
        if one.arm.until < 1:
            depends["until"] = one.arm.until
        _check_finished(one.file(out), depends)
        pieces.append(Piece(one.file(out), partial(_do, one, of, values_here, config, depends, out, device, progress)))
    progress.begin(sum(piece.result.is_file() for piece in pieces))
    for piece in pieces:
        piece.result.parent.mkdir(parents=True, exist_ok=True)
    work_through(pieces, progress.finished)
    for piece in pieces:
        forget_locks(piece.result.parent)
    tested = [RunValues(r.arm.of, r.arm.name, r.ratio, r.seed, load_tensors(r.file(out))[0]) for r in runs]
    held = store.indices("holdout")
    results = {
        "version": __version__,
        "config": config.model_dump(mode="json", exclude={"rarity"}),
        "rarity": rarity,
        "attribute": attribute,
        "label_names": list(store.label_names),
        "sets": {s.name: {"subjects": s.subjects, "slices": len(s.index)} for s in sets},
        "arms": [_about(arm, by_name[arm.of]) for arm in arms],
        "test": {"subjects": len({store.rows[i].subject for i in held}), "slices": len(held)},
        **results_of(tested, config, store, values, attribute_scores(attribute, store).numpy()),
    }
    write_json_atomic(out / "results.json", results)
    write_study(out / "report.html", results)
    return results


def rarity_of(config: StudyConfig, store: SliceStore, attribute: str) -> tuple[str, npt.NDArray[np.float64]]:
    """What rare means in this study, and how rare every slice is (N,)."""
    rarity = config.rarity or f"attribute:{attribute}"
    if rarity == "minority":
        raise UsageError(
            "expected --rarity attribute:NAME or file:SCORES, found minority: write the table with `mri-minority score "
            f"MODEL --slices {store.folder} --out scores.tsv` and give file:scores.tsv"
        )
    return without_folders(rarity), external_scores(rarity, store).numpy()


def training_sets(
    config: StudyConfig, store: SliceStore, values: npt.NDArray[np.float64], out: Path
) -> list[TrainingSet]:
    """The study's training sets; those of fewer subjects are written to `out/stores`."""
    return [training_set(text, store, values, config, out / "stores") for text in dict.fromkeys(config.sets)]


def prepare(config: StudyConfig, store: SliceStore, out: Path) -> dict[str, TrainingSet]:
    """Only write the stores of the training sets, for generators to learn from."""
    _check(config, store)
    values = rarity_of(config, store, config.attribute or size_attribute(store.label_names[-1], store.label_names))[1]
    return {found.name: found for found in training_sets(config, store, values, out)}


def draws_of(config: StudyConfig, models: list[str], methods: tuple[str, ...], count: int, seed: int) -> Draws:
    """Read `MODEL` (of the only training set) or `SET=MODEL`.

    Raises:
        UsageError: The training set must be said, because there are several.
    """
    found: dict[str, ModelFolder] = {}
    for text in models:
        of, said, folder = text.rpartition("=")
        if not said and len(config.sets) > 1:
            raise UsageError(f"expected --model SET=MODEL with a set among {', '.join(config.sets)}, found {text!r}")
        found[of or config.sets[0]] = find_model(folder)
    return Draws(found, methods, count, seed)


def in_words(results: dict[str, Any]) -> list[str]:
    """The differences in Dice of the last class, a line each, and at which heights real slices alone do worst."""
    last = results["label_names"][-1]
    return [*_differences_in_words(results, last), *_weakest_in_words(results, last)]


def _weakest_in_words(results: dict[str, Any], last: str) -> list[str]:
    """Where extra slices can help, and elsewhere they cannot (docs/concepts/does-it-help.md)."""
    lines = []
    for row in results["along"]:
        if (row["arm"], row["by"], row["class"]) == (REAL, "stratum", last):
            known = sorted((d, name) for d, name in zip(row["dice"], results["strata"], strict=True) if d is not None)
            said = ", ".join(f"{name} (Dice {d:.2f})" for d, name in known[:3])
            lines.append(f"{row['set']} {REAL}, {last}: worst at {said}")
    return lines


def _differences_in_words(results: dict[str, Any], last: str) -> list[str]:
    return [
        f"{r['set']} {label_of(r)} - {r['against_set']} {r['against']}, {last}, {r['group']}: "
        f"Dice {r['difference']:+.3f} [{r['low']:+.3f}, {r['high']:+.3f}], p after Holm {r['p_holm']:.2g}"
        for r in results["differences"]
        if r["metric"] == "dice" and r["class"] == last and r["difference"] is not None
    ]


def _check(config: StudyConfig, store: SliceStore) -> None:
    if not store.label_names:
        raise DataError(f"expected a store with labels in {store.folder}: a segmenter learns from them")
    if not len(store.indices("holdout")):
        raise DataError(f"expected held-out subjects to test on in {store.folder}, found none; prepare with --holdout")
    least = 1 / config.batch
    for ratio in config.ratios:
        if round(ratio / (1 + ratio) * config.batch) in (0, config.batch):
            raise UsageError(
                f"expected a ratio that leaves real and other slices in a batch of {config.batch}, found {ratio:g}; "
                f"take one between {least:.2g} and {config.batch / 2:g}"
            )


def _drawn(
    draws: Draws,
    sets: dict[str, TrainingSet],
    attribute: str,
    out: Path,
    device: torch.device,
    tell: Callable[[Event], None],
) -> list[Arm]:
    """Draw every wanted set from every model; the sets that are there stay."""
    arms = []
    for name, model in draws.models.items():
        if name not in sets:
            raise UsageError(f"expected --model SET=MODEL with a training set among {', '.join(sets)}, found {name!r}")
        check_model(model, sets[name])
        for method in draws.methods:
            folder = out / "synthetic" / folder_name(name) / folder_name(method)
            by_attribute = method == "attribute"
            request = synthesize.Request(
                wanted="rare",
                rarity=f"attribute:{attribute}" if by_attribute else "minority",
                method="minority" if by_attribute else method,
                count=draws.count,
                heights=(0.0, 1.0),
                seed=draws.seed,
            )
            if (folder / "manifest.json").is_file():
                _check_drawn(folder, request, model)
            else:
                synthesize.run(request, model.recipe().sample, model, folder, device, tell)
            arms.append(Arm(method, name, folder, checked=knows_only(model)))
    return arms


def _check_drawn(folder: Path, request: synthesize.Request, model: ModelFolder) -> None:
    """A set that is there is used only for the same request."""
    manifest = read_manifest(folder)
    wanted = {"seed": request.seed, "slices": request.count, "model_sha256": model.fingerprint()}
    found = {**manifest, "slices": len(manifest["slices"])}
    if manifest["rarity"] is not None:  # it plays no role in samplers that ask no classifier
        wanted["rarity"] = request.rarity
    other = [key for key, value in wanted.items() if found[key] != value]
    if other:
        raise DataError(
            f"{folder} was drawn with other {', '.join(other)} than are asked for now; choose another --out, or remove "
            "that folder to draw it again"
        )


def _checked(arm: Arm, draws: Draws) -> Arm:
    """Note whether a given set was drawn by the model of its training set, where that model is at hand."""
    model = draws.models.get(arm.of)
    if model is None or arm.folder is None or not (arm.folder / "manifest.json").is_file():
        return arm
    manifest = read_manifest(arm.folder)
    by_files = any(row.get("trace", {}).get("label_from") == "file" for row in manifest["slices"])  # whose is unknown
    same = manifest.get("model_sha256") == model.fingerprint()
    return replace(arm, checked=same and knows_only(model) and not by_files)


def _do(
    one: Run,
    of: TrainingSet,
    values: npt.NDArray[np.float64],
    config: StudyConfig,
    depends: dict[str, object],
    out: Path,
    device: torch.device,
    progress: Progress,
) -> None:
    extra = extra_of(one.arm, of, values, config.rare, config.matched)
    augment_run.do(one, of, extra, config, depends, one.file(out), device, partial(progress.within, one.title()))


def _check_finished(file: Path, depends: dict[str, object]) -> None:
    """A finished run of other settings or slices must not be taken for one of this study."""
    if not file.is_file():
        return
    notes = load_tensors(file)[1]
    wanted = json.loads(json.dumps(depends))
    other = [key for key in {**wanted, "matched": None} if notes.get(key) != wanted.get(key)]
    if other:
        raise DataError(
            f"{file} is a run with other {', '.join(other)}; choose another --out, or remove that file to repeat it"
        )


def _carried_over(values: npt.NDArray[np.float64], store: SliceStore, subset: SliceStore) -> npt.NDArray[np.float64]:
    """Values of a store's slices in the order of a subset's."""
    place = {(row.sha256, row.series, row.index): value for row, value in zip(store.rows, values, strict=True)}
    return np.array([place[row.sha256, row.series, row.index] for row in subset.rows])


def _check_order(store: SliceStore, subset: SliceStore) -> None:
    """Results are judged by the store's rarity, patients and strata: held-out slices must stand in one order."""
    ours, theirs = (
        [(of.rows[i].sha256, of.rows[i].series, of.rows[i].index) for i in of.indices("holdout")]
        for of in (store, subset)
    )
    if ours != theirs:
        raise DataError(
            f"expected the held-out slices of {store.folder} in {subset.folder}, in their order; remove that folder, "
            "and it is written again"
        )


def _about(arm: Arm, of: TrainingSet) -> dict[str, Any]:
    return {
        "set": arm.of,
        "name": arm.name,
        "generator_knows_only_this_set": None if arm.folder is None else arm.checked,
    }
