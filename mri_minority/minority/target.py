"""What `--class` means: a set of levels."""

import re

import torch
from torch import Tensor

from mri_minority.core.errors import UsageError


def wanted_levels(text: str, levels: int) -> Tensor:
    """Parse a wanted class.

    Args:
        text: "rare" (the top level), "common" (level 0), a level ("7"), "rarest:5%", or a range of shares ("50%-60%"):
            the levels whose middle lies in it, its lower end included. Neighbouring ranges share no level.
        levels: L.

    Returns:
        bool (L,).

    Raises:
        UsageError: The text is none of these, or out of range.
    """
    wanted = torch.zeros(levels, dtype=torch.bool)
    rarest = re.fullmatch(r"rarest:(\d+(?:\.\d+)?)%", text)
    shares = re.fullmatch(r"(\d+(?:\.\d+)?)%-(\d+(?:\.\d+)?)%", text)
    if text == "rare":
        wanted[-1] = True
    elif text == "common":
        wanted[0] = True
    elif text.isascii() and text.isdigit():
        if int(text) >= levels:
            raise UsageError(f"expected a level from 0 (common) to {levels - 1} (rarest), found {text}")
        wanted[int(text)] = True
    elif rarest and 0 < float(rarest[1]) <= 100:
        wanted[-max(1, round(float(rarest[1]) / 100 * levels)) :] = True
    elif shares and 0 <= float(shares[1]) < float(shares[2]) <= 100:
        middle = (torch.arange(levels, dtype=torch.float64) + 0.5) * 100 / levels
        # Half open: a middle on the border of two neighbouring ranges belongs to the upper one, never to both.
        wanted = (middle >= float(shares[1])) & (middle < float(shares[2]))
        if not bool(wanted.any()):
            raise UsageError(f"{text} is narrower than one of the {levels} levels; widen it")
    else:
        raise UsageError(f"expected rare, common, a level, rarest:5% or 50%-60%, found {text!r}")
    return wanted
