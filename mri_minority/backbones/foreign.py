"""A model that somebody else trained, in variance-preserving time steps, as a denoiser in our noise levels.

x_t = sqrt(abar) x_sigma and sigma = sqrt((1 - abar) / abar) connect the two; whatever the network predicts becomes the
posterior mean. Minority guidance, scores and all solvers then work on it as on our own.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from monai.networks.nets.diffusion_model_unet import DiffusionModelUNet
from monai.networks.schedulers.scheduler import Scheduler
from torch import Tensor

from mri_minority.core.types import Batch, Sigmas, Strata
from mri_minority.diffusion.kernel import ChannelGroups, abar_from_sigma, sigma_from_abar

PREDICTIONS = ("epsilon", "sample", "v_prediction")
"""What a network may predict, as MONAI and diffusers name it."""

Network = Callable[[Batch, Tensor, Strata], Tensor]
"""(x_t, time step (B,), stratum (B,)) -> prediction (B, C, H, W)."""

_BEYOND = 1.05
"""A noise level may lie this factor above the chain's last one; there the last time step stands for it."""


@dataclass(frozen=True)
class ForeignDenoiser:
    """D(x_sigma; sigma, stratum) from a network that knows time steps 0..T-1 of a variance-preserving chain.

    With alpha = sqrt(abar) at sigma: x_t = alpha x_sigma, and D = x_sigma - sigma eps, or the prediction itself
    ("sample"), or alpha x_t - sqrt(1 - abar) v ("v_prediction").

    The time step of a noise level between two of the chain is interpolated linearly in ln sigma, since these networks
    embed it by sines and accept fractions; `nearest` rounds it, for those that do not. In both cases x_t and D use
    the exact sigma, so only what the network is told is rounded. Below the chain's first noise level the network hears
    step 0.

    Reference: Karras et al. 2022, Table 1 (VP column); Salimans & Ho 2022, appendix D (v prediction).

    Args:
        network: The prediction.
        abars: Cumulative products of (1 - beta), falling (T,).
        prediction: What the network predicts, one of :data:`PREDICTIONS`.
        groups: Channels that share a noise level; a foreign chain has one, so all groups must be at the same.
        nearest: Round the time step instead of interpolating it.
    """

    network: Network
    abars: Tensor
    prediction: str
    groups: ChannelGroups
    nearest: bool = False

    def __post_init__(self) -> None:
        """Check chain and prediction.

        Raises:
            ValueError: The chain does not fall from below 1 to above 0, or the prediction is unknown.
        """
        abars = self.abars
        falls = abars.ndim == 1 and len(abars) > 1 and bool((abars.diff() < 0).all())
        if not falls or not float(abars[-1]) > 0 or not float(abars[0]) < 1:
            raise ValueError(
                "expected alphas_cumprod falling strictly between 1 and 0, with two steps or more, got "
                f"{len(abars)} from {float(abars[0])} to {float(abars[-1])}; a chain rescaled to end in pure noise "
                "(zero terminal SNR) has no finite last noise level: leave its last step out"
            )
        if self.prediction not in PREDICTIONS:
            raise ValueError(f"expected prediction {', '.join(PREDICTIONS)}, got {self.prediction!r}")

    @property
    def sigma_max(self) -> float:
        """The chain's last and largest noise level: where sampling may begin."""
        return float(sigma_from_abar(self.abars[-1]))

    def time_step(self, sigma: Tensor) -> Tensor:
        """Time step of every noise level, float64 (B,).

        Raises:
            ValueError: A noise level lies beyond the chain.
        """
        if float(sigma.max()) > _BEYOND * self.sigma_max:
            raise ValueError(
                f"expected noise levels up to {self.sigma_max:.4g}, the last of this model's chain, got "
                f"{float(sigma.max()):.4g}; lower sigma_max"
            )
        ladder = sigma_from_abar(self.abars.to(sigma.device)).log()
        level = sigma.double().clamp(min=float(ladder[0].exp())).log().clamp(max=float(ladder[-1]))
        upper = torch.searchsorted(ladder, level.contiguous()).clamp(1, len(ladder) - 1)
        step = upper - 1 + (level - ladder[upper - 1]) / (ladder[upper] - ladder[upper - 1])
        return step.round() if self.nearest else step

    def __call__(self, x: Batch, sigma: Sigmas, stratum: Strata) -> Batch:
        """Return the posterior mean (B, C, H, W); differentiable in x.

        Raises:
            ValueError: The groups are at different noise levels, or one lies beyond the chain.
        """
        level = sigma[:, 0]
        if not bool((sigma == level[:, None]).all()):
            raise ValueError("expected one noise level for all channels of a foreign model, got different ones")
        abar = abar_from_sigma(level)[:, None, None, None].to(x)
        x_t = abar.sqrt() * x
        step = self.time_step(level).to(x)
        predicted = self.network(x_t, step.long() if self.nearest else step, stratum)
        if self.prediction == "epsilon":
            return x - level[:, None, None, None].to(x) * predicted
        if self.prediction == "sample":
            return predicted
        return abar.sqrt() * x_t - (1 - abar).sqrt() * predicted


def monai_denoiser(
    net: DiffusionModelUNet, scheduler: Scheduler, groups: ChannelGroups | None = None, nearest: bool = False
) -> ForeignDenoiser:
    """A MONAI `DiffusionModelUNet` with the DDPM or DDIM scheduler that it was trained with.

    A network with `num_class_embeds` is told the stratum as its class; others ignore it.

    Args:
        net: In evaluation mode and on its device.
        scheduler: Its `alphas_cumprod` and `prediction_type` are used, nothing else.
        groups: Channel groups; one group of all channels by default.
        nearest: Tell the network whole time steps only.

    Raises:
        ValueError: The network changes the number of channels (a learnt variance), or the scheduler's prediction is
            unknown.
    """
    if net.in_channels != net.out_channels:
        raise ValueError(
            f"expected as many channels out as in, got {net.in_channels} in and {net.out_channels} out; a network with "
            "learnt variance or extra conditioning channels needs a wrapper that leaves the mean alone"
        )
    classes = net.num_class_embeds is not None

    def predict(x_t: Batch, step: Tensor, stratum: Strata) -> Tensor:
        return torch.as_tensor(net(x_t, timesteps=step, class_labels=stratum if classes else None))

    prediction = str(getattr(scheduler, "prediction_type"))  # noqa: B009, the base class lacks it
    return ForeignDenoiser(
        predict, scheduler.alphas_cumprod.double(), prediction, groups or ChannelGroups((net.in_channels,)), nearest
    )
