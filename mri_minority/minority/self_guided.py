"""Self-guided minority sampling: the denoiser alone says what is rare, no classifier.

The posterior mean is noised again and denoised again; what that loses is the minority score of the slice in the
making, and its gradient points to where more would be lost.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from mri_minority.core.types import Batch, Sigmas, Strata
from mri_minority.diffusion.denoiser import Denoiser
from mri_minority.diffusion.guidance import inside
from mri_minority.diffusion.kernel import ChannelGroups, add_noise
from mri_minority.minority.score import Distance, channel_errors

SIGMA_DATA = 0.5
"""Scale of the data in model units, as in EDM."""


def unit_gradient(gradient: Batch) -> Batch:
    """Each item's gradient divided by its largest absolute value; an item whose gradient is zero keeps zero.

    Args:
        gradient: (B, C, H, W).

    Returns:
        (B, C, H, W), every item's largest absolute value 1, or 0 where there is no direction.

    Raises:
        ValueError: A gradient is not finite: its direction would be noise.
    """
    if not bool(torch.isfinite(gradient).all()):
        bad = int((~torch.isfinite(gradient)).flatten(1).any(dim=1).sum())
        raise ValueError(
            f"expected finite gradients in self-guidance, {bad} of {len(gradient)} items have none; lower the weight"
        )
    largest = gradient.abs().amax(dim=(1, 2, 3), keepdim=True)
    return torch.where(largest > 0, gradient / torch.where(largest > 0, largest, torch.ones_like(largest)), 0.0)


@dataclass(frozen=True)
class SelfGuided:
    """D^ = D + w c(sigma) g / max|g|, g = grad_x d(D, stopgrad D(D + sigma_s eps; sigma_s)), D = D(x; sigma).

    c(sigma) = sigma sigma_data / sqrt(sigma^2 + sigma_data^2) is about what is still uncertain of a pixel, so w is a
    shift in that unit, the same at every noise level.

    Reference: Um & Ye 2024, "Self-Guided Generation of Minority Samples Using Diffusion Models" (ECCV): the loss, the
    stop-gradient, the division by the largest entry and the guidance at every n-th step only. The unit c is ours.

    Args:
        base: The denoiser.
        weight: w; 0 is off, and then nothing is computed.
        sigma_s: Noise level of the renoising.
        active: The noise levels at which to guide, as they stand in the sampler's path (n,).
        noise: Number of an active level -> standard normal noise of the batch's shape.
        groups: Which channels share a noise level.
        window: Guide only while the largest noise level lies in [low, high].
        distance: What is lost; its parts are added.
    """

    base: Denoiser
    weight: float
    sigma_s: float
    active: Tensor
    noise: Callable[[int], Tensor]
    groups: ChannelGroups
    window: tuple[float, float] = (0.0, float("inf"))
    distance: Distance = channel_errors

    def __call__(self, x: Batch, sigma: Sigmas, stratum: Strata) -> Batch:
        """Return the guided posterior mean (B, C, H, W): two denoiser calls and a backward pass where it guides.

        Raises:
            ValueError: The gradient is not finite.
        """
        number = self._number(sigma)
        if self.weight == 0 or number is None or not inside(self.window, sigma):
            return self.base(x, sigma, stratum)
        with torch.enable_grad():
            point = x.detach().requires_grad_(True)
            mean = self.base(point, sigma, stratum)
            with torch.no_grad():
                level = torch.full_like(sigma, self.sigma_s)
                noisy = add_noise(mean.detach(), level, self.noise(number).to(mean), self.groups)
                again = self.base(noisy, level, stratum)
            (gradient,) = torch.autograd.grad(self.distance(mean, again).sum(), point)
        unit = sigma * SIGMA_DATA / (sigma**2 + SIGMA_DATA**2).sqrt()
        return mean.detach() + self.weight * self.groups.spread(unit).to(x) * unit_gradient(gradient)

    def _number(self, sigma: Sigmas) -> int | None:
        """Which active level this is, within rounding; None for the steps between."""
        level = float(sigma.max())
        near = ((self.active.double() - level).abs() <= 1e-5 * level).nonzero().flatten().tolist()
        return int(near[0]) if near else None


def every_nth_level(path: Tensor, every: int) -> Tensor:
    """Largest noise level of every n-th step of a path (S + 1, G), beginning with the first; zero is no step."""
    return path[:-1:every].max(dim=1).values
