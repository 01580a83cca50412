"""A synthetic data set read back, checked against its manifest and against the store it is held to."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mri_minority.core.errors import DataError
from mri_minority.export.dataset import read_manifest, verify_dataset, white_of
from mri_minority.export.exporter import synthetic_cases
from mri_minority.slices.store import SliceStore

FEWEST = 4
"""Slices below which a set cannot be judged as a set."""


@dataclass(frozen=True)
class SyntheticSet:
    """Slices in model units.

    Args:
        manifest: As it was written.
        image: float32 (N, I, H, W) in [-1, 1].
        label: uint8 (N, H, W); None if the set has none.
        stratum: (N,).
    """

    manifest: dict[str, Any]
    image: npt.NDArray[np.float32]
    label: npt.NDArray[np.uint8] | None
    stratum: npt.NDArray[np.int64]

    @property
    def names(self) -> list[str]:
        """Of the slices."""
        return [str(row["name"]) for row in self.manifest["slices"]]


def read_set(folder: Path, store: SliceStore, same_strata: bool = True) -> SyntheticSet:
    """Read a data set that is to be held against a store.

    Args:
        folder: The data set.
        store: Real slices.
        same_strata: Whether slices are to be compared stratum by stratum, so that strata must mean the same in both.

    Raises:
        DataError: It is damaged, does not match its manifest, holds NaN, or is of another shape, other channels, labels
            or strata than the store.
    """
    manifest = read_manifest(folder)
    if "files" in manifest:
        raise DataError(
            f"expected a data set that `synthesize` wrote, {folder} is an export; judge the set it came from"
        )
    problems = verify_dataset(folder)
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise DataError(f"expected files as {folder / 'manifest.json'} lists them, found: {problems[0]}{more}")
    cases = list(synthetic_cases(folder, manifest))
    size = (store.channels, *store.header["settings"]["size"])
    wrong = [case for case in cases if case.image.shape != size]
    if wrong or not cases:
        found = f"{wrong[0].image.shape} in {wrong[0].name}" if wrong else "no slices"
        raise DataError(
            f"expected slices of {size} channels and pixels as in {store.folder}, found {found}; give the model's store"
        )
    if list(store.label_names) != list(manifest["label_names"]):
        raise DataError(
            f"expected the labels of {store.folder} ({', '.join(store.label_names) or 'none'}), found "
            f"{', '.join(manifest['label_names']) or 'none'} in {folder}; give the store that the model learnt from"
        )
    said = manifest.get("channel_names", [])
    if any(a and b and a != b for a, b in zip(said, store.channel_names, strict=False)):
        raise DataError(
            f"expected the channels of {store.folder} ({', '.join(store.channel_names)}), found {', '.join(said)} in "
            f"{folder}; give the store that the model learnt from"
        )
    if same_strata:
        _check_strata(folder, manifest, store)
    white = np.stack([white_of(manifest, row) for row in manifest["slices"]])
    image: npt.NDArray[np.float32] = (np.stack([case.image for case in cases]) / (white / 2) - 1).astype(np.float32)
    broken = [case.name for case, plane in zip(cases, image, strict=True) if not np.isfinite(plane).all()]
    if broken:
        raise DataError(f"expected finite intensities, {broken[0]} in {folder} holds NaN; draw the set again")
    labels = [case.label for case in cases if case.label is not None]
    stratum = np.array([row["stratum"] for row in manifest["slices"]], dtype=np.int64)
    return SyntheticSet(manifest, image, np.stack(labels) if len(labels) == len(cases) else None, stratum)


def _check_strata(folder: Path, manifest: dict[str, Any], store: SliceStore) -> None:
    """A stratum is a number in the model; in another store the same number may be another height, or another site.

    Manifests that other programs wrote need not say what their numbers mean.
    """
    names = dict(enumerate(store.strata_names))
    for row in manifest["slices"]:
        said = row.get("trace", {}).get("stratum_name")
        if said is not None and names.get(row["stratum"]) != said:
            raise DataError(
                f"expected the strata of {store.folder}, found {said!r} for {row['name']} in {folder}, which is not "
                f"that store's stratum {row['stratum']} ({names.get(row['stratum'], 'it has none')!r}); give the store "
                "that the model learnt from"
            )
