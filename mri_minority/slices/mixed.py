"""Batches of real slices with a fixed number of others among them: what the arms of a study differ in."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mri_minority.core.rng import generator_for
from mri_minority.slices.batches import SliceBatches


@dataclass(frozen=True)
class Extra:
    """Slices that are drawn beside the real ones.

    Args:
        image: float32 (N, C, H, W) in [-1, 1].
        label: uint8 (N, H, W).
    """

    image: npt.NDArray[np.float32]
    label: npt.NDArray[np.uint8]


class MixedBatches:
    """The last `share` of every batch comes from the extra slices, the rest from the real ones.

    Real rows of a step are the same in every arm, however many of them are replaced.

    Args:
        real: Batches of real slices.
        extra: What replaces some of them; None leaves all.
        share: Of the batch, in [0, 1].
        until: Steps from this one on are of real slices alone; None: there are none of these.
    """

    def __init__(self, real: SliceBatches, extra: Extra | None, share: float, until: int | None = None) -> None:
        """Keep both; see the class."""
        self.real, self.extra, self.until = real, extra, until
        self.replaced = round(share * real.batch) if extra is not None else 0

    def __call__(self, step: int) -> tuple[Tensor, Tensor]:
        """Batch of a step: image (B, C, H, W) float32, label (B, H, W) uint8."""
        alone = self.until is not None and step >= self.until
        if self.extra is None or not self.replaced or alone:
            image, label, _, _ = self.real(step)
            return image, label
        image, label, _, _ = self.real(step, slice(self.real.batch - self.replaced))
        generator = generator_for(self.real.seed, "extra", step)
        chosen = torch.randint(len(self.extra.image), (self.replaced,), generator=generator).numpy()
        more = torch.as_tensor(self.extra.image[chosen]), torch.as_tensor(self.extra.label[chosen])
        return torch.cat([image, more[0]]), torch.cat([label, more[1]])
