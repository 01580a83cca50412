"""Geometry as MONAI transforms: orientation, spacing, and a crop of fixed size about the brain."""

from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.data.meta_tensor import MetaTensor
from monai.transforms import (
    Compose,
    EnsureTyped,
    MapTransform,
    Orientationd,
    Spacingd,
)
from torch.nn import functional

from mri_minority.transforms.intensity import LabelsFromRegionsd, ScaleByForegroundd

AXES = {"sagittal": 0, "coronal": 1, "axial": 2}
"""Which axis of an RAS+ volume a slicing plane is perpendicular to."""


class CropAboutForegroundd(MapTransform):
    """Cut a box of fixed in-plane size about the centre of the foreground, padding where the volume ends.

    The slicing axis is kept whole. Affines follow; done here because MONAI's BorderPad loses the shift of an axis that
    comes after one it does not pad.

    Args:
        keys: Images and labels to crop alike.
        mask_key: Boolean or integer mask (1, X, Y, Z) whose bounding box gives the centre.
        size: In-plane size (H, W) in voxels.
        axis: The slicing axis.
        fill: Value that stands for outside, by key.
    """

    def __init__(
        self, keys: list[str], mask_key: str, size: tuple[int, int], axis: int, fill: Mapping[str, float]
    ) -> None:
        """Keep the settings; see the class."""
        super().__init__(keys)
        self.mask_key, self.size, self.axis, self.fill = mask_key, size, axis, fill

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the data with every key cropped."""
        result = dict(data)
        mask = torch.as_tensor(result[self.mask_key])[0] > 0
        found = mask.nonzero()
        low, high = found.amin(dim=0), found.amax(dim=0) + 1
        start, stop = [0, 0, 0], list(mask.shape)
        for a, wanted in zip([a for a in range(3) if a != self.axis], self.size, strict=True):
            start[a] = int(low[a] + high[a]) // 2 - wanted // 2
            stop[a] = start[a] + wanted
        # Padding by a negative amount crops. torch takes the last axis first.
        amounts = [n for a in (2, 1, 0) for n in (-start[a], stop[a] - mask.shape[a])]
        for key in self.key_iterator(result):
            volume = result[key]
            affine = torch.as_tensor(volume.affine).clone()
            affine[:3, 3] += affine[:3, :3] @ torch.tensor(start, dtype=affine.dtype)
            moved = functional.pad(volume.as_tensor(), amounts, value=self.fill[str(key)])
            result[key] = MetaTensor(moved, affine=affine)
        return result


def brain_transforms(
    spacing_mm: tuple[float, float, float],
    size: tuple[int, int],
    plane: str,
    regions: Mapping[str, list[int]] | None,
    ceiling: float,
    foreground: str = "labels",
) -> Compose:
    """From a volume in any orientation to a cropped RAS+ volume in model units.

    Takes and returns a dictionary with "image" (I, X, Y, Z) and, if there are regions, "label" (1, X, Y, Z), both
    MetaTensors. Adds "mask", the foreground, and "scale", see :class:`ScaleByForegroundd`.

    Args:
        spacing_mm: Target voxel spacing along R, A, S; -1 keeps an axis as it is.
        size: In-plane size in voxels.
        plane: "axial", "coronal" or "sagittal".
        regions: Label name -> source values that belong to it; numbered 1, 2, ... in this order.
        ceiling: Intensity that maps to +1, in units of the foreground's 99.5th percentile.
        foreground: "labels": all labelled voxels; "head": the head found by a threshold, as when there are no regions.
    """
    keys = ["image", "label"] if regions else ["image"]
    modes = ["bilinear", "nearest"][: len(keys)]
    return Compose(
        [
            EnsureTyped(keys=keys, dtype=torch.float32),
            Orientationd(keys=keys, axcodes="RAS", labels=None),
            Spacingd(keys=keys, pixdim=spacing_mm, mode=modes, padding_mode="border"),
            LabelsFromRegionsd(regions or {}, foreground),
            ScaleByForegroundd(image_key="image", mask_key="mask", ceiling=ceiling),
            CropAboutForegroundd(
                keys=[*keys, "mask"],
                mask_key="mask",
                size=size,
                axis=AXES[plane],
                fill={"image": -1.0, "label": 0.0, "mask": 0.0},
            ),
        ]
    )
