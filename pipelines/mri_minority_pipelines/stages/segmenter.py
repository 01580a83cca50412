"""The independent judge of label maps: a segmenter of real slices, kept with the model."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from mri_minority.core.errors import DataError
from mri_minority.evaluate.segmenter import build_segmenter, train_segmenter
from mri_minority.slices.batches import SliceBatches
from mri_minority.slices.store import SliceStore
from mri_minority.training.checkpoint import load_tensors, save_tensors
from mri_minority_pipelines.config import AuditConfig
from mri_minority_pipelines.events import Event

FILE = "segmenter.safetensors"


def run(
    config: AuditConfig, store: SliceStore, path: Path, device: torch.device, tell: Callable[[Event], None]
) -> bool:
    """Train it on the training slices and write it, unless it is there; False for a store without labels."""
    if path.is_file():
        return True
    if not store.label_names:
        return False
    torch.manual_seed(config.seed)
    net = build_segmenter(len(store.label_names), store.channels)
    batches = SliceBatches(store, store.indices("train"), 16, config.seed)
    for step, loss in train_segmenter(net, batches, config.segmenter_steps, device, config.seed):
        tell(Event("segmenter", step, config.segmenter_steps, {"loss": loss}))
    weights = {k: v.half() if v.is_floating_point() else v for k, v in net.state_dict().items()}
    save_tensors(path, weights, {"label_names": list(store.label_names)})
    return True


def load(path: Path, store: SliceStore) -> nn.Module:
    """Read it.

    Raises:
        DataError: It is damaged or of other labels than the store.
    """
    tensors, notes = load_tensors(path)
    if notes.get("label_names") != list(store.label_names):
        raise DataError(f"expected a segmenter of {store.label_names} in {path}, found {notes.get('label_names')}")
    net = build_segmenter(len(store.label_names), store.channels)
    net.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in tensors.items()})
    return net.eval().requires_grad_(False)
