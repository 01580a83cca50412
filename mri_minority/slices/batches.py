"""Training batches: step n's batch depends only on (seed, n), so a resumed run sees what it would have seen."""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mri_minority.core.rng import generator_for
from mri_minority.slices.store import SliceStore

_CACHE_BYTES = 2 * 1024**3


class SliceBatches:
    """Random batches of one split; kept in memory when the split is small, read as needed when it is not.

    Args:
        store: Where slices come from.
        index: Positions to draw from.
        batch: Slices per batch; with fewer slices than that, slices repeat within a batch.
        seed: Of the drawing.
    """

    def __init__(self, store: SliceStore, index: npt.NDArray[np.int64], batch: int, seed: int) -> None:
        """Load the split if it fits."""
        self.store, self.index, self.batch, self.seed = store, index, batch, seed
        self.stratum = torch.as_tensor(store.strata()[index])
        height, width = store.header["settings"]["size"]
        self._cache: tuple[npt.NDArray[np.float16], npt.NDArray[np.uint8]] | None = None
        if len(index) * height * width * (2 * store.channels + 1) <= _CACHE_BYTES:
            image, label = store.read(index)
            self._cache = (image.astype(np.float16), label)

    def __call__(self, step: int, rows: slice = slice(None)) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Batch of a step: image (B, I, H, W) float32, label (B, H, W) uint8, stratum (B,), position in index (B,).

        With `rows`, only those of the batch.
        """
        chosen = torch.randint(len(self.index), (self.batch,), generator=generator_for(self.seed, "batch", step))[rows]
        if self._cache is not None:
            image = torch.as_tensor(self._cache[0][chosen.numpy()]).float()
            label = torch.as_tensor(self._cache[1][chosen.numpy()])
        else:
            read_image, read_label = self.store.read(self.index[chosen.numpy()])
            image, label = torch.as_tensor(read_image), torch.as_tensor(read_label)
        return image, label, self.stratum[chosen], chosen
