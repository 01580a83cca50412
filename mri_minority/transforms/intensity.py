"""Intensities and labels as MONAI transforms: composite regions, foreground, robust scaling."""

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import torch
from monai.transforms import MapTransform
from skimage.filters import threshold_otsu

from mri_minority.core.errors import DataError


class LabelsFromRegionsd(MapTransform):
    """Turn source label values into our classes 1..L, and find the foreground.

    Args:
        regions: Class name -> source values, in class order. Empty: no labels; foreground by Otsu's threshold.
    """

    def __init__(self, regions: Mapping[str, list[int]]) -> None:
        """Keep the regions; see the class."""
        super().__init__(["label"], allow_missing_keys=True)
        self.regions = {name: list(values) for name, values in regions.items()}

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the data with "label" renumbered and "mask" added, both (1, X, Y, Z)."""
        result = dict(data)
        if not self.regions:
            image = result["image"]
            result["mask"] = (image > threshold_otsu(image.cpu().numpy())).float()
            return result
        source = result["label"]
        label = torch.zeros_like(source)
        for number, values in enumerate(self.regions.values(), start=1):
            label[torch.isin(source.long(), torch.tensor(values))] = number
        if not bool((label > 0).any()):
            found = np.unique(source.cpu().numpy()).astype(int).tolist()
            raise DataError(
                f"expected label values of {', '.join(self.regions)}, found only {found[:20]}; "
                "check the recipe's `labels` or use an empty-tolerant recipe"
            )
        result["label"], result["mask"] = label, (label > 0).float()
        return result


class ScaleByForegroundd(MapTransform):
    """Map intensities to [-1, 1]: zero to -1, ceiling times the foreground's 99.5th percentile to +1, clipped.

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
        """Return the data with the image scaled and "scale", the percentile in source units, added."""
        result = dict(data)
        mask = torch.as_tensor(result[self.mask_key]) > 0
        for key in self.key_iterator(result):
            image = result[key]
            scale = float(np.percentile(torch.as_tensor(image)[mask].cpu().numpy(), 99.5))
            if scale <= 0:
                raise DataError(f"expected positive intensities inside the head, found a 99.5th percentile of {scale}")
            result[key] = (image / scale).clamp(0, self.ceiling) * (2 / self.ceiling) - 1
            result["scale"] = scale
        return result
