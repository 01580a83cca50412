"""Find the perceptual network's weights inside an installed wheel; nothing is downloaded, no code of it is imported."""

from importlib.metadata import PackageNotFoundError, PackagePath, files
from pathlib import Path

import torch

from mri_minority.backbones.perceptual import ShiftTolerantLpips
from mri_minority.core.errors import UsageError

_WHEEL, _FILE = "stlpips_pytorch", "alex_shift_tolerant.pth"


def is_installed() -> bool:
    """Whether the wheel is there."""
    return bool(_weights())


def shift_tolerant_lpips() -> ShiftTolerantLpips:
    """ST-LPIPS from the wheel's weights.

    Raises:
        UsageError: The wheel is not installed.
    """
    found = _weights()
    if not found:
        raise UsageError(
            "a perceptual distance needs the weights inside the package stlpips_pytorch; install it with "
            "`pip install --no-deps stlpips_pytorch` (its own code and dependencies are not used)"
        )
    weights = torch.load(Path(str(found[0].locate())), map_location="cpu", weights_only=True)
    return ShiftTolerantLpips(weights).eval()


def _weights() -> list[PackagePath]:
    try:
        return [entry for entry in files(_WHEEL) or [] if entry.name == _FILE]
    except PackageNotFoundError:
        return []
