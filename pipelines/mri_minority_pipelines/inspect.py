"""What a folder is, and what a machine has, in one screen."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mri_minority import __version__
from mri_minority.core.errors import DataError
from mri_minority.export.dataset import read_manifest
from mri_minority.slices.store import SliceStore
from mri_minority.training.precision import bfloat16_pays
from mri_minority_pipelines.model_folder import ModelFolder, channel_names, find_model


def describe(path: Path) -> dict[str, Any]:
    """Facts about a store, a model folder or a synthetic data set.

    Raises:
        DataError: It is none of them.
    """
    path = find_model(path).path
    if (path / "store.json").is_file():
        store = SliceStore(path)
        counts = np.bincount(store.strata(), minlength=len(store.strata_names)).tolist()
        return {
            "kind": "slice store",
            "slices": len(store.rows),
            "subjects": len({row.subject for row in store.rows}),
            "held-out subjects": len({row.subject for row in store.rows if row.split == "holdout"}),
            "image channels": " + ".join(name or "unnamed" for name in store.channel_names),
            "labels": ", ".join(store.label_names) or "none",
            "size": " x ".join(map(str, store.header["settings"]["size"])),
            "geometry": _geometry(store),
            "strata": ", ".join(f"{n} ({c})" for n, c in zip(store.strata_names, counts, strict=True)),
            "refused files": store.header["quarantined"],
        }
    if (path / "model.json").is_file():
        card = ModelFolder(path).card()
        return {
            "kind": "model",
            "recipe": card["recipe"]["name"],
            "training subjects": card["train_subjects"],
            **({"began with": card["begun_from"]["recipe"]} if card.get("begun_from") else {}),
            "image channels": " + ".join(name or "unnamed" for name in channel_names(card)),
            "labels": ", ".join(card["label_names"]) or "none",
            "strata": ", ".join(card["strata"]["names"]),
            "classifiers": ", ".join(f"{e['rarity']} ({e['levels']} levels)" for e in card["classifiers"].values()),
            "written by": card["version"],
        }
    if (path / "manifest.json").is_file():
        manifest = read_manifest(path)
        said = {key: manifest[key] for key in ("method", "rarity", "wanted", "seed", "audit", "version")}
        layout = manifest.get("export", "nifti")
        kind = "data set derived from people" if manifest.get("derived") else "synthetic data set"
        return {"kind": kind, "layout": layout, "slices": len(manifest["slices"]), **said}
    raise DataError(f"expected a slice store, a model folder or a synthetic data set, {path} is none of them")


def _geometry(store: SliceStore) -> str:
    """Plane and spacing of the slices, as they lie in the store."""
    affine = np.array([row.affine for row in store.rows]).reshape(-1, 4, 4)
    spacing_mm = np.linalg.norm(affine[:, :3, :3], axis=1)
    low, high = spacing_mm.min(axis=0), spacing_mm.max(axis=0)
    sides = [f"{a:.4g}" if b - a < 1e-3 else f"{a:.4g} to {b:.4g}" for a, b in zip(low, high, strict=True)]
    return f"{store.header['settings']['plane']}, pixels of {sides[0]} x {sides[1]} mm, slices {sides[2]} mm apart"


def _optional() -> str:
    """Which parts that not everybody needs are here."""
    found = []
    for name, purpose in (("highdicom", "--to dicom"), ("pylibjpeg-openjpeg", "JPEG 2000 in DICOM")):
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            found.append(f"no {name} ({purpose})")
    return ", ".join(found)


def machine() -> dict[str, Any]:
    """Versions, device, memory, and whether bfloat16 pays here."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1024**3
    return {
        "mri-minority": __version__,
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "monai", "nibabel", "pydicom", "zarr", "numpy")},
        "optional parts": _optional(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "memory": f"{memory:.0f} GiB",
        "bfloat16 pays": bfloat16_pays(device),
    }
