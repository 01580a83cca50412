"""An independent judge: a small segmenter trained on real slices only, that reads the image and nothing else."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from monai.losses import DiceCELoss
from monai.networks.nets import DynUNet, UNet
from torch import Tensor, nn

from mri_minority.core.rng import generator_for

Augment = Callable[[Tensor, Tensor, int], tuple[Tensor, Tensor]]
"""Images (B, C, H, W), labels (B, H, W) and the step -> both, changed."""


def build_segmenter(classes: int, images: int = 1) -> nn.Module:
    """A small 2-D U-Net from MONAI: (B, images, H, W) -> logits (B, classes + 1, H, W)."""
    return UNet(
        spatial_dims=2,
        in_channels=images,
        out_channels=classes + 1,
        channels=(16, 32, 64, 128),
        strides=(2, 2, 2),
        num_res_units=1,
        norm="batch",
    )


def build_strong_segmenter(classes: int, images: int = 1) -> nn.Module:
    """The U-Net that nnU-Net would plan for slices of about 100 x 100 pixels, from MONAI; in and out as above."""
    return DynUNet(
        spatial_dims=2,
        in_channels=images,
        out_channels=classes + 1,
        kernel_size=[3] * 5,
        strides=[1, 2, 2, 2, 2],
        upsample_kernel_size=[2] * 4,
        filters=[32, 64, 128, 256, 512],
        norm_name="instance",
    )


def train_segmenter(
    net: nn.Module,
    batches: Callable[[int], tuple[Any, ...]],
    steps: int,
    device: torch.device,
    seed: int,
    augment: Augment | None = None,
) -> Iterator[tuple[int, float]]:
    """Train with Dice and cross-entropy; yields (step, loss) after every step.

    Args:
        net: From :func:`build_segmenter` or :func:`build_strong_segmenter`.
        batches: Step -> images (B, C, H, W), labels (B, H, W), and more that is not looked at.
        steps: Optimiser steps; the learning rate falls to zero over them.
        device: Where to compute.
        seed: Of the intensity changes.
        augment: Changes every batch; None scales, shifts, gamma-changes and noises images a little, so that a judge
            does not lean on the texture of one source.
    """
    net.train().to(device)
    loss_of = DiceCELoss(softmax=True, to_onehot_y=True, include_background=False, batch=True)
    optimiser = torch.optim.AdamW(net.parameters(), lr=3e-3, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 3e-3, total_steps=steps)
    for step in range(steps):
        image, label = batches(step)[:2]
        if augment is None:
            image = _jitter(image, generator_for(seed, "segmenter", step))
        else:
            image, label = augment(image, label, step)
        loss = loss_of(net(image.to(device)), label[:, None].to(device))
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        schedule.step()
        yield step + 1, float(loss.detach())


@torch.no_grad()
def segment(net: nn.Module, image: npt.NDArray[np.float32], device: torch.device) -> npt.NDArray[np.uint8]:
    """Label maps (N, H, W) of images (N, I, H, W) in [-1, 1]."""
    net.eval().to(device)
    parts = []
    for start in range(0, len(image), 64):
        x = torch.as_tensor(image[start : start + 64]).to(device)
        parts.append(net(x).argmax(dim=1).to(torch.uint8).cpu().numpy())
    return np.concatenate(parts)


def dice(a: npt.NDArray[np.uint8], b: npt.NDArray[np.uint8], value: int) -> npt.NDArray[np.float64]:
    """Dice of one class, slice by slice (N,); NaN where neither map has it."""
    first, second = a == value, b == value
    both = (first & second).sum(axis=(1, 2)).astype(np.float64)
    total = (first.sum(axis=(1, 2)) + second.sum(axis=(1, 2))).astype(np.float64)
    result = np.full(len(a), np.nan)
    np.divide(2 * both, total, out=result, where=total > 0)
    return result


def _jitter(image: Tensor, generator: torch.Generator) -> Tensor:
    unit = (image + 1) / 2
    draw = torch.rand(3, *image.shape[:2], 1, 1, generator=generator)
    unit = unit.clamp(min=1e-4) ** (0.8 + 0.4 * draw[0])
    unit = unit * (0.85 + 0.3 * draw[1])
    noise = torch.randn(image.shape, generator=generator) * 0.03 * draw[2]
    return (unit + noise) * 2 - 1
