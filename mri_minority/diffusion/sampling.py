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

    Returns:
        (B, C, H, W) in model units.
    """
    start = normal_for(seed, items, shape, "start").to(device) * groups.spread(path[:1]).to(device).float()
    return solver.run(
        denoiser,
        start,
        path.to(device),
        stratum.to(device),
        groups,
        lambda step: normal_for(seed, items, shape, "step", step).to(device),
    )
