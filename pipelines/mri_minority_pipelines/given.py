"""What is given of a slice that is to be drawn: its label map, and for derived slices an image of a person."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.ndimage import distance_transform_cdt

from mri_minority.backbones.experts import Network
from mri_minority.core.types import Batch, Strata
from mri_minority.diffusion.denoiser import Denoiser
from mri_minority.diffusion.given import CERTAIN, IMAGE, LABEL, draw_given, from_level, held
from mri_minority.diffusion.inpaint import OutsideKept, OutsideKnown
from mri_minority.diffusion.kernel import sigma_path
from mri_minority.diffusion.solvers import SOLVERS
from mri_minority.diffusion.state import encode
from mri_minority.training.precision import autocast
from mri_minority_pipelines.samplers import Calls, Sampler

MARGIN = 3
"""Pixels around an inserted structure that are drawn anew, so that it fits without a seam."""

Image = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Given:
    """One slice to draw.

    Args:
        label: uint8 (H, W) in the model's classes.
        stratum: The model's stratum.
        affine: float64 (4, 4), pixel (i, j, 0) -> RAS+ millimetres.
        trace: Where the map comes from and how it was edited; goes into the manifest.
        image: float32 (I, H, W) in [-1, 1] of a person, for derived slices.
        region: bool (H, W): draw only this of the image; the rest is the person's.
        start: Noise level at which to start from the image, instead of from noise alone.
        exact: Whether the label is held, and exact in the result; else it starts at `start` as the image does.
        white: Intensity that stands for +1 in each image channel, where it is not the model's.
    """

    label: npt.NDArray[np.uint8]
    stratum: int
    affine: npt.NDArray[np.float64]
    trace: dict[str, Any] = field(default_factory=dict)
    image: npt.NDArray[np.float32] | None = None
    region: npt.NDArray[np.bool_] | None = None
    start: float | None = None
    exact: bool = True
    white: tuple[float, ...] | None = None


def fingerprint(given: Sequence[Given]) -> str:
    """Hash of everything that is given: two requests with the same one ask for the same slices."""
    found = hashlib.sha256()
    for one in given:
        for part in (one.label, one.affine, one.image, one.region):
            found.update(b"-" if part is None else np.ascontiguousarray(part).tobytes())
        said = [one.stratum, one.start, one.exact, one.white, one.trace]
        found.update(json.dumps(said, sort_keys=True).encode())
    return found.hexdigest()


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
        given: All of one kind: all with a region or none, all with the same start, all exact or none.
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
    path = path if start is None else from_level(path, start)
    path = held(path, LABEL, CERTAIN) if given[0].exact else path
    calls = Calls()
    shape = (known.shape[1], known.shape[2], known.shape[3])
    if given[0].region is None:
        denoiser = sampler.wrapped(net, path, items, shape, seed, calls)
    else:
        region = torch.as_tensor(np.stack([np.asarray(g.region) for g in given]))[:, None].to(device)
        outside = known.to(device)

        def told(base: Denoiser) -> Denoiser:
            return OutsideKnown(base, net.gaussian, outside, region)

        denoiser = OutsideKept(sampler.wrapped(net, path, items, shape, seed, calls, told), outside, region)
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


def joined(image: npt.NDArray[np.float32], source: npt.NDArray[np.float32], region: npt.NDArray[np.bool_]) -> Image:
    """A drawn image inside a region, the person's outside; over the :data:`MARGIN` the one fades into the other.

    The margin's label is the source's, so both show the same tissue there. Left alone, pixels jump at the border of the
    region by a quarter more than elsewhere in real slices (benchmarks/on_demand.md).

    Args:
        image: float32 (H, W), drawn.
        source: float32 (H, W), of a person.
        region: bool (H, W).
    """
    depth = distance_transform_cdt(np.pad(region, 1), metric="taxicab")[1:-1, 1:-1]
    weight = np.clip(depth / (MARGIN + 1), 0, 1).astype(np.float32)
    return np.where(region, weight * image + (1 - weight) * source, source)


def _states(given: Sequence[Given], images: int, classes: int) -> Batch:
    label = torch.as_tensor(np.stack([g.label for g in given]))
    blank = np.zeros((images, *given[0].label.shape), np.float32)
    image = np.stack([blank if g.image is None else g.image for g in given])
    return encode(torch.as_tensor(image), label, classes)
