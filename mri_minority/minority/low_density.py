"""Low-density sampling: away from the stratum's mean in an embedding, held back by a real/fake discriminator."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from mri_minority.core.types import Batch, Scores, Sigmas, Strata

Embedding = Callable[[Batch, Sigmas, Strata], Tensor]
"""(x_sigma, sigma, stratum) -> embedding (B, F), differentiable in x."""

Logit = Callable[[Batch, Sigmas, Strata], Tensor]
"""(x_sigma, sigma, stratum) -> logit of "this is a noised real slice" (B,), differentiable in x."""


@dataclass(frozen=True)
class Centres:
    """Mean direction of the real slices' embeddings, per noise level and stratum.

    Args:
        sigmas: Noise levels of the rows, rising (S,), above zero.
        mean: Unit vectors (S, T, F).
    """

    sigmas: Tensor
    mean: Tensor

    def __post_init__(self) -> None:
        """Check that the shapes belong together."""
        if self.mean.ndim != 3 or self.sigmas.shape != self.mean.shape[:1] or not bool((self.sigmas > 0).all()):
            raise ValueError(
                f"expected noise levels (S,) above zero and means (S, T, F), got {tuple(self.sigmas.shape)} and "
                f"{tuple(self.mean.shape)}"
            )

    def at(self, sigma: Sigmas, stratum: Strata) -> Tensor:
        """Unit vector of every item (B, F): linear in ln sigma between two rows, the end rows beyond them."""
        level = sigma.max(dim=1).values.to(self.sigmas).clamp(self.sigmas[0], self.sigmas[-1])
        upper = torch.searchsorted(self.sigmas, level.contiguous()).clamp(1, max(1, len(self.sigmas) - 1))
        if len(self.sigmas) == 1:
            return functional.normalize(self.mean[0, stratum], dim=1)
        low, high = self.sigmas[upper - 1].log(), self.sigmas[upper].log()
        share = ((level.log() - low) / (high - low))[:, None].to(self.mean)
        return functional.normalize(
            (1 - share) * self.mean[upper - 1, stratum] + share * self.mean[upper, stratum], dim=1
        )


def mean_direction(embeddings: Tensor, stratum: Strata, strata: int) -> Tensor:
    """Unit mean of the unit embeddings of every stratum: (N, F), (N,) -> (T, F).

    Raises:
        ValueError: A stratum has no slice.
    """
    counts = torch.bincount(stratum, minlength=strata)
    if int(counts.min()) < 1:
        raise ValueError(f"expected a slice in each of {strata} strata, got counts {counts.tolist()}")
    unit = functional.normalize(embeddings, dim=1)
    return functional.normalize(torch.stack([unit[stratum == t].mean(dim=0) for t in range(strata)]), dim=1)


@dataclass(frozen=True)
class LowDensity:
    """log-probability whose gradient pushes away from the common and pulls towards the real.

    E(x) = -push cos(f(x), mu_stratum) + pull log P(real | x), all at the noise level of x; its gradient times
    sigma^2 is added to the posterior mean by :class:`mri_minority.diffusion.guidance.Guided` with weight 1.

    Reference: Sehwag et al. 2022, "Generating High Fidelity Data from Low-Density Regions Using Diffusion Models",
    section 3: the two terms. Simplified: the similarity to the own mean alone is lowered, without the contrast to
    the other classes' means, since neighbouring strata look much alike.

    Args:
        embed: Of a noise-conditional classifier.
        centres: Of the training slices in that embedding.
        real: Logit of the discriminator.
        push: Weight of the push, at least 0.
        pull: Weight of the pull, at least 0.
    """

    embed: Embedding
    centres: Centres
    real: Logit
    push: float
    pull: float

    def __call__(self, x: Batch, sigma: Sigmas, stratum: Strata) -> Scores:
        """E of every item (B,)."""
        similarity = functional.cosine_similarity(self.embed(x, sigma, stratum), self.centres.at(sigma, stratum), dim=1)
        return -self.push * similarity + self.pull * functional.logsigmoid(self.real(x, sigma, stratum))
