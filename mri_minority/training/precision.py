"""Which arithmetic is fastest here is measured, not assumed."""

import time
from contextlib import AbstractContextManager

import torch
from torch import nn


def autocast(device: torch.device, bfloat16: bool) -> AbstractContextManager[object]:
    """Mixed precision in bfloat16, or nothing."""
    return torch.autocast(device_type=device.type, dtype=torch.bfloat16, enabled=bfloat16)


def wants_bfloat16(precision: str, device: torch.device) -> bool:
    """Whether to compute in bfloat16: as said, or ("auto") where it pays."""
    return bfloat16_pays(device) if precision == "auto" else precision == "bfloat16"


def bfloat16_pays(device: torch.device) -> bool:
    """Time forward and backward of a convolution in both precisions; True if bfloat16 wins by a tenth."""
    layer = nn.Conv2d(64, 64, 3, padding=1, device=device)
    x = torch.zeros(8, 64, 28, 28, device=device)
    best = {}
    for wide in (False, True):
        times = []
        for _ in range(6):
            begun = time.perf_counter()
            with torch.enable_grad(), autocast(device, wide):
                layer(x).float().sum().backward()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            times.append(time.perf_counter() - begun)
        best[wide] = min(times)
    return best[True] < 0.9 * best[False]
