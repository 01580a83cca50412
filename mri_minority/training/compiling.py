"""torch.compile where it pays: a step becomes a sixth shorter, after a minute or two of a C++ compiler."""

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn

PAYS_FROM_MINUTES = 20.0
"""Compiling the larger network of a recipe is earned back in 8 minutes (benchmarks/training.md)."""


def wants_compile(compile_: str, device: torch.device, processes: int, minutes: float, bfloat16: bool) -> bool:
    """Whether to compile: as said, or ("auto") where it was measured to pay: one process, a CPU, long enough.

    And with bfloat16: on a CPU without it a step gained 0 to 8 %, for two to three minutes of compiling.
    """
    if compile_ == "auto":
        return device.type == "cpu" and processes == 1 and minutes >= PAYS_FROM_MINUTES and bfloat16
    return compile_ == "yes"


def compiled(net: nn.Module, loss_of: Callable[[nn.Module], Tensor]) -> nn.Module | RuntimeError:
    """The network compiled, sharing its weights; or why this machine cannot.

    Args:
        net: In training mode.
        loss_of: Network -> a loss as in training: forward and backward are compiled by computing it once.
    """
    quick = cast(nn.Module, torch.compile(net))
    try:
        loss_of(quick).backward()
    except RuntimeError as error:  # no compiler, no Python headers; what is wrong with the network fails again without
        return error
    finally:
        net.zero_grad(set_to_none=True)
    return quick
