"""What a copy may be hidden under: small movements, other intensities, blur and noise."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class Disguise:
    """How far a slice may be changed and still be called the same.

    Args:
        shift_px: Largest shift along either axis, pixels.
        degrees: Largest rotation.
        scale: Range of the factor on intensities.
        gamma: Range of the exponent on intensities in [0, 1].
        blur_px: Largest standard deviation of the Gaussian blur, pixels.
        noise: Largest standard deviation of added noise, in units of the full intensity range.
        flips: Whether either axis may be mirrored.
    """

    shift_px: float = 4.0
    degrees: float = 5.0
    scale: tuple[float, float] = (0.8, 1.2)
    gamma: tuple[float, float] = (0.7, 1.4)
    blur_px: float = 0.8
    noise: float = 0.03
    flips: bool = True

    def __call__(self, image: Float[Tensor, "B C H W"], generator: torch.Generator) -> Float[Tensor, "B C H W"]:
        """Disguise every slice in its own way, all its channels alike but for noise.

        Args:
            image: In [-1, 1], -1 is background.
            generator: CPU generator of everything random.
        """
        count = len(image)
        draw = torch.rand(8, count, generator=generator)
        if self.flips:
            image = torch.where(draw[0, :, None, None, None] < 0.5, image.flip(2), image)
            image = torch.where(draw[1, :, None, None, None] < 0.5, image.flip(3), image)
        angle = torch.deg2rad((2 * draw[2] - 1) * self.degrees)
        unit = (moved(image, angle, (2 * draw[3:5].T - 1) * self.shift_px) + 1) / 2
        unit = blurred(unit, draw[5] * self.blur_px)
        low, high = self.gamma
        power = low * (high / low) ** draw[6]
        unit = unit.clamp(0, 1) ** power[:, None, None, None]
        low, high = self.scale
        unit = unit * (low * (high / low) ** draw[7])[:, None, None, None]
        strength = torch.rand(count, 1, 1, 1, generator=generator) * self.noise
        unit = unit + strength * torch.randn(image.shape, generator=generator)
        return (unit * 2 - 1).clamp(-1, 1)


def moved(
    image: Float[Tensor, "B C H W"], angle: Float[Tensor, " B"], shift_px: Float[Tensor, "B 2"]
) -> Float[Tensor, "B C H W"]:
    """Rotate by an angle (radians) about the middle, then shift; background comes in at the sides."""
    height, width = image.shape[2:]
    cos, sin = angle.cos(), angle.sin()
    # grid_sample counts in half widths, and asks where each output pixel comes from.
    aspect = height / width
    theta = torch.zeros(len(image), 2, 3)
    theta[:, 0, 0], theta[:, 0, 1] = cos, sin * aspect
    theta[:, 1, 0], theta[:, 1, 1] = -sin / aspect, cos
    theta[:, 0, 2], theta[:, 1, 2] = -2 * shift_px[:, 1] / width, -2 * shift_px[:, 0] / height
    rows, columns = ((2 * torch.arange(n) + 1) / n - 1 for n in (height, width))
    place = torch.stack([columns.repeat(height), rows.repeat_interleave(width), torch.ones(height * width)])
    # One product for all slices: as affine_grid, ten times faster for many small pictures.
    grid = (theta.flatten(0, 1) @ place).unflatten(0, (-1, 2)).transpose(1, 2).unflatten(1, (height, width))
    return functional.grid_sample(image + 1, grid, align_corners=False) - 1


def blurred(image: Float[Tensor, "B C H W"], sigma_px: Float[Tensor, " B"]) -> Float[Tensor, "B C H W"]:
    """Gaussian blur, each slice with its own standard deviation (pixels)."""
    radius = max(1, math.ceil(3 * float(sigma_px.max())))
    offset = torch.arange(-radius, radius + 1)
    kernel = torch.exp(-0.5 * (offset / sigma_px.clamp(min=1e-3)[:, None]) ** 2)
    kernel = kernel / kernel.sum(dim=1, keepdim=True)
    kernel = kernel.repeat_interleave(image.shape[1], dim=0)
    planes, count = image.flatten(0, 1), len(kernel)
    out = functional.conv2d(planes[None], kernel[:, None, :, None], padding=(radius, 0), groups=count)
    out = functional.conv2d(out, kernel[:, None, None, :], padding=(0, radius), groups=count)[0]
    return out.view_as(image)
