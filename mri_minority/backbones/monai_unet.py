"""The denoiser network: Gaussian start, MONAI U-Net on a space-to-depth grid, full-resolution head.

D = D_gauss + c_out * F. The closed form carries coarse anatomy at high noise, the U-Net learns what is not
Gaussian, the head learns texture at full resolution (without it, low noise is never learnt).
"""

import warnings
from dataclasses import dataclass

import torch
from monai.networks.nets import DiffusionModelUNet
from torch import Tensor, nn
from torch.nn import functional

from mri_minority.core.types import Batch, Sigmas, Strata
from mri_minority.diffusion.gaussian import GaussianDenoiser, GaussianWorld

SIGMA_DATA = 0.5
"""Scale of the data in model units, as in EDM; sets only how inputs are scaled."""


@dataclass(frozen=True)
class UNetShape:
    """Size of the network.

    Args:
        patch: Side of the pixel blocks that the stem folds into channels.
        channels: Widths of the U-Net's levels; multiples of 32.
        attention: At which levels there is self-attention.
        blocks: Residual blocks per level.
        head: Channels of the full-resolution head.
    """

    patch: int = 4
    channels: tuple[int, ...] = (64, 96, 128)
    attention: tuple[bool, ...] = (False, False, True)
    blocks: int = 1
    head: int = 24


class UNetDenoiser(nn.Module):
    """E[x_0 | x_sigma] for slices with their label channels, each group with its own noise level."""

    spread: Tensor

    def __init__(self, world: GaussianWorld, shape: UNetShape) -> None:
        """Build the network around a fitted Gaussian world.

        Args:
            world: Fitted to the training slices; not trained further.
            shape: Size of the network.

        Raises:
            ValueError: The image size is no multiple of patch * 2^(levels - 1).
        """
        super().__init__()
        strata, channels, height, width = world.mean.shape
        multiple = shape.patch * 2 ** (len(shape.channels) - 1)
        if height % multiple or width % multiple:
            raise ValueError(f"image size must be a multiple of {multiple}, got {height} x {width}")
        self.groups = world.groups
        self.patch = shape.patch
        self.gaussian = GaussianDenoiser(world)
        self.register_buffer("spread", _spread_in_strata(world), persistent=False)
        levels = len(world.groups.sizes)
        features = shape.head // 2
        with warnings.catch_warnings():
            # MONAI warns about its own optional accelerations at construction.
            warnings.simplefilter("ignore")
            self.body = DiffusionModelUNet(
                spatial_dims=2,
                in_channels=2 * channels * shape.patch**2 + levels,
                out_channels=features * shape.patch**2,
                num_res_blocks=[shape.blocks] * len(shape.channels),
                channels=list(shape.channels),
                attention_levels=list(shape.attention),
                num_head_channels=32,
                num_class_embeds=strata,
            )
        self.head = FullResolutionHead(features + 3 * channels, shape.head, channels, levels)

    def c_out(self, sigma: Sigmas) -> Tensor:
        """Scale of the network's output (B, C): sigma s / sqrt(sigma^2 + s^2), s a channel's spread (EDM, Table 1)."""
        sigma = self.groups.per_channel(sigma)
        return sigma * self.spread / (sigma**2 + self.spread**2).sqrt()

    def forward(self, x: Batch, sigma: Sigmas, stratum: Strata) -> Batch:
        """Return the posterior mean (B, C, H, W); see :class:`mri_minority.diffusion.denoiser.Denoiser`."""
        sigma = sigma.to(x)
        with torch.autocast(device_type=x.device.type, enabled=False):
            start = self.gaussian(x, sigma, stratum)
        c_in = self.groups.spread((sigma**2 + SIGMA_DATA**2).rsqrt())
        noise_code = sigma.log() / 4
        coarse = functional.pixel_unshuffle(torch.cat([c_in * x, start / SIGMA_DATA], dim=1), self.patch)
        planes = noise_code[:, :, None, None].expand(-1, -1, *coarse.shape[2:])
        # MONAI's embedding expects times of a few hundred; 200 c_noise spans about -300 to 200.
        features = self.body(torch.cat([coarse, planes], dim=1), 200 * noise_code[:, 0], class_labels=stratum)
        local_mean = functional.avg_pool2d(x, 5, stride=1, padding=2, count_include_pad=False)
        grain = (x - local_mean) / self.groups.spread(sigma).clamp(min=0.02)
        full = torch.cat([functional.pixel_shuffle(features, self.patch), c_in * x, start / SIGMA_DATA, grain], dim=1)
        denoised: Tensor = start + self.c_out(sigma)[:, :, None, None] * self.head(full, noise_code).to(x)
        return denoised


class FullResolutionHead(nn.Module):
    """Three 3x3 convolutions at full resolution, modulated by the noise levels (FiLM)."""

    def __init__(self, inputs: int, width: int, outputs: int, levels: int) -> None:
        """Build the head.

        Args:
            inputs: Channels that come in.
            width: Channels inside.
            outputs: Channels that go out.
            levels: Number of noise levels.
        """
        super().__init__()
        self.first = nn.Conv2d(inputs, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        self.last = nn.Conv2d(width, outputs, 3, padding=1)
        self.modulation = nn.Sequential(nn.Linear(levels, 64), nn.SiLU(), nn.Linear(64, 4 * width))
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(torch.as_tensor(self.last.bias))

    def forward(self, x: Tensor, noise_code: Tensor) -> Tensor:
        """Return (B, outputs, H, W) from (B, inputs, H, W) and ln(sigma) / 4 as (B, G)."""
        # In bfloat16 any of these layers is off by about a constant: too little to see in the loss, but a chain of
        # steps adds it up, and small structures shrink or grow on the way.
        with torch.autocast(device_type=x.device.type, enabled=False):
            x, noise_code = x.float(), noise_code.float()
            scale_1, shift_1, scale_2, shift_2 = self.modulation(noise_code)[:, :, None, None].chunk(4, dim=1)
            x = functional.silu(self.first(x) * (1 + scale_1) + shift_1)
            x = functional.silu(self.second(x) * (1 + scale_2) + shift_2) + x
            return torch.as_tensor(self.last(x))


def _spread_in_strata(world: GaussianWorld) -> Tensor:
    """Standard deviation of a pixel about its stratum's mean, per channel, averaged over strata: float32 (C,).

    No smaller than a 50th of the bits' range: a class that is hardly there must not outweigh the rest of the loss.
    """
    blocks = world.basis.double().chunk(world.groups.channels)
    gram = torch.stack([block.T @ block for block in blocks]) / len(blocks[0])
    explained = torch.einsum("ckl,tkl->tc", gram, world.covariance.double())
    return (explained + world.residual_variance.double()).mean(dim=0).sqrt().clamp(min=0.02).float()
