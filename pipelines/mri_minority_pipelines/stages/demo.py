"""demo: the whole way on the phantom cohort."""

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
from mri_minority_pipelines import rarity as rarities
from mri_minority_pipelines.config import load_recipe
from mri_minority_pipelines.events import Event
from mri_minority_pipelines.model_folder import ModelFolder
from mri_minority_pipelines.stages import prepare, synthesize, train

_ATTRIBUTE = "ventricles_share"


def run(
    out: Path, subjects: int, count: int, seed: int, device: torch.device, tell: Callable[[Event], None]
) -> dict[str, Any]:
    """Cohort, store, model, an ordinary and two rare sets of slices, and one picture of all."""
    cohort, model = out / "cohort", ModelFolder(out / "model")
    recipe = load_recipe("quickstart")
    if not (cohort / "participants.tsv").is_file():
        tell(
            Event("note", 0, 0, {"text": f"making a cohort of {subjects} phantom heads, 5 % with enlarged ventricles"})
        )
        write_cohort(cohort, subjects, seed)
    prepare.run(recipe.prepare, [cohort], out / "store", tell)
    store = SliceStore(out / "store")
    by_attribute = f"attribute:{_ATTRIBUTE}"
    for rarity in ("minority", by_attribute):
        train.run(recipe, store, model.path, rarity, "all", device, tell)
    sets = {
        "ordinary": synthesize.Request("rare", "minority", "ancestral", count, (0.0, 1.0), seed),
        "rare": synthesize.Request("rare", "minority", "minority", count, (0.0, 1.0), seed),
        "rare_ventricles": synthesize.Request("rare", by_attribute, "minority", count, (0.0, 1.0), seed),
    }
    rows, shares = [_real_row(store, count)], {}
    real = rarities.attribute_scores(_ATTRIBUTE, store).numpy()
    shares["real"] = float(real.mean())
    for name, request in sets.items():
        folder = out / name
        if folder.exists():
            shutil.rmtree(folder)
        synthesize.run(request, recipe.sample, model, folder, device, tell)
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


def _real_row(store: SliceStore, count: int) -> tuple[str, np.ndarray, np.ndarray]:
    index = np.linspace(0, len(store.rows) - 1, min(count, 16)).astype(int)
    return ("real (phantom) slices", *store.read(index))
