"""Draw slices: item i always starts from, and is always disturbed by, its own generator."""

import torch
from torch import Tensor

from mri_minority.core.rng import normal_for
from mri_minority.core.types import Batch, Strata
from mri_minority.diffusion.denoiser import Denoiser
from mri_minority.diffusion.kernel import ChannelGroups
from mri_minority.diffusion.solvers import Solver


@torch.no_grad()
def draw_slices(
    denoiser: Denoiser,
    solver: Solver,
    path: Tensor,
    items: list[int],
    stratum: Strata,
    shape: tuple[int, int, int],
    seed: int,
    groups: ChannelGroups,
    device: torch.device,
    gain: float = 1.0,
) -> Batch:
    """Sample the joint state of some items.

    Args:
        denoiser: Guided or not.
        solver: One of :data:`mri_minority.diffusion.solvers.SOLVERS`.
        path: Noise levels (S + 1, G), falling to zero.
        items: Item numbers: what names each item's noise.
        stratum: Of every item (B,).
        shape: (C, H, W).
        seed: Of the run.
        groups: Which channels share a noise level.
        device: Where to compute; noise is always drawn on the CPU, so that devices agree.
        gain: The start is gain * sigma * eps; above 1 only for boost-and-skip, see :func:`skipped`.

    Returns:
        (B, C, H, W) in model units.
    """
    start = normal_for(seed, items, shape, "start").to(device) * groups.spread(gain * path[:1]).to(device).float()
    return solver.run(
        denoiser,
        start,
        path.to(device),
        stratum.to(device),
        groups,
        lambda step: normal_for(seed, items, shape, "step", step).to(device),
    )


def skipped(path: Tensor, share: float) -> Tensor:
    """A path without its first steps, for boost-and-skip.

    Boost-and-skip starts a stochastic solver from gain * sigma * eps, gain > 1, at a noise level where the data still
    leave a mark, and nothing else: in directions in which the data vary much the extra spread survives, in the others
    the solver's own noise washes it out. A deterministic solver would scale every direction and is of no use here.

    Reference: Um, Kim & Ye 2025, "Boost-and-Skip" (ICML), N(0, gamma^2 I) at T - Delta in variance-preserving
    coordinates. There unit noise is sqrt(1 + sigma^2) of ours; we take sigma, which is what :func:`draw_slices`
    starts from, so gain 1 and share 0 are the plain sampler, bit by bit.

    Args:
        path: Noise levels (S + 1, G), falling to zero.
        share: Part of the S steps that is left out, in [0, 1); rounded to whole steps, one step is always left.
    """
    if not 0 <= share < 1:
        raise ValueError(f"expected a share of steps in [0, 1) to skip, got {share}")
    steps = len(path) - 1
    return path[min(steps - 1, round(share * steps)) :]
