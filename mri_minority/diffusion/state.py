"""The joint state: image channels and label channels side by side, labels as analog bits."""

import torch
from torch import Tensor

from mri_minority.diffusion.kernel import ChannelGroups

BIT = 0.5
"""A label channel is +BIT inside its class and -BIT outside (Chen et al. 2023, analog bits)."""


def groups_for(images: int, classes: int) -> ChannelGroups:
    """Channel groups: all image channels share a noise level, all classes another (no label group without classes)."""
    return ChannelGroups((images, classes) if classes else (images,))


def encode(image: Tensor, label: Tensor, classes: int) -> Tensor:
    """Join image (B, I, H, W) in [-1, 1] and integer label (B, H, W) into the state (B, I + classes, H, W)."""
    bits = [torch.where(label == c, BIT, -BIT)[:, None] for c in range(1, classes + 1)]
    return torch.cat([image.float(), *bits], dim=1)


def decode(state: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Split a clean state (B, I + classes, H, W) into image (B, I, H, W), clipped, and uint8 label (B, H, W).

    A pixel belongs to the class whose channel is largest, or to none when all are negative.
    """
    images = state.shape[1] - classes
    image = state[:, :images].clamp(-1, 1)
    if not classes:
        return image, torch.zeros_like(image[:, 0], dtype=torch.uint8)
    best, which = state[:, images:].max(dim=1)
    return image, torch.where(best > 0, which + 1, 0).to(torch.uint8)
