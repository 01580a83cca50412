"""Draw what is not known of a slice, given what is: one channel group, or a blurred start (a region: see `inpaint`).

The network is told a noise level per channel group, so a group that is known is simply held at the clean level: then
the posterior mean of the other group is that given the known one, and any solver samples the conditional.
"""

import torch
from torch import Tensor

from mri_minority.core.rng import normal_for
from mri_minority.core.types import Batch, Strata
from mri_minority.diffusion.denoiser import Denoiser
from mri_minority.diffusion.kernel import ChannelGroups
from mri_minority.diffusion.solvers import Solver

IMAGE, LABEL = 0, 1
"""Positions of the two channel groups of a slice with labels."""

CLEAN = 0.002
"""Noise level that stands for "given", as in training (`NoiseLevels.clean`)."""

CERTAIN = 0.1
"""Noise level at which a given label map is held. Its bits are +1/2 or -1/2, so this is certainty: five standard
deviations. But a network learns levels about this one from many more slices than it does the clean level, and draws
better images at it (benchmarks/on_demand.md)."""


def held(path: Tensor, group: int, clean: float = CLEAN) -> Tensor:
    """A path (S + 1, G) on which one group stays at the clean level throughout.

    Raises:
        ValueError: There is no such group, or no other one that could fall.
    """
    if path.shape[1] < 2 or not 0 <= group < path.shape[1]:
        raise ValueError(f"expected one of several channel groups to hold, found group {group} of {path.shape[1]}")
    result = path.clone()
    result[:, group] = clean
    return result


def from_level(path: Tensor, sigma: float) -> Tensor:
    """The part of a path (S + 1, G) at and below a noise level, so that it starts there; one step is always left.

    Args:
        path: Falling to zero, the same in all groups.
        sigma: Where to start, above zero.
    """
    if not sigma > 0:
        raise ValueError(f"expected a noise level above zero to start from, found {sigma}")
    below = path[path[:, 0] < sigma]
    return torch.cat([torch.full_like(path[:1], sigma), below if len(below) else path[-1:]])


@torch.no_grad()
def draw_given(
    denoiser: Denoiser,
    solver: Solver,
    path: Tensor,
    known: Batch,
    items: list[int],
    stratum: Strata,
    seed: int,
    groups: ChannelGroups,
    device: torch.device,
    blurred: bool = False,
) -> Batch:
    """Sample the groups whose path falls, given those whose path does not.

    Args:
        denoiser: Guided or not; wrap it in :class:`mri_minority.diffusion.inpaint.OutsideKnown` to draw a region only.
        solver: One of :data:`mri_minority.diffusion.solvers.SOLVERS`.
        path: Noise levels (S + 1, G); a group that is given stays at one level, see :func:`held`.
        known: Clean slices (B, C, H, W); only the given groups are looked at, unless `blurred`.
        items: Item numbers: what names each item's noise, the same as in `draw_slices`.
        stratum: Of every item (B,).
        seed: Of the run.
        groups: Which channels share a noise level.
        device: Where to compute; noise is always drawn on the CPU, so that devices agree.
        blurred: Start falling groups from known + sigma eps instead of sigma eps (Meng et al. 2022, SDEdit).

    Returns:
        (B, C, H, W) in model units; given groups are those of `known`, bit by bit.
    """
    shape = tuple(known.shape[1:])
    falls = groups.spread((path[-1:] != path[:1]).float()) > 0
    noise = normal_for(seed, items, shape, "start") * groups.spread(path[:1]).float()
    start = torch.where(falls, noise + known if blurred else noise, known.float())
    return solver.run(
        denoiser,
        start.to(device),
        path.to(device),
        stratum.to(device),
        groups,
        lambda step: normal_for(seed, items, shape, "step", step).to(device),
    )
