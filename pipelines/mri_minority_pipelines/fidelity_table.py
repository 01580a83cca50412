"""The measures of a set of slices against real ones, with their intervals over subjects."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from mri_minority.core.errors import DataError
from mri_minority.evaluate.density import average_knn, local_outlier_factor, rarity_score
from mri_minority.evaluate.fidelity import Features, density_coverage, fid, kid, precision_recall
from mri_minority.evaluate.halves import half_intervals
from mri_minority.evaluate.texture import handcrafted, random_pairs, similarities
from mri_minority.slices.store import SliceStore
from mri_minority_pipelines.events import Event
from mri_minority_pipelines.measures import by_channel, perceptual
from mri_minority_pipelines.perceptual import is_installed
from mri_minority_pipelines.precision_by_rarity import scale_of
from mri_minority_pipelines.synthetic import SyntheticSet

NEIGHBOURS = 5
_PAIRS = 200
_SHARES = {"precision", "recall", "coverage", "rarity_undefined", "beyond_real_p95"}


def fidelity_table(
    store: SliceStore,
    slices: SyntheticSet,
    train: npt.NDArray[np.int64],
    held: npt.NDArray[np.int64],
    seed: int,
    tell: Callable[[Event], None],
) -> dict[str, Any]:
    """Per feature space, the measures of the set, and of held-out real slices beside it."""
    spaces: dict[str, Callable[[npt.NDArray[np.float32]], Features]] = {"handcrafted": by_channel(handcrafted)}
    if is_installed():
        spaces["st-lpips"] = perceptual()
    result: dict[str, Any] = {}
    for number, (name, features) in enumerate(spaces.items()):
        tell(Event("features", number, len(spaces), {"space": name}))
        real = features(store.read(train)[0])
        scale, groups = scale_of(real), subjects_of(store, train)
        drawn, own = scale(features(slices.image)), each_its_own(len(slices.image))
        result[name] = {"synthetic": _figures(scale(real), drawn, (groups, own), seed)}
        if len(held) > NEIGHBOURS:
            other = scale(features(store.read(held)[0]))
            result[name]["held-out real"] = _figures(scale(real), other, (groups, subjects_of(store, held)), seed)
    return result


def _figures(real: Features, rows: Features, subjects: tuple[list[str], list[str]], seed: int) -> dict[str, Any]:
    broken = int((~np.isfinite(rows).all(axis=1)).sum())
    if broken:
        raise DataError(f"expected finite features, found NaN in {broken} of {len(rows)} slices; draw the set again")

    def of(index: tuple[npt.NDArray[np.int64], ...]) -> dict[str, float]:
        return _measured(real[index[0]], rows[index[1]])

    found = {name: None if np.isnan(value) else round(value, 5) for name, value in _measured(real, rows).items()}
    return {"n": len(rows), **found, "interval_95": rounded(half_intervals(subjects, of, seed))}


def _measured(real: Features, rows: Features) -> dict[str, float]:
    k = min(NEIGHBOURS, len(rows) - 1, len(real) - 1)
    precision, recall = precision_recall(real, rows, k)
    density, coverage = density_coverage(real, rows, k)
    score = rarity_score(real, rows, k)
    undefined = np.isnan(score)
    return {
        "kid": kid(real, rows),
        "fid": fid(real, rows),
        "precision": precision,
        "recall": recall,
        "density": density,
        "coverage": coverage,
        "avg_knn": float(average_knn(real, rows, k).mean()),
        "lof": float(local_outlier_factor(real, rows).mean()),
        "rarity_score": np.nan if undefined.all() else float(score[~undefined].mean()),
        "rarity_undefined": float(undefined.mean()),
    }


def subjects_of(store: SliceStore, index: npt.NDArray[np.int64]) -> list[str]:
    """Subject of every slice, for :func:`mri_minority.evaluate.halves.half_intervals`."""
    return [store.rows[i].subject for i in index]


def each_its_own(count: int) -> list[str]:
    """Synthetic slices are independent of one another."""
    return [str(i) for i in range(count)]


def similarity(image: npt.NDArray[np.float32], subjects: list[str], seed: int) -> dict[str, Any]:
    """Mean over random pairs of slices, and over the channels of images (N, I, H, W), with its interval."""
    pairs = random_pairs(len(image), _PAIRS, seed)
    found = np.mean([similarities(image[:, c], pairs) for c in range(image.shape[1])], axis=0)

    def of(index: tuple[npt.NDArray[np.int64], ...]) -> dict[str, float]:
        inside = found[np.isin(pairs, index[0]).all(axis=1)]  # a quarter of the pairs: the interval is on the wide side
        return {"mean": float(inside.mean()) if len(inside) else np.nan}

    return {"mean": round(float(found.mean()), 4), "interval_95": rounded(half_intervals((subjects,), of, seed))}


def rounded(intervals: dict[str, tuple[float, float]]) -> dict[str, list[float]]:
    """For JSON; a share ends at 0 and 1."""
    ends = {name: (0.0, 1.0) if name in _SHARES else (-np.inf, np.inf) for name in intervals}
    return {
        name: [round(float(np.clip(end, *ends[name])), 5) for end in interval] for name, interval in intervals.items()
    }
