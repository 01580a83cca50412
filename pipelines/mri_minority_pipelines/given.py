"""What is given of a slice that is to be drawn: its label map, and for derived slices an image of a person."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from mri_minority.backbones.experts import Network
from mri_minority.core.types import Batch, Strata
from mri_minority.diffusion.given import IMAGE, LABEL, OutsideKnown, draw_given, from_level, held
from mri_minority.diffusion.kernel import sigma_path
from mri_minority.diffusion.solvers import SOLVERS
from mri_minority.diffusion.state import encode
from mri_minority.training.precision import autocast
from mri_minority_pipelines.samplers import Calls, Sampler


@dataclass(frozen=True)
class Given:
    """One slice to draw.

    Args:
        label: uint8 (H, W) in the model's classes; exact in the result unless `start` is set.
        stratum: The model's stratum.
        affine: float64 (4, 4), pixel (i, j, 0) -> RAS+ millimetres.
        trace: Where the map comes from and how it was edited; goes into the manifest.
        image: float32 (I, H, W) in [-1, 1] of a person, for derived slices.
        region: bool (H, W): draw only this of the image; the rest is the person's.
        start: Noise level at which to start from image and label, instead of holding the label.
        white: Intensity that stands for +1 in each image channel, where it is not the model's.
    """

    label: npt.NDArray[np.uint8]
    stratum: int
    affine: npt.NDArray[np.float64]
    trace: dict[str, Any] = field(default_factory=dict)
    image: npt.NDArray[np.float32] | None = None
    region: npt.NDArray[np.bool_] | None = None
    start: float | None = None
    white: tuple[float, ...] | None = None


def draw(
    sampler: Sampler,
    net: Network,
    given: Sequence[Given],
    items: list[int],
    seed: int,
    device: torch.device,
    fast: bool,
) -> tuple[Batch, Calls]:
    """States of some items (B, C, H, W), on the CPU, and what each of them cost.

    Args:
        sampler: From `build_sampler`; its guides apply to what is drawn.
        net: The denoiser, on the device.
        given: All of one kind: all with a region or none, all with the same start.
        items: Item numbers, what names the noise.
        seed: Of the run.
        device: Where to compute.
        fast: Compute in bfloat16 where that is safe.
    """
    config, groups = sampler.config, net.groups
    known = _states(given, groups.sizes[IMAGE], groups.sizes[LABEL])
    stratum: Strata = torch.tensor([g.stratum for g in given])
    path = sigma_path(config.sigma_max, config.sigma_min, config.steps, len(groups.sizes))
    start = given[0].start
    path = held(path, LABEL) if start is None else from_level(path, start)
    calls = Calls()
    denoiser = sampler.wrapped(net, path, items, (known.shape[1], known.shape[2], known.shape[3]), seed, calls)
    if given[0].region is not None:
        region = torch.as_tensor(np.stack([np.asarray(g.region) for g in given]))[:, None]
        denoiser = OutsideKnown(denoiser, known.to(device), region.to(device))
    with autocast(device, fast):
        states = draw_given(
            denoiser,
            SOLVERS[config.solver],
            path,
            known,
            items,
            stratum,
            seed,
            groups,
            device,
            blurred=start is not None,
        )
    return states.cpu(), calls


def _states(given: Sequence[Given], images: int, classes: int) -> Batch:
    label = torch.as_tensor(np.stack([g.label for g in given]))
    blank = np.zeros((images, *given[0].label.shape), np.float32)
    image = np.stack([blank if g.image is None else g.image for g in given])
    return encode(torch.as_tensor(image), label, classes)
