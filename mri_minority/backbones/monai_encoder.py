"""The minority classifier network: MONAI's diffusion encoder, reading the noisy slice and its Gaussian denoising."""

import warnings
from dataclasses import dataclass

import torch
from monai.networks.nets.diffusion_model_unet import DiffusionModelEncoder
from torch import Tensor, nn
from torch.nn import functional

from mri_minority.backbones.monai_unet import SIGMA_DATA
from mri_minority.core.types import Batch, Sigmas, Strata
from mri_minority.diffusion.gaussian import GaussianDenoiser, GaussianWorld


@dataclass(frozen=True)
class EncoderShape:
    """Size of the classifier.

    Args:
        patch: Side of the pixel blocks folded into channels.
        channels: Widths of the levels; multiples of 32.
        outputs: Numbers that come out.
    """

    patch: int
    channels: tuple[int, ...]
    outputs: int


class NoisyEncoder(nn.Module):
    """Outputs of a classifier that reads x_sigma at any noise level.

    It also sees the Gaussian posterior mean: at high noise what is left of anatomy is a few coefficients under much
    noise, and the closed form has already collected them.
    """

    def __init__(self, world: GaussianWorld, shape: EncoderShape) -> None:
        """Build the network around the denoiser's Gaussian world.

        Raises:
            ValueError: The image size is no multiple of the patch.
        """
        super().__init__()
        strata, channels, height, width = world.mean.shape
        if height % shape.patch or width % shape.patch:
            raise ValueError(f"image size must be a multiple of {shape.patch}, got {height} x {width}")
        self.groups, self.patch = world.groups, shape.patch
        self.gaussian = GaussianDenoiser(world)
        with warnings.catch_warnings():
            # MONAI warns about its own optional accelerations at construction.
            warnings.simplefilter("ignore")
            self.body = DiffusionModelEncoder(
                spatial_dims=2,
                in_channels=2 * channels * shape.patch**2,
                out_channels=shape.outputs,
                num_res_blocks=[1] * len(shape.channels),
                channels=list(shape.channels),
                attention_levels=[False] * len(shape.channels),
                num_head_channels=[32] * len(shape.channels),
                num_class_embeds=strata,
                input_shape=[height // shape.patch, width // shape.patch],
            )

    def forward(self, x: Batch, sigma: Sigmas, stratum: Strata) -> Tensor:
        """Return (B, outputs)."""
        sigma = sigma.to(x)
        with torch.autocast(device_type=x.device.type, enabled=False):
            start = self.gaussian(x, sigma, stratum)
        c_in = self.groups.spread((sigma**2 + SIGMA_DATA**2).rsqrt())
        coarse = functional.pixel_unshuffle(torch.cat([c_in * x, start / SIGMA_DATA], dim=1), self.patch)
        return torch.as_tensor(self.body(coarse, 50 * sigma[:, 0].log(), class_labels=stratum)).float()

    def embed(self, x: Batch, sigma: Sigmas, stratum: Strata) -> Tensor:
        """What the last layer reads: (B, 512), differentiable in x."""
        seen: list[Tensor] = []
        layers = self.body.out
        handle = layers[1].register_forward_hook(lambda module, given, found: seen.append(found))  # type: ignore[index]
        try:
            self(x, sigma, stratum)
        finally:
            handle.remove()
        return seen[0].float()
