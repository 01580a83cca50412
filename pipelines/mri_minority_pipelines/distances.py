"""From the name of a distance to the distance: what the minority score looks at."""

from pathlib import Path

import torch

from mri_minority.backbones.user_network import FeatureDistance, load_network
from mri_minority.core.errors import DataError, UsageError
from mri_minority.core.types import Batch
from mri_minority.minority.score import Distance, channel_errors
from mri_minority.volumes.atomic import sha256_of
from mri_minority_pipelines.config import ScoreConfig
from mri_minority_pipelines.perceptual import shift_tolerant_lpips

CHANNELS = ("image", "labels", "both", "balanced")
"""Distances that weigh squared errors of channels; see :func:`mri_minority.minority.score.part_weights`."""


def is_perceptual(config: ScoreConfig) -> bool:
    """Whether a network looks at the image, so that there is one part and nothing to weigh."""
    return config.distance not in CHANNELS


def distance_of(config: ScoreConfig, device: torch.device, images: int) -> Distance:
    """What is lost between a slice and its denoising, (B, P) parts.

    Args:
        config: `distance` is one of :data:`CHANNELS`, "st-lpips" or "file:NAME" (then `distance_file` says where).
        device: Where a network computes.
        images: How many channels are image channels.

    Raises:
        UsageError: The perceptual weights are not installed, or the path of a lab's network is not known.
        DataError: The lab's network cannot be read, or is not the one that the scores were made with.
    """
    if not is_perceptual(config):
        return channel_errors
    if config.distance == "st-lpips":
        lpips = shift_tolerant_lpips().to(device)

        def perceptual(x_0: Batch, denoised: Batch) -> torch.Tensor:
            with torch.autocast(device_type=device.type, enabled=False):
                a, b = (state[:, :images].float().clamp(-1, 1).flatten(0, 1)[:, None] for state in (x_0, denoised))
                each = torch.as_tensor(lpips(a, b)).view(-1, images)  # it knows grey pictures alone
                return each.mean(dim=1, keepdim=True)

        return perceptual
    if config.distance_file is None:
        raise UsageError(
            f"the distance {config.distance} is a network of yours; say where it is with --distance file:PATH"
        )
    own = FeatureDistance(load_network(config.distance_file), images).to(device)

    def features(x_0: Batch, denoised: Batch) -> torch.Tensor:
        with torch.autocast(device_type=device.type, enabled=False):
            return torch.as_tensor(own(x_0.float(), denoised.float()))

    return features


def with_file(settings: dict[str, object], distance: str) -> dict[str, object]:
    """Score settings with a distance; of a `file:PATH`, name and hash are remembered and the path is only used.

    Args:
        settings: Of :class:`ScoreConfig`; a hash in it must be that of the file.
        distance: As typed.

    Raises:
        DataError: There is no such file, or it is not the one that the scores were made with.
    """
    kind, _, rest = distance.partition(":")
    if kind != "file" or not rest:
        return {**settings, "distance": distance, "distance_sha256": None}
    path = Path(rest)
    if not path.is_file():
        raise DataError(f"expected a network at {path} (--distance file:PATH), found none")
    found, wanted = sha256_of(path), settings.get("distance_sha256")
    if wanted is not None and wanted != found:
        raise DataError(
            f"expected the network that the model's scores were made with (sha256 {str(wanted)[:12]}), {path} is "
            f"another ({found[:12]})"
        )
    return {**settings, "distance": f"file:{path.name}", "distance_sha256": found, "distance_file": path}
