"""Two networks as one denoiser: a coarse one decides anatomy at high noise, a fine one draws it at low noise.

Which folds go where is settled at high noise on a coarse grid; sharp borders and thin structures are settled at low
noise, pixel by pixel. One network of a size that a CPU can train does one of the two well (Balaji et al. 2022,
eDiff-I, use experts per noise range for the same reason). Each call runs one of them, so sampling costs no more.
"""

import torch
from torch import nn

from mri_minority.backbones.monai_unet import UNetDenoiser
from mri_minority.core.types import Batch, Sigmas, Strata
from mri_minority.diffusion.sizes import SizeCalibrated


class Experts(nn.Module):
    """E[x_0 | x_sigma] from the expert of each item's largest noise level."""

    def __init__(self, coarse: UNetDenoiser, fine: UNetDenoiser, border: float) -> None:
        """Join two networks over the same Gaussian world.

        Args:
            coarse: For items with a noise level of `border` or more.
            fine: For the others.
            border: Noise level between them.
        """
        super().__init__()
        self.coarse, self.fine, self.border = coarse, fine, border
        self.groups, self.gaussian = coarse.groups, coarse.gaussian

    def forward(self, x: Batch, sigma: Sigmas, stratum: Strata) -> Batch:
        """Return the posterior mean (B, C, H, W); see :class:`mri_minority.diffusion.denoiser.Denoiser`."""
        high = sigma.amax(dim=1) >= self.border
        if bool(high.all()):
            return torch.as_tensor(self.coarse(x, sigma, stratum))
        if not bool(high.any()):
            return torch.as_tensor(self.fine(x, sigma, stratum))
        denoised = torch.empty_like(x)
        for chosen, expert in ((high, self.coarse), (~high, self.fine)):
            denoised[chosen] = expert(x[chosen], sigma[chosen], stratum[chosen])
        return denoised


Network = UNetDenoiser | Experts | SizeCalibrated
"""What a model folder draws with."""
