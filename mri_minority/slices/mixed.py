"""Batches of real slices with some others among them: what the arms of a study differ in."""

from dataclasses import dataclass
from functools import cached_property

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
        stratum: (N,), as the real slices' strata; None: they may take any slice's place.
    """

    image: npt.NDArray[np.float32]
    label: npt.NDArray[np.uint8]
    stratum: npt.NDArray[np.int64] | None = None

    @cached_property
    def of_stratum(self) -> dict[int, npt.NDArray[np.int64]]:
        """Stratum -> positions of its slices."""
        assert self.stratum is not None
        return {int(t): np.flatnonzero(self.stratum == t) for t in np.unique(self.stratum)}


class MixedBatches:
    """A share of every batch comes from the extra slices, the rest from the real ones.

    Real slices that stay, and which ones are replaced, are the same in every arm. With strata, each slice gives way
    with probability `share`, and only to one of its own stratum: no height of the brain is seen less often, and where
    there are no extra slices all stay. Without, the last `share` of the batch gives way, to slices of any height.

    Args:
        real: Batches of real slices.
        extra: What replaces some of them; None leaves all.
        share: Of the batch, in [0, 1].
        until: Steps from this one on are of real slices alone; None: there are none of these.
    """

    def __init__(self, real: SliceBatches, extra: Extra | None, share: float, until: int | None = None) -> None:
        """Keep both; see the class."""
        self.real, self.extra, self.share, self.until = real, extra, share, until

    def __call__(self, step: int) -> tuple[Tensor, Tensor]:
        """Batch of a step: image (B, C, H, W) float32, label (B, H, W) uint8."""
        if self.extra is None or (self.until is not None and step >= self.until):
            image, label, _, _ = self.real(step)
            return image, label
        generator = generator_for(self.real.seed, "extra", step)
        if self.extra.stratum is None:
            replaced = round(self.share * self.real.batch)
            image, label, _, _ = self.real(step, slice(self.real.batch - replaced))
            chosen = torch.randint(len(self.extra.image), (replaced,), generator=generator).numpy()
            more = torch.as_tensor(self.extra.image[chosen]), torch.as_tensor(self.extra.label[chosen])
            return torch.cat([image, more[0]]), torch.cat([label, more[1]])
        image, label, stratum, _ = self.real(step)
        gives_way, which = torch.rand(2, self.real.batch, generator=generator)
        for row in torch.nonzero(gives_way < self.share).flatten().tolist():
            pool = self.extra.of_stratum.get(int(stratum[row]))
            if pool is not None:
                at = pool[int(which[row] * len(pool))]
                image[row], label[row] = torch.as_tensor(self.extra.image[at]), torch.as_tensor(self.extra.label[at])
        return image, label
