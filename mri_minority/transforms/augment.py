"""Changes of training slices after nnU-Net's, from MONAI's transforms: space for both, intensity for the image."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from monai.data import get_track_meta, set_track_meta
from monai.transforms import (
    Compose,
    RandAdjustContrastd,
    RandAffined,
    RandFlipd,
    RandGaussianNoised,
    RandGaussianSmoothd,
    RandScaleIntensityd,
    RandSimulateLowResolutiond,
    RandZoomd,
)
from torch import Tensor, stack

from mri_minority.core.rng import generator_for

_BOTH, _IMAGE = ["image", "label"], ["image"]


class SegmentationAugment:
    """Augment a batch; the changes of slice i of step n depend on (seed, n, i) alone.

    Probabilities and ranges are those of nnU-Net v2's `nnUNetTrainer` for 2-D data, with two differences: rotations go
    to 15 and not 180 degrees (all heads are upright, in the test too), and only left and right are mirrored.

    Args:
        flip: Mirror half of the slices left to right. Only for labels that mean the same on both sides.
        seed: Of the changes.

    Reference:
        Isensee et al. 2021, nnU-Net, Supplementary Note 2.4.
    """

    def __init__(self, flip: bool, seed: int) -> None:
        """Build the transforms."""
        self.seed = seed
        turn = np.deg2rad(15.0)
        self._transforms = Compose(
            [
                *([RandFlipd(_BOTH, prob=0.5, spatial_axis=0)] if flip else []),
                RandAffined(
                    _BOTH,
                    prob=0.2,
                    rotate_range=turn,
                    mode=["bilinear", "nearest"],
                    padding_mode="border",
                    cache_grid=False,
                ),
                RandZoomd(
                    _BOTH, prob=0.2, min_zoom=0.7, max_zoom=1.4, mode=["bilinear", "nearest"], padding_mode="edge"
                ),
                RandGaussianNoised(_IMAGE, prob=0.1, mean=0.0, std=0.1),
                RandGaussianSmoothd(_IMAGE, prob=0.2, sigma_x=(0.5, 1.0), sigma_y=(0.5, 1.0)),
                RandScaleIntensityd(_IMAGE, prob=0.15, factors=0.25),
                RandSimulateLowResolutiond(_IMAGE, prob=0.25, zoom_range=(0.5, 1.0), upsample_mode="bilinear"),
                RandAdjustContrastd(_IMAGE, prob=0.1, gamma=(0.7, 1.5), invert_image=True, retain_stats=True),
                RandAdjustContrastd(_IMAGE, prob=0.3, gamma=(0.7, 1.5), retain_stats=True),
            ]
        )

    def __call__(self, image: Tensor, label: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """Augment images (B, C, H, W) in [-1, 1], a few of which may leave it, and their labels (B, H, W)."""
        images, labels = [], []
        with _without_metadata():
            for number in range(len(image)):
                own = generator_for(self.seed, "augment", step, number).initial_seed() % 2**32
                self._transforms.set_random_state(seed=own)
                done = self._transforms({"image": image[number], "label": label[number][None].float()})
                images.append(done["image"])
                labels.append(done["label"][0].round().to(label.dtype))
        return stack(images), stack(labels)


@contextmanager
def _without_metadata() -> Iterator[None]:
    """MONAI's affines and histories are of no use here and take a third of the time."""
    before = get_track_meta()
    set_track_meta(False)
    try:
        yield
    finally:
        set_track_meta(before)


def sides_are_alike(label_names: tuple[str, ...]) -> bool:
    """Whether no class is of one side only, as far as names say: then a mirrored slice keeps its labels."""
    return not any(
        side in name.lower().replace("-", "_").split("_") for name in label_names for side in ("left", "right")
    )
