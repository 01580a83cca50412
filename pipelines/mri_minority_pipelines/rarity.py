"""What "rare" means: one number per slice, whatever its source. Levels and classifier do not care which."""

import csv
import hashlib
import re
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from mri_minority.core.errors import DataError, UsageError
from mri_minority.evaluate.attributes import attribute_names, measure
from mri_minority.slices.store import SliceStore
from mri_minority.volumes.atomic import sha256_of

_BLOCK = 1024


def slug(rarity: str) -> str:
    """File-name form of a rarity: its classifier's name in the model folder."""
    kind, _, rest = rarity.partition(":")
    if kind == "file":
        rest = Path(rest).stem
    name = f"{kind}-{rest}" if rest else kind
    # Letters of other scripts all become the same dash: the hash tells their names apart.
    end = "" if name.isascii() else f"-{hashlib.sha256(name.encode('utf-8', 'backslashreplace')).hexdigest()[:8]}"
    return re.sub(r"[^A-Za-z0-9_]+", "-", name) + end


def without_folders(rarity: str) -> str:
    """What is written down of a rarity: a table's folders may name people or places, so only its file name stays."""
    kind, _, rest = rarity.partition(":")
    return f"file:{Path(rest).name}" if kind == "file" else rarity


def hash_of_table(rarity: str | None) -> list[str]:
    """SHA-256 of a lab's table, which may be written again under its name; of other rarities nothing."""
    kind, _, rest = (rarity or "").partition(":")
    return [sha256_of(Path(rest))] if kind == "file" else []


def external_scores(rarity: str, store: SliceStore) -> torch.Tensor:
    """Scores of all slices for a rarity that needs no denoiser.

    Args:
        rarity: `attribute:NAME` or `file:PATH`, a TSV with columns `row` (position in the store) and `score`.
        store: The slices.

    Returns:
        float64 (N,).

    Raises:
        UsageError: An unknown rarity or attribute.
        DataError: The file is missing or does not cover the store.
    """
    kind, _, rest = rarity.partition(":")
    if kind == "attribute" and rest:
        return attribute_scores(rest, store)
    if kind == "file" and rest:
        return _from_file(Path(rest), len(store.rows))
    raise UsageError(f"expected minority, attribute:NAME or file:TSV, found {rarity!r}")


def attribute_scores(name: str, store: SliceStore) -> torch.Tensor:
    """An attribute of every slice in the store, measured on its label map; float64 (N,)."""
    pixel_mm2 = pixel_area_mm2(store)
    values = []
    for start in range(0, len(store.rows), _BLOCK):
        _, label = store.read(np.arange(start, min(start + _BLOCK, len(store.rows))))
        values.append(measure(name, label, store.label_names, pixel_mm2))
    return torch.as_tensor(np.concatenate(values))


def real_attributes(store: SliceStore) -> dict[str, list[list[float]]]:
    """Mean and 95th percentile of every attribute of the training slices, stratum by stratum."""
    train, strata, pixel_mm2 = store.indices("train"), store.strata(), pixel_area_mm2(store)
    names = attribute_names(store.label_names)
    values: dict[str, list[npt.NDArray[np.float64]]] = {name: [] for name in names}
    for start in range(0, len(train), _BLOCK):
        _, label = store.read(train[start : start + _BLOCK])
        for name in names:
            values[name].append(measure(name, label, store.label_names, pixel_mm2))
    of_stratum = [strata[train] == t for t in range(len(store.strata_names))]
    table = {}
    for name in names:
        every = np.concatenate(values[name])
        rows = [every[chosen] for chosen in of_stratum]
        table[name] = [[round(float(r.mean()), 6), round(float(np.quantile(r, 0.95)), 6)] for r in rows]
    return table


def pixel_area_mm2(store: SliceStore) -> float:
    """Area of a pixel, from the first slice's affine (one store has one spacing unless an axis was kept)."""
    affine = np.array(store.rows[0].affine).reshape(4, 4)
    return float(np.linalg.norm(np.cross(affine[:3, 0], affine[:3, 1])))


def _from_file(path: Path, count: int) -> torch.Tensor:
    if not path.is_file():
        raise DataError(f"expected a table of scores at {path}, found none")
    scores = torch.full((count,), float("nan"), dtype=torch.float64)
    with path.open(encoding="utf-8", newline="") as table:
        for entry in csv.DictReader(table, delimiter="\t"):
            try:
                scores[int(entry["row"])] = float(entry["score"])
            except (KeyError, ValueError, IndexError) as error:
                raise DataError(
                    f"expected columns row and score for rows 0 to {count - 1} in {path}: {error}"
                ) from error
    missing = int(torch.isnan(scores).sum())
    if missing:
        raise DataError(f"expected a score for each of {count} slices in {path}, {missing} are missing or NaN")
    return scores
