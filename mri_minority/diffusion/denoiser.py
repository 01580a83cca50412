"""What a denoiser is: a function from a noisy slice to the posterior mean of the clean one."""

from typing import Protocol, runtime_checkable

from mri_minority.core.types import Batch, Sigmas, Strata


@runtime_checkable
class Denoiser(Protocol):
    """D(x_sigma; sigma, stratum) = E[x_0 | x_sigma], which is Tweedie's formula.

    The score follows as s = (D - x_sigma) / sigma^2. Guidance is a denoiser that wraps a denoiser.
    """

    def __call__(self, x: Batch, sigma: Sigmas, stratum: Strata) -> Batch:
        """Return the posterior mean.

        Args:
            x: Noisy slices (B, C, H, W).
            sigma: Noise level of each channel group (B, G).
            stratum: Stratum of each item (B,).
        """
        ...
