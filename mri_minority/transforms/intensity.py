"""Intensities and labels as MONAI transforms: composite regions, foreground, robust scaling."""

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import torch
from monai.data.meta_tensor import MetaTensor
from monai.transforms import MapTransform
from skimage.filters import threshold_otsu
from skimage.measure import label as connected

from mri_minority.core.errors import DataError


class LabelsFromRegionsd(MapTransform):
    """Turn source label values into our classes 1..L, and find the foreground.

    Args:
        regions: Class name -> source values, in class order. Empty: no labels.
        foreground: "labels": all labelled voxels, of which there must be some. "head": what :func:`head_mask` finds, so
            that a map may be empty (a patient without a lesion). Without regions it is the head in any case.
    """

    def __init__(self, regions: Mapping[str, list[int]], foreground: str = "labels") -> None:
        """Keep the settings; see the class."""
        super().__init__(["label"], allow_missing_keys=True)
        self.regions = {name: list(values) for name, values in regions.items()}
        self.foreground = foreground

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the data with "label" renumbered and "mask" added, both (1, X, Y, Z)."""
        result = dict(data)
        if not self.regions:
            result["mask"] = _like(head_mask(result["image"]), result["image"])
            return result
        source = result["label"]
        label = torch.zeros_like(source)
        for number, values in enumerate(self.regions.values(), start=1):
            label[torch.isin(source.long(), torch.tensor(values))] = number
        if not bool((label > 0).any()) and (self.foreground == "labels" or bool((source > 0).any())):
            found = np.unique(source.cpu().numpy()).astype(int).tolist()
            raise DataError(
                f"expected label values of {', '.join(self.regions)}, found only {found[:20]}; "
                "check the recipe's `labels`, or let it find the head itself (`foreground: head`)"
            )
        result["label"] = label
        result["mask"] = (
            (label > 0).float() if self.foreground == "labels" else _like(head_mask(result["image"]), result["image"])
        )
        return result


def _like(mask: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
    """The mask with the image's affine, if it has one: later transforms ask for it."""
    return MetaTensor(mask, affine=image.affine) if isinstance(image, MetaTensor) else mask


def head_mask(image: torch.Tensor) -> torch.Tensor:
    """Find the head: the largest piece of what is brighter than Otsu's threshold.

    Args:
        image: (I, X, Y, Z), any unit; the first channel decides.

    Returns:
        float32 (1, X, Y, Z), 0 or 1.

    Raises:
        DataError: All voxels are alike.

    Reference:
        N. Otsu, A threshold selection method from gray-level histograms, IEEE Trans. SMC 9 (1979).
    """
    values = image.cpu().numpy()[0]
    low, high = float(values.min()), float(values.max())
    if not low < high:
        raise DataError(f"expected a head in the image, all voxels are {low:g}; leave the image out")
    pieces = connected(values > threshold_otsu(values.ravel()))  # flat: three slices are no colours
    sizes = np.bincount(pieces.ravel())[1:]
    return torch.as_tensor((pieces == 1 + int(sizes.argmax())).astype(np.float32))[None]


class ScaleByForegroundd(MapTransform):
    """Map intensities to [-1, 1]: zero to -1, ceiling times the foreground's 99.5th percentile to +1, clipped.

    Every channel is scaled by itself: the units of two sequences have nothing to do with each other.

    Args:
        image_key: What to scale.
        mask_key: The foreground.
        ceiling: Upper end, in units of that percentile.
    """

    def __init__(self, image_key: str, mask_key: str, ceiling: float) -> None:
        """Keep the settings; see the class."""
        super().__init__([image_key])
        self.mask_key, self.ceiling = mask_key, ceiling

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the data with the image scaled and "scale", the percentiles in source units, added."""
        result = dict(data)
        mask = torch.as_tensor(result[self.mask_key])[0] > 0
        for key in self.key_iterator(result):
            image = result[key]
            scale = [float(np.percentile(torch.as_tensor(plane)[mask].cpu().numpy(), 99.5)) for plane in image]
            if min(scale) <= 0:
                raise DataError(
                    f"expected positive intensities inside the head, found a 99.5th percentile of {min(scale)}"
                )
            unit = (image / torch.tensor(scale)[:, None, None, None]).clamp(0, self.ceiling)
            result[key] = unit * (2 / self.ceiling) - 1
            result["scale"] = tuple(scale)
        return result
