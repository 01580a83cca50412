"""How much memory a step will take, measured on one slice beforehand."""

from collections.abc import Callable

import psutil
import torch
from torch import Tensor, nn

from mri_minority.core.errors import UsageError

_COPIES = 5
"""Weights, gradients, two moments of AdamW, averaged weights."""

_SLACK = 1.25
"""Workspace of convolutions and gradients of activations on their way, over what is saved for the backward pass."""


def step_bytes(module: nn.Module, loss_of_one: Callable[[], Tensor], slices: int) -> int:
    """Bytes that a step needs: everything autograd saves for one slice, times the slices, and the weights' copies.

    Args:
        module: The network.
        loss_of_one: Computes the loss of a single slice.
        slices: How many go through at once.
    """
    copies = _COPIES * sum(p.numel() * p.element_size() for p in module.parameters())
    return copies + int(_SLACK * slices * saved_bytes(module, loss_of_one))


def saved_bytes(module: nn.Module, run: Callable[[], Tensor]) -> int:
    """Bytes of everything but weights that autograd keeps while `run` computes a result."""
    weights = {p.data_ptr() for p in module.parameters()} | {b.data_ptr() for b in module.buffers()}
    saved: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        result = run()
    del result
    return sum(saved.values())


def free_bytes(device: torch.device) -> int:
    """Memory that nobody uses."""
    return int(torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available)


def check_memory(needed: int, device: torch.device, slices: int) -> None:
    """Refuse a step that cannot fit, before an hour is spent on it.

    Raises:
        UsageError: More is needed than is free.
    """
    free = free_bytes(device)
    if needed > free:
        gib = 1024**3
        raise UsageError(
            f"a training step of {slices} slices needs about {needed / gib:.1f} GiB, {free / gib:.1f} GiB are free on "
            f"{device.type}; set micro_batch to {max(1, int(slices * free / needed * 0.9))} or less in the recipe"
        )
