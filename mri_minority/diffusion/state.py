"""The joint state: image channels and label channels side by side, labels as analog bits."""

import torch
from torch import Tensor

from mri_minority.diffusion.kernel import ChannelGroups

BIT = 0.5
"""A label channel is +BIT inside its class and -BIT outside (Chen et al. 2023, analog bits)."""


def groups_for(classes: int) -> ChannelGroups:
    """Channel groups of one image channel and one channel per class (no label group without classes)."""
    return ChannelGroups((1, classes) if classes else (1,))


def encode(image: Tensor, label: Tensor, classes: int) -> Tensor:
    """Join image (B, H, W) in [-1, 1] and integer label (B, H, W) into the state (B, 1 + classes, H, W)."""
    bits = [torch.where(label == c, BIT, -BIT) for c in range(1, classes + 1)]
    return torch.stack([image.float(), *bits], dim=1)


def decode(state: Tensor) -> tuple[Tensor, Tensor]:
    """Split a clean state into image (B, H, W), clipped to [-1, 1], and uint8 label (B, H, W).

    A pixel belongs to the class whose channel is largest, or to none when all are negative.
    """
    image = state[:, 0].clamp(-1, 1)
    if state.shape[1] == 1:
        return image, torch.zeros_like(image, dtype=torch.uint8)
    best, which = state[:, 1:].max(dim=1)
    return image, torch.where(best > 0, which + 1, 0).to(torch.uint8)
