"""How right slices are, by how rare they are: rarity without precision says nothing, and neither does its mean."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from mri_minority.evaluate.attributes import measure, size_attributes
from mri_minority.evaluate.fidelity import Features, inside
from mri_minority.evaluate.texture import handcrafted
from mri_minority.slices.store import SliceStore
from mri_minority_pipelines.measures import by_channel
from mri_minority_pipelines.rarity import pixel_area_mm2
from mri_minority_pipelines.synthetic import SyntheticSet

_EDGES = (0.5, 0.8, 0.95)
BINS = ("0 to 50", "50 to 80", "80 to 95", "over 95")
_K = 5


def scale_of(real: Features) -> Callable[[Features], Features]:
    """Features less the mean of real ones, each divided by its spread among them."""
    centre, spread = real.mean(axis=0), np.maximum(real.std(axis=0), 1e-6 + 0.05 * real.std())
    return lambda rows: (rows - centre) / spread


def precision_by_rarity(
    attributes: dict[str, Any],
    store: SliceStore,
    slices: SyntheticSet,
    train: npt.NDArray[np.int64],
    held: npt.NDArray[np.int64],
) -> dict[str, Any] | None:
    """Share of slices inside the real manifold, per bin of where an attribute lies among training slices.

    The attribute is the size of a label that lies beyond the real 95th percentile most often. Rarity comes from label
    maps and precision from images, so one does not follow from the other.

    Args:
        attributes: As in metrics.json.
        store: The real slices.
        slices: The set, with labels.
        train: Training slices that span the manifold.
        held: Held-out slices.

    Returns:
        `attribute`, `features`, `bins`, and for each set `precision` (None in empty bins) and `slices` per bin; None if
        there are too few training slices or no label.
    """
    sizes = {name: attributes[name]["beyond_real_p95"] for name in size_attributes(attributes)}
    if not sizes or len(train) <= _K:
        return None
    attribute = max(sizes, key=lambda name: float(sizes[name]))
    names, mm2, strata = store.label_names, pixel_area_mm2(store), store.strata()
    everyone = store.indices("train")
    features = by_channel(handcrafted)
    real = features(store.read(train)[0])
    scale = scale_of(real)
    held_image, held_label = (
        store.read(held) if len(held) else (slices.image[:0], np.zeros_like(slices.image[:0], "u1"))
    )
    assert slices.label is not None
    sets = {"synthetic": (slices.image, slices.label, slices.stratum)}
    sets["held-out real"] = (held_image, held_label, strata[held])
    known: dict[int, npt.NDArray[np.float64]] = {}
    for t in np.unique(np.concatenate([stratum for _, _, stratum in sets.values()])):
        here = everyone[strata[everyone] == t]
        if len(here):
            known[int(t)] = np.quantile(measure(attribute, store.read(here)[1], names, mm2), _EDGES)
    precision: dict[str, list[float | None]] = {}
    counts: dict[str, list[int]] = {}
    for which, (image, label, stratum) in sets.items():
        value = measure(attribute, label, names, mm2)
        place = np.array(
            [np.searchsorted(known[int(t)], v) if int(t) in known else -1 for v, t in zip(value, stratum, strict=True)]
        )
        right = inside(scale(real), scale(features(image)), _K) if len(image) else np.zeros(0, bool)
        rows = [right[place == b] for b in range(len(BINS))]
        precision[which] = [round(float(row.mean()), 4) if len(row) else None for row in rows]
        counts[which] = [len(row) for row in rows]
    return {
        "attribute": attribute,
        "features": "handcrafted",
        "bins": list(BINS),
        "precision": precision,
        "slices": counts,
    }
