"""Exponential moving average of weights: what is kept of a training run."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Ema:
    """Averages a module's parameters, short memory first, up to a longest one.

    The decay at step n is min(decay, (1 + n) / (1 + parts + n)): the memory grows with the run, about its last
    1/parts, until `decay` caps it (a power-function average, https://arxiv.org/abs/2312.02696, section 3.1).

    Args:
        module: What is averaged; read at every update.
        decay: Longest memory, in [0, 1].
        parts: Of how many parts of the run so far the last is remembered.
    """

    def __init__(self, module: nn.Module, decay: float, parts: float = 9.0) -> None:
        """Start from the module's present weights."""
        self.decay, self.parts = decay, parts
        self.values: dict[str, Tensor] = {name: p.detach().clone() for name, p in module.named_parameters()}

    def update(self, module: nn.Module, step: int) -> None:
        """Take in the weights after step `step` (from 1)."""
        decay = min(self.decay, (1 + step) / (1 + self.parts + step))
        parameters = dict(module.named_parameters())
        names = list(self.values)
        with torch.no_grad():
            torch._foreach_lerp_([self.values[n] for n in names], [parameters[n].detach() for n in names], 1 - decay)

    @contextmanager
    def in_place_of_weights(self, module: nn.Module) -> Iterator[None]:
        """Within the block the module evaluates with the averaged weights; afterwards all is as before."""
        weights = {name: p.detach().clone() for name, p in module.named_parameters()}
        training = module.training
        self.copy_to(module)
        module.eval()
        try:
            yield
        finally:
            with torch.no_grad():
                for name, parameter in module.named_parameters():
                    parameter.copy_(weights[name])
            module.train(training)

    def copy_to(self, module: nn.Module) -> None:
        """Put the averaged weights into a module of the same kind."""
        with torch.no_grad():
            for name, parameter in module.named_parameters():
                parameter.copy_(self.values[name])
