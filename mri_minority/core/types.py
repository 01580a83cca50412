"""Shapes, named once. B items, C channels, G channel groups, H x W pixels, S sampling steps."""

from jaxtyping import Float, Int
from torch import Tensor

Batch = Float[Tensor, "B C H W"]
"""Images (channels first) in model units: intensities in [-1, 1], label channels at -0.5 or +0.5."""

Sigmas = Float[Tensor, "B G"]
"""Noise level of every item and channel group, in model units."""

Path = Float[Tensor, "S G"]
"""A path of noise levels from high to zero, one column per channel group."""

Strata = Int[Tensor, "B"]
"""Index of the stratum each item belongs to."""

Levels = Int[Tensor, "B"]
"""Minority level: 0 is common, L-1 is rarest."""

Scores = Float[Tensor, "B"]
"""One number per item."""
