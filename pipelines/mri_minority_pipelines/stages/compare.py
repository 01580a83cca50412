"""compare: every sampler on one model, same seeds, one table and one picture."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mri_minority import __version__
from mri_minority.core.errors import DataError, UsageError
from mri_minority.diffusion.solvers import SOLVERS
from mri_minority.evaluate.attributes import attribute_names, size_attribute
from mri_minority.export.dataset import read_manifest
from mri_minority.report.figures import contact_sheet
from mri_minority.slices.store import SliceStore
from mri_minority.training.precision import wants_bfloat16
from mri_minority.volumes.atomic import write_json_atomic, write_text_atomic
from mri_minority_pipelines import rarity as rarities
from mri_minority_pipelines.config import SampleConfig
from mri_minority_pipelines.events import Event
from mri_minority_pipelines.measures import Judge, SliceSet, build_judge
from mri_minority_pipelines.model_folder import ModelFolder
from mri_minority_pipelines.samplers import METHODS, build_sampler, low_density_file, parse_method
from mri_minority_pipelines.stages import synthesize
from mri_minority_pipelines.stages.audit import Auditor
from mri_minority_pipelines.stages.audit_set import auditor_at_hand

DEFAULT = (*METHODS, "minority+boost-and-skip")
_SHOWN = 16
_COLUMNS = (
    "sampler",
    "slices",
    "attribute_rate",
    "kid_x1000",
    "precision",
    "recall",
    "avg_knn",
    "lof",
    "copies",
    "denoiser_calls",
    "guidance_calls",
    "seconds_per_slice",
)


@dataclass(frozen=True)
class Comparison:
    """What is compared.

    Args:
        methods: Samplers, see :func:`mri_minority_pipelines.samplers.parse_method`; empty for all that the model can.
        wanted: The wanted class of guided ones.
        rarity: Which classifier guides.
        attribute: What is measured on the label maps; empty takes the rarity's own attribute, or the share of the
            model's last label.
        count: Slices of each.
        heights: Only strata whose middle lies between these.
        seed: The same for all, so that slice i has the same stratum and noise under every sampler.
    """

    methods: tuple[str, ...]
    wanted: str
    rarity: str
    attribute: str
    count: int
    heights: tuple[float, float]
    seed: int


def run(
    asked: Comparison,
    config: SampleConfig,
    model: ModelFolder,
    store: SliceStore,
    out: Path,
    device: torch.device,
    tell: Callable[[Event], None],
    workers: int = 1,
) -> dict[str, Any]:
    """Draw with every sampler, judge every set, write `compare.tsv`, `.json`, `.md` and `.png`.

    Interrupting is safe: samplers that are finished stay, the one in progress goes on.

    Returns:
        Rows of the table, the notes below it, and where it is.

    Raises:
        UsageError: An unknown method, class, rarity or attribute.
        DataError: The store is not the model's, or `out` holds another comparison.
    """
    card = model.card()
    if not store.is_known_as(card["store_sha256"]):
        raise DataError(f"expected the slices that {model.path} was trained on, {store.folder} holds others")
    attribute = _attribute(asked, card)
    methods, notes = _methods(asked, config, model, card)
    if attribute not in attribute_names(card["label_names"]):
        raise UsageError(
            f"expected an attribute among {', '.join(attribute_names(card['label_names']))}, found {attribute!r}"
        )
    for method in methods:  # what is missing must be missed before the first is drawn
        build_sampler(method, asked.wanted, asked.rarity, config, model, device)
    header = {
        "version": __version__,
        "model_sha256": model.fingerprint(),
        "rarity": rarities.without_folders(asked.rarity),
        **{name: getattr(asked, name) for name in ("wanted", "count", "heights", "seed")},
        "sample": config.model_dump(mode="json"),
    }
    costs, fast = _begin(out, header, config, device)
    same = config.model_copy(update={"precision": "bfloat16" if fast else "float32"})
    for number, method in enumerate(methods):
        tell(Event("compare", number, len(methods), {"sampler": method}))
        folder = out / _folder(method)
        if method in costs and (folder / "manifest.json").is_file():
            continue
        if folder.exists():  # drawn, but stopped before its cost was noted
            shutil.rmtree(folder)
        request = synthesize.Request(asked.wanted, asked.rarity, method, asked.count, asked.heights, asked.seed)
        made = synthesize.run(request, same, model, folder, device, tell, workers, audit=False)
        costs[method] = _cost(made)
        write_json_atomic(out / "costs.json", {"bfloat16": fast, "header": header, "costs": costs})
    tell(Event("compare", len(methods), len(methods), {}))
    sets = {method: _drawn(out / _folder(method)) for method in methods}
    strata = np.unique(np.concatenate([found.stratum for found in sets.values()]))
    judge = build_judge(store, attribute, strata, asked.seed)
    held_out = _held_out(store, strata, asked)
    if held_out is not None:
        sets = {"real, held out": held_out, **sets}
    auditor = auditor_at_hand(store, model)
    rows = [
        {"sampler": name, **judge.of(found), "copies": _copies(auditor, found), **costs.get(name, {})}
        for name, found in sets.items()
    ]
    notes += _notes(judge, asked, config, auditor)
    _write(out, rows, notes, {**header, "attribute": attribute, "features": judge.space})
    shown = [(name, found.image[:_SHOWN], found.label[:_SHOWN]) for name, found in sets.items()]
    contact_sheet(out / "compare.png", shown)
    return {"out": str(out), "rows": rows, "notes": notes, "picture": str(out / "compare.png")}


def _attribute(asked: Comparison, card: dict[str, Any]) -> str:
    if not card["label_names"]:
        raise UsageError("compare measures label maps, and this model has no labels")
    kind, _, rest = asked.rarity.partition(":")
    last = size_attribute(card["label_names"][-1], card["label_names"])
    return asked.attribute or (rest if kind == "attribute" else last)


def _methods(
    asked: Comparison, config: SampleConfig, model: ModelFolder, card: dict[str, Any]
) -> tuple[list[str], list[str]]:
    """Samplers to run; of the default list those that this model and solver can, with a note on the others."""
    if asked.methods:
        chosen = ["+".join(parse_method(text)) for text in asked.methods]
        if len(set(chosen)) < len(chosen):
            raise UsageError(f"expected each sampler once, found {', '.join(asked.methods)}")
        return chosen, []
    notes, methods = [], list(DEFAULT)
    if not (model.path / low_density_file(model, asked.rarity)).is_file():
        methods.remove("low-density")
        notes.append(
            "low-density was left out: it needs `mri-minority discriminator`, which was not run for this model"
        )
    if SOLVERS[config.solver].order:
        methods = [method for method in methods if "boost-and-skip" not in method]
        notes.append(f"boost-and-skip was left out: it needs a stochastic solver, not {config.solver}")
    return methods, notes


def _begin(
    out: Path, header: dict[str, Any], config: SampleConfig, device: torch.device
) -> tuple[dict[str, Any], bool]:
    """Costs of the samplers that are finished, and the arithmetic all of them share."""
    file = out / "costs.json"
    wanted = json.loads(json.dumps(header))
    if file.is_file():
        said = json.loads(file.read_text(encoding="utf-8"))
        if said["header"] != wanted:
            raise DataError(
                f"{out} holds another comparison (other model, seed, count or settings); choose another --out"
            )
        return dict(said["costs"]), bool(said["bfloat16"])
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(f"expected an empty or new folder for the comparison, {out} holds something")
    out.mkdir(parents=True, exist_ok=True)
    fast = wants_bfloat16(config.precision, device)
    write_json_atomic(file, {"bfloat16": fast, "header": wanted, "costs": {}})
    return {}, fast


def _cost(made: dict[str, Any]) -> dict[str, float | int]:
    """Cost per slice."""
    return {
        "denoiser_calls": made["denoiser_calls"],
        "guidance_calls": made["guidance_calls"],
        "seconds_per_slice": round(made["seconds"] / made["slices"], 4),
    }


def _drawn(folder: Path) -> SliceSet:
    manifest = read_manifest(folder)
    image, label = synthesize.pictures(folder, manifest, len(manifest["slices"]))
    return SliceSet(image, label, np.array([row["stratum"] for row in manifest["slices"]], dtype=np.int64))


def _held_out(store: SliceStore, strata: np.ndarray, asked: Comparison) -> SliceSet | None:
    """As many held-out slices as were drawn, from the same strata; None without any."""
    all_strata = store.strata()
    index = np.array([i for i in store.indices("holdout") if all_strata[i] in strata], dtype=np.int64)
    if not len(index):
        return None
    index = np.sort(np.random.default_rng(asked.seed).permutation(index)[: asked.count])
    return SliceSet(*store.read(index), all_strata[index])


def _copies(auditor: Auditor | None, slices: SliceSet) -> float | None:
    """Share that the audit takes for copies of training slices."""
    if auditor is None:
        return None
    return float(np.mean([verdict["verdict"] == "reject" for verdict in auditor.judge(slices.image)]))


def _notes(judge: Judge, asked: Comparison, config: SampleConfig, auditor: Auditor | None) -> list[str]:
    return [
        f"attribute_rate: share of slices with {judge.attribute} beyond the real 95th percentile of their stratum",
        f"kid_x1000, precision, recall, avg_knn and lof against real training slices, features: {judge.space}",
        f"solver {config.solver}, {config.steps} steps, guidance {config.guidance:g}, class {asked.wanted}, "
        f"rarity {rarities.without_folders(asked.rarity)}, seed {asked.seed}",
        "copies: share that the audit rejects; in the row of real slices of other people these are false alarms"
        if auditor
        else "copies were not looked for: `mri-minority audit` with one of these folders makes what is needed",
    ]


def _write(out: Path, rows: list[dict[str, Any]], notes: list[str], header: dict[str, Any]) -> None:
    cells = [[_cell(row.get(name)) for name in _COLUMNS] for row in rows]
    write_text_atomic(out / "compare.tsv", "".join("\t".join(line) + "\n" for line in [list(_COLUMNS), *cells]))
    write_json_atomic(out / "compare.json", {**header, "rows": rows, "notes": notes})
    lines = [f"| {' | '.join(line)} |" for line in [list(_COLUMNS), ["---"] * len(_COLUMNS), *cells]]
    write_text_atomic(out / "compare.md", "\n".join([*lines, "", *(f"- {note}" for note in notes)]) + "\n")


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _folder(method: str) -> str:
    return method.replace("+", "-with-")
