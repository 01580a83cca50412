"""What a set of slices is worth: how rare its anatomy is, how close to real, how sparsely real slices lie around it."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from mri_minority.core.errors import DataError
from mri_minority.evaluate.attributes import measure
from mri_minority.evaluate.density import average_knn, local_outlier_factor
from mri_minority.evaluate.fidelity import Features, kid, precision_recall
from mri_minority.slices.store import SliceStore
from mri_minority_pipelines.perceptual import is_installed, shift_tolerant_lpips
from mri_minority_pipelines.rarity import pixel_area_mm2

_K = 3
_NEIGHBOURS = 5
_MOST_REAL = 600


@dataclass(frozen=True)
class SliceSet:
    """Slices to be judged.

    Args:
        image: float32 (N, I, H, W) in [-1, 1].
        label: uint8 (N, H, W).
        stratum: (N,).
    """

    image: npt.NDArray[np.float32]
    label: npt.NDArray[np.uint8]
    stratum: npt.NDArray[np.int64]


@dataclass(frozen=True)
class Judge:
    """The real slices that sets are held against.

    Args:
        attribute: What is measured on label maps.
        label_names: Names of classes 1, 2, ...
        pixel_mm2: Area of a pixel.
        p95: Real 95th percentile of the attribute in every stratum that has training slices.
        features: Image (N, I, H, W) -> features (N, F) on the scale of the real ones.
        real: Features of real training slices (M, F).
        space: Which features they are.
    """

    attribute: str
    label_names: tuple[str, ...]
    pixel_mm2: float
    p95: dict[int, float]
    features: Callable[[npt.NDArray[np.float32]], Features]
    real: Features
    space: str

    def of(self, slices: SliceSet) -> dict[str, float | int | None]:
        """The figures of a set; None where it is too small for one.

        Returns:
            `slices`; `attribute_rate`, the share beyond the real 95th percentile of its stratum (5 % of real training
            slices by definition); `kid_x1000`, `precision`, `recall`; `avg_knn` and `lof`, means over the set.
        """
        values = measure(self.attribute, slices.label, self.label_names, self.pixel_mm2)
        limit = np.array([self.p95[int(t)] for t in slices.stratum])
        found = self.features(slices.image)
        both = precision_recall(self.real, found, _K) if min(len(self.real), len(found)) > _K else (None, None)
        return {
            "slices": len(slices.image),
            "attribute_rate": float((values > limit).mean()),
            "kid_x1000": 1000 * kid(self.real, found) if min(len(self.real), len(found)) > 1 else None,
            "precision": both[0],
            "recall": both[1],
            "avg_knn": float(average_knn(self.real, found, _NEIGHBOURS).mean()),
            "lof": float(local_outlier_factor(self.real, found).mean()),
        }


def build_judge(store: SliceStore, attribute: str, strata: npt.NDArray[np.int64], seed: int) -> Judge:
    """Prepare the comparison with a store's training slices.

    Features are the pooled activations of ST-LPIPS when its weights are installed, else the image in blocks of 8 x 8
    pixels, which sees coarse anatomy only; `space` says which.

    Args:
        store: The slices the model was trained on.
        attribute: What is measured.
        strata: Strata that the sets come from.
        seed: Chooses at most 600 real slices.

    Raises:
        UsageError: There is no such attribute.
        DataError: Too few training slices.
    """
    all_strata = store.strata()
    train = np.array([i for i in store.indices("train") if all_strata[i] in strata], dtype=np.int64)
    if len(train) < _NEIGHBOURS:
        raise DataError(f"expected {_NEIGHBOURS} or more training slices to compare with, found {len(train)}")
    pixel_mm2, p95 = pixel_area_mm2(store), {}
    for t in np.unique(all_strata[train]):
        _, label = store.read(train[all_strata[train] == t])
        p95[int(t)] = float(np.quantile(measure(attribute, label, store.label_names, pixel_mm2), 0.95))
    chosen = np.sort(np.random.default_rng(seed).permutation(train)[:_MOST_REAL])
    raw, space = (perceptual(), "st-lpips") if is_installed() else (_blocks, "blocks of 8 x 8 pixels")
    real = raw(store.read(chosen)[0])
    # One scale for all: dividing each feature by its own spread would blow up those that hardly vary.
    centre, spread = real.mean(axis=0), max(float(real.std()), 1e-12)
    return Judge(
        attribute,
        store.label_names,
        pixel_mm2,
        p95,
        lambda image: (raw(image) - centre) / spread,
        (real - centre) / spread,
        space,
    )


def by_channel(
    features: Callable[[npt.NDArray[np.float32]], Features],
) -> Callable[[npt.NDArray[np.float32]], Features]:
    """Features of grey pictures (N, H, W) for slices (N, I, H, W): those of all channels, one after another."""

    def joined(image: npt.NDArray[np.float32]) -> Features:
        return np.concatenate([features(image[:, channel]) for channel in range(image.shape[1])], axis=1)

    return joined


def _blocks(image: npt.NDArray[np.float32]) -> Features:
    pooled = functional.avg_pool2d(torch.as_tensor(image).double(), 8)
    return pooled.flatten(1).numpy()


def perceptual() -> Callable[[npt.NDArray[np.float32]], Features]:
    """Pooled activations of ST-LPIPS: images (N, I, H, W) -> (N, F)."""
    lpips = shift_tolerant_lpips()

    @torch.no_grad()
    def features(image: npt.NDArray[np.float32]) -> Features:
        parts = [lpips.pooled(torch.as_tensor(image[s : s + 16])[:, None]) for s in range(0, len(image), 16)]
        return torch.cat(parts).double().numpy()

    return by_channel(features)
