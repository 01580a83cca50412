"""Does the model read in its images the labels that it drew? p(label | image), as a gate beside the segmenter's."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mri_minority.core.errors import DataError
from mri_minority.evaluate.segmenter import dice
from mri_minority.slices.store import SliceStore
from mri_minority_pipelines.events import Event
from mri_minority_pipelines.model_folder import ModelFolder
from mri_minority_pipelines.stages.evaluate import AGREEMENT_GATE
from mri_minority_pipelines.stages.label import label_images
from mri_minority_pipelines.synthetic import read_set

_BATCH = 16


def run(
    folder: Path,
    store: SliceStore,
    model: ModelFolder,
    draws: int,
    seed: int,
    device: torch.device,
    tell: Callable[[Event], None],
) -> dict[str, Any]:
    """Draw label maps for the images of a set and compare them with the maps that it holds.

    Unlike the segmenter, the model has a spread: where its draws disagree among themselves, a low Dice says little. It
    is no independent judge, though: it may read what it drew.

    Args:
        folder: The set.
        store: What the model learnt from.
        model: The model.
        draws: Votes per pixel.
        seed: Of the draws.
        device: Where to compute.
        tell: Receives progress.

    Returns:
        Mean Dice by class, the gate, the names of slices that some class leaves below it, and the mean spread.

    Raises:
        DataError: The set is damaged, of another store, or has no label maps.
    """
    slices = read_set(folder, store)
    if slices.label is None:
        raise DataError(f"expected label maps in {folder} to compare with, found images alone")
    net, config = model.denoiser().to(device), model.recipe().sample
    read, spread = [], []
    for first in range(0, len(slices.image), _BATCH):
        part = slice(first, first + _BATCH)
        tell(Event("read again", first, len(slices.image), {}))
        found, unsure = label_images(net, slices.image[part], slices.stratum[part], config, draws, seed, device, first)
        read.append(found)
        spread.append(unsure[found > 0])
    every = [dice(np.concatenate(read), slices.label, c + 1) for c in range(len(store.label_names))]
    low = [name for n, name in enumerate(slices.names) if any(d[n] < AGREEMENT_GATE for d in every)]
    said = {
        name: None if np.isnan(d).all() else round(float(np.nanmean(d)), 4)
        for name, d in zip(store.label_names, every, strict=True)
    }
    inside = np.concatenate(spread)
    mean = round(float(inside.mean()), 4) if inside.size else None
    return {"draws": draws, "dice": said, "gate": AGREEMENT_GATE, "below_gate": low, "mean_spread": mean}
