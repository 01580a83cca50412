"""demo: ordinary and rare slices side by side, from the model in the box or from one trained on phantom heads."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mri_minority.export.dataset import read_manifest
from mri_minority.report.figures import contact_sheet
from mri_minority.slices.store import SliceStore
from mri_minority.volumes.phantom import write_cohort
from mri_minority_pipelines.config import load_recipe
from mri_minority_pipelines.events import Event
from mri_minority_pipelines.model_folder import EMBEDDED, ModelFolder, find_model
from mri_minority_pipelines.stages import prepare, synthesize, train

_ATTRIBUTE = "ventricles_share"
_BY_ATTRIBUTE = f"attribute:{_ATTRIBUTE}"
_VENTRICLE_HEIGHTS = (0.38, 0.70)


def run(
    out: Path, count: int, seed: int, device: torch.device, tell: Callable[[Event], None], subjects: int = 0
) -> dict[str, Any]:
    """Draw an ordinary and two rare sets of slices, and make one picture of all.

    Args:
        out: Where everything goes.
        count: Slices of each kind.
        seed: Of everything random.
        device: Where to compute.
        tell: Receives progress.
        subjects: Heads of a phantom cohort to make and train on first; 0 uses the model in the package.
    """
    rows: list[tuple[str, np.ndarray, np.ndarray]] = []
    model, heights = find_model(EMBEDDED), _VENTRICLE_HEIGHTS
    if subjects:
        store = _train_on_phantoms(out, subjects, seed, device, tell)
        index = np.linspace(0, len(store.rows) - 1, min(count, 16)).astype(int)
        rows.append(("real (phantom) slices", *store.read(index)))
        model, heights = ModelFolder(out / "model"), (0.0, 1.0)
    sets = {
        "ordinary": synthesize.Request("rare", "minority", "ancestral", count, heights, seed),
        "rare": synthesize.Request("rare", "minority", "minority", count, heights, seed),
        "rare_ventricles": synthesize.Request("rare", _BY_ATTRIBUTE, "minority", count, heights, seed),
    }
    shares = {}
    for name, request in sets.items():
        folder = out / name
        if folder.exists():
            shutil.rmtree(folder)
        synthesize.run(request, model.recipe().sample, model, folder, device, tell)
        manifest = read_manifest(folder)
        shares[name] = float(np.mean([row["attributes"][_ATTRIBUTE] for row in manifest["slices"]]))
        rows.append((f"synthetic, {name.replace('_', ' ')}", *synthesize.pictures(folder, manifest, 16)))
    picture = out / "demo.png"
    contact_sheet(picture, rows)
    sentences = [
        "mean ventricle share: " + ", ".join(f"{name.replace('_', ' ')} {value:.1%}" for name, value in shares.items()),
        f"NIfTI pairs: {out / 'rare'}, {out / 'rare_ventricles'}, {out / 'ordinary'}",
        f"look at {picture}",
    ]
    return {"picture": str(picture), "mean_ventricle_share": shares, "sentences": sentences}


def _train_on_phantoms(
    out: Path, subjects: int, seed: int, device: torch.device, tell: Callable[[Event], None]
) -> SliceStore:
    """Cohort, store and a model with two classifiers."""
    cohort, recipe = out / "cohort", load_recipe("quickstart")
    if not (cohort / "participants.tsv").is_file():
        text = f"making a cohort of {subjects} phantom heads, 5 % with enlarged ventricles"
        tell(Event("note", 0, 0, {"text": text}))
        write_cohort(cohort, subjects, seed)
    prepare.run(recipe.prepare, [cohort], out / "store", tell)
    store = SliceStore(out / "store")
    for rarity in ("minority", _BY_ATTRIBUTE):
        train.run(recipe, store, out / "model", rarity, "all", device, tell)
    return store
