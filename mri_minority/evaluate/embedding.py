"""A small network that finds a slice again under a disguise, learnt without labels."""

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from mri_minority.core.rng import generator_for
from mri_minority.evaluate.disguise import Disguise, blurred
from mri_minority.slices.store import SliceStore

LONG_SIDE = 56
"""Slices are looked at with about so many pixels along their longer side."""

_TEMPERATURE = 0.07
_BRIGHT = 0.98
_FINE_PX, _COARSE_PX = 0.75, 2.5
_FLAT = 0.04
"""Local contrast, in units of the bright level, below which a place counts as flat: noise there is not blown up."""


def looked_at(image: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C h w"]:
    """A slice as the audit sees it: coarse, and only how each place differs from its surroundings, channel by channel.

    d = G(0.75) u - G(2.5) u, divided by its own local spread sqrt(G(2.5) d^2) + 0.04, with u the coarse slice in units
    of its bright level and G a Gaussian mean (coarse pixels). Scaling cancels, gamma is locally a scaling, the inner
    mean takes the sting out of blur and noise. Flat places are 0.

    Args:
        image: In [-1, 1].

    Reference: local contrast normalisation, Jarrett et al. 2009.
    """
    factor = max(1, round(max(image.shape[2:]) / LONG_SIDE))
    unit = functional.avg_pool2d((image.clamp(-1, 1) + 1) / 2, factor)
    flat = unit.flatten(2)
    bright = flat.kthvalue(max(1, int(_BRIGHT * flat.shape[2])), dim=2).values
    unit = unit / bright.clamp(min=1e-3)[:, :, None, None]
    fine, coarse = torch.full((len(unit),), _FINE_PX), torch.full((len(unit),), _COARSE_PX)
    difference = blurred(unit, fine) - blurred(unit, coarse)
    spread = blurred(difference**2, coarse).clamp(min=0).sqrt()
    return difference / (spread + _FLAT)


class CopyNet(nn.Module):
    """Convolutions to a unit vector: (B, images, h, w) as :func:`looked_at` gives them -> (B, F)."""

    def __init__(self, features: int = 64, channels: tuple[int, ...] = (16, 32, 64), images: int = 1) -> None:
        """Build it.

        Args:
            features: F.
            channels: Of the strided convolutions.
            images: Channels of a slice.
        """
        super().__init__()
        layers: list[nn.Module] = []
        before = images
        for width in channels:
            layers += [nn.Conv2d(before, width, 3, stride=2, padding=1), nn.GroupNorm(4, width), nn.SiLU()]
            layers += [nn.Conv2d(width, width, 3, padding=1), nn.GroupNorm(4, width), nn.SiLU()]
            before = width
        self.body = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(16 * before, features))

    def forward(self, seen: Float[Tensor, "B C h w"]) -> Float[Tensor, "B F"]:
        """Embed."""
        embedded: Tensor = functional.normalize(self.body(seen), dim=1)
        return embedded


def contrast(first: Float[Tensor, "B F"], second: Float[Tensor, "B F"]) -> Float[Tensor, ""]:
    """NT-Xent both ways: each row of one must find its own row of the other among all.

    Reference: Chen et al. 2020, equation 1, negatives across the views only.
    """
    logits = first @ second.T / _TEMPERATURE
    target = torch.arange(len(first))
    return (functional.cross_entropy(logits, target) + functional.cross_entropy(logits.T, target)) / 2


def train_embedding(net: CopyNet, store: SliceStore, batch: int, steps: int, seed: int) -> Iterator[tuple[int, float]]:
    """Learn to find training slices again; yields (step, loss) after every step.

    A batch is of one stratum, so that a slice has to be told from others of the same height and not only from other
    heights. Mirrored slices need not be learnt: the search tries all four.

    Args:
        net: To train, on the CPU: it is small.
        store: The slices.
        batch: Slices per step.
        steps: Optimiser steps; the learning rate falls to zero over them.
        seed: Of batches and disguises.
    """
    train, strata = store.indices("train"), store.strata()
    of_stratum = [train[strata[train] == t] for t in range(int(strata.max()) + 1)]
    of_stratum = [index for index in of_stratum if len(index) >= 2]
    images = {t: torch.as_tensor(store.read(index)[0]).half() for t, index in enumerate(of_stratum)}
    weights = torch.tensor([float(len(index)) for index in of_stratum])
    disguise = Disguise(flips=False, degrees=6.0, shift_px=5.0, noise=0.04, blur_px=1.0)
    optimiser = torch.optim.AdamW(net.train().parameters(), lr=2e-3, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, total_steps=steps + 1)
    for step in range(steps):
        generator = generator_for(seed, "copy net", step)
        stratum = int(torch.multinomial(weights, 1, generator=generator))
        chosen = torch.randperm(len(of_stratum[stratum]), generator=generator)[:batch]
        image = images[stratum][chosen].float()
        loss = contrast(net(looked_at(image)), net(looked_at(disguise(image, generator))))
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        schedule.step()
        yield step + 1, float(loss.detach())
    net.eval()
