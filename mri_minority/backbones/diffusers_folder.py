"""A diffusers `UNet2DModel` folder as a denoiser: JSON and safetensors are read, nothing is downloaded or unpickled.

The network's architecture is diffusers' own code, so that package must be installed to use such a folder
(`pip install "mri-minority[diffusers]"`); the rest of this project never imports it.
"""

import importlib
import json
import math
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from mri_minority.backbones.foreign import ForeignDenoiser
from mri_minority.core.errors import DataError, UsageError
from mri_minority.core.types import Batch, Strata
from mri_minority.diffusion.kernel import ChannelGroups

_WEIGHTS = "diffusion_pytorch_model.safetensors"


def diffusers_denoiser(folder: Path, groups: ChannelGroups | None = None) -> ForeignDenoiser:
    """Read a model folder as diffusers saves it.

    Either a pipeline (`unet/` and `scheduler/` inside) or a bare `UNet2DModel` folder with the scheduler's
    `scheduler_config.json` beside `config.json`.

    Args:
        folder: Where it is.
        groups: Channel groups; one group of all channels by default.

    Raises:
        UsageError: diffusers is not installed.
        DataError: A file is missing or not what it should be.
    """
    unet = folder / "unet" if (folder / "unet").is_dir() else folder
    beside = folder / "scheduler" / "scheduler_config.json"
    schedule = _json(beside if beside.is_file() else unet / "scheduler_config.json")
    config = _json(unet / "config.json")
    if config.get("_class_name") != "UNet2DModel":
        raise DataError(
            f"expected a UNet2DModel in {unet / 'config.json'}, found {config.get('_class_name')}; "
            "text-conditioned and latent models are not slices"
        )
    channels = int(config["in_channels"])
    if channels != int(config["out_channels"]):
        raise DataError(f"expected as many channels out as in, found {channels} and {config['out_channels']} in {unet}")
    net = _network(unet, config)
    classes = config.get("num_class_embeds") is not None

    def predict(x_t: Batch, step: Tensor, stratum: Strata) -> Tensor:
        return torch.as_tensor(net(x_t, step, class_labels=stratum if classes else None, return_dict=False)[0])

    prediction = str(schedule.get("prediction_type", "epsilon"))
    try:
        return ForeignDenoiser(predict, alphas_cumprod(schedule), prediction, groups or ChannelGroups((channels,)))
    except ValueError as error:
        raise DataError(f"{beside if beside.is_file() else unet}: {error}") from error


def alphas_cumprod(config: dict[str, Any]) -> Tensor:
    """The chain of a diffusers scheduler configuration, float64 (T,).

    Args:
        config: `num_train_timesteps`, `beta_start`, `beta_end`, `beta_schedule` (linear, scaled_linear,
            squaredcos_cap_v2), or `trained_betas`; missing ones have diffusers' defaults.

    Raises:
        DataError: An unknown schedule, or zero terminal SNR.
    """
    if config.get("rescale_betas_zero_snr"):
        raise DataError("a chain rescaled to zero terminal SNR has no finite last noise level and cannot be used here")
    steps = int(config.get("num_train_timesteps", 1000))
    first, last = float(config.get("beta_start", 1e-4)), float(config.get("beta_end", 0.02))
    kind = config.get("beta_schedule", "linear")
    if config.get("trained_betas") is not None:
        betas = torch.tensor(config["trained_betas"], dtype=torch.float64)
    elif kind == "linear":
        betas = torch.linspace(first, last, steps, dtype=torch.float64)
    elif kind == "scaled_linear":
        betas = torch.linspace(first**0.5, last**0.5, steps, dtype=torch.float64) ** 2
    elif kind == "squaredcos_cap_v2":
        # Nichol & Dhariwal 2021, equation 17, capped at 0.999.
        bar = [math.cos((t / steps + 0.008) / 1.008 * math.pi / 2) ** 2 for t in range(steps + 1)]
        betas = torch.tensor([min(1 - bar[t + 1] / bar[t], 0.999) for t in range(steps)], dtype=torch.float64)
    else:
        raise DataError(f"expected beta_schedule linear, scaled_linear or squaredcos_cap_v2, found {kind!r}")
    return (1 - betas).cumprod(dim=0)


def _network(unet: Path, config: dict[str, Any]) -> nn.Module:
    try:
        module = importlib.import_module("diffusers.models.unets.unet_2d")
    except ModuleNotFoundError as error:
        raise UsageError(
            f"{unet} is a diffusers model, and the package diffusers, whose code the network is, is not installed; "
            'install it with `pip install "mri-minority[diffusers]"`'
        ) from error
    weights = unet / _WEIGHTS
    if not weights.is_file():
        raise DataError(
            f"expected weights at {weights}, found none; only safetensors are read (diffusers saves them with "
            "`save_pretrained(folder, safe_serialization=True)`)"
        )
    settings = {key: value for key, value in config.items() if not key.startswith("_")}
    net = cast(nn.Module, module.UNet2DModel(**settings))
    net.load_state_dict(load_file(weights))
    return net.eval().requires_grad_(False)


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise DataError(
            f"expected a diffusers model, found no {path}; a folder needs config.json, weights and a scheduler"
        )
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{path} is damaged: {error}") from error
    return content
