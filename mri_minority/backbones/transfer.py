"""Start a network from what another one has learnt, on other images, of other classes.

What a layer between the first and the last has learnt means the same in both networks and is taken as it is. In the
layers that touch the state's channels, each channel takes the weights of the one that it corresponds to. What was
learnt about strata is averaged, since another data set's strata are others.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from mri_minority.backbones.monai_unet import UNetDenoiser

_FIRST, _HEAD_FIRST, _STRATA = "body.conv_in.conv.weight", "head.first.weight", "body.class_embedding.weight"
_HEAD_LAST, _NOISE = ("head.last.weight", "head.last.bias"), "head.modulation.0.weight"


@dataclass(frozen=True)
class _Run:
    """Neighbouring entries of an axis that are copied: `count` of them, from `theirs` to `mine`."""

    mine: int
    theirs: int
    count: int


def corresponding(
    images: int, classes: tuple[str, ...], other_images: int, other_classes: tuple[str, ...]
) -> dict[int, int]:
    """Channel of the state -> the other network's channel: images in order, classes by name."""
    pairs = {n: n for n in range(min(images, other_images))}
    for n, name in enumerate(classes):
        if name in other_classes:
            pairs[images + n] = other_images + other_classes.index(name)
    return pairs


@torch.no_grad()
def start_from(net: UNetDenoiser, weights: Mapping[str, Tensor], pairs: Mapping[int, int]) -> None:
    """Copy another network's weights into a new one; channels without a counterpart keep what they have.

    Args:
        net: Freshly built.
        weights: State dictionary of another :class:`UNetDenoiser` of the same shape, whatever its channels and strata.
        pairs: From :func:`corresponding`.

    Raises:
        ValueError: The other network has another shape; nothing is changed then.
    """
    mine = dict(net.named_parameters())
    channels, others = net.groups.channels, len(weights[_HEAD_LAST[1]])
    _check_shape(mine, weights, channels, others, net.patch**2)
    for name, own in mine.items():
        theirs = weights[name].to(own)
        if name == _STRATA:
            own.copy_(theirs.mean(dim=0, keepdim=True).expand_as(own))
        elif name == _FIRST:  # the noisy state and the Gaussian's answer in blocks of pixels, then the noise levels
            block = net.patch**2
            levels = min(own.shape[1] - 2 * channels * block, theirs.shape[1] - 2 * others * block)
            runs = _channels(pairs, 2, channels, others, 0, 0, block)
            _copy(own, theirs, 1, [*runs, _Run(2 * channels * block, 2 * others * block, levels)])
        elif name == _HEAD_FIRST:  # the body's features, then the noisy state, the Gaussian's answer and the grain
            features = own.shape[1] - 3 * channels
            runs = _channels(pairs, 3, channels, others, features, features, 1)
            _copy(own, theirs, 1, [_Run(0, 0, features), *runs])
        elif name == _NOISE:  # the image's level comes first, in a network without label maps it is the only one
            _copy(own, theirs, 1, [_Run(0, 0, min(own.shape[1], theirs.shape[1]))])
        elif name in _HEAD_LAST:
            _copy(own, theirs, 0, _channels(pairs, 1, channels, others, 0, 0, 1))
        else:
            own.copy_(theirs)


def _channels(
    pairs: Mapping[int, int], parts: int, channels: int, others: int, mine: int, theirs: int, block: int
) -> list[_Run]:
    """What is copied of an axis on which all channels follow each other `parts` times, `block` entries each."""
    return [
        _Run(mine + (part * channels + here) * block, theirs + (part * others + there) * block, block)
        for part in range(parts)
        for here, there in pairs.items()
    ]


def _copy(own: Tensor, theirs: Tensor, axis: int, runs: list[_Run]) -> None:
    for run in runs:
        own.narrow(axis, run.mine, run.count).copy_(theirs.narrow(axis, run.theirs, run.count))


def _check_shape(
    mine: Mapping[str, Tensor], weights: Mapping[str, Tensor], channels: int, others: int, block: int
) -> None:
    """Refuse a network that differs in more than its channels, noise levels and strata."""
    if set(mine) != set(weights):
        raise ValueError(f"the other network has layers of another shape: {sorted(set(mine) ^ set(weights))[0]}")
    for name, own in mine.items():
        ours, theirs = list(own.shape), list(weights[name].shape)
        if name == _HEAD_FIRST:
            ours[1], theirs[1] = ours[1] - 3 * channels, theirs[1] - 3 * others
        elif name == _FIRST:
            if theirs[1] - 2 * others * block not in (1, 2):
                raise ValueError(f"the blocks of {name} are of another shape")
            ours[1] = theirs[1] = 0
        elif name == _STRATA or name in _HEAD_LAST:
            ours[0] = theirs[0] = 0
        elif name == _NOISE:
            ours[1] = theirs[1] = 0
        if ours != theirs:
            raise ValueError(f"{name} is of shape {tuple(weights[name].shape)}, expected {tuple(own.shape)}")
