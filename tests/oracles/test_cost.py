"""What the method costs, counted: network calls, classifier passes, slices in memory."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from mri_minority.diffusion.guidance import Guided
from mri_minority.diffusion.kernel import ChannelGroups, sigma_path
from mri_minority.diffusion.sampling import draw_slices
from mri_minority.diffusion.solvers import SOLVERS
from mri_minority.minority.score import channel_errors, lost_parts
from mri_minority.slices.select import CutSlices
from mri_minority.slices.store import SliceStore, StoreWriter
from mri_minority_pipelines.config import ScoreConfig
from mri_minority_pipelines.stages.score import lost_parts_of
from tests.support.tiny import silent

CPU, GROUPS = torch.device("cpu"), ChannelGroups((1, 1))


def test_five_draws_cost_five_network_calls_a_slice() -> None:
    calls: list[int] = []

    def denoiser(x: torch.Tensor, sigma: torch.Tensor, stratum: torch.Tensor) -> torch.Tensor:
        calls.append(len(x))
        return 0.5 * x

    x_0, stratum = torch.zeros(7, 2, 4, 4), torch.zeros(7, dtype=torch.long)
    lost_parts(denoiser, x_0, stratum, 2.5, list(range(7)), 5, 0, GROUPS, channel_errors)
    assert calls == [7] * 5


class _Watched(torch.autograd.Function):
    """Counts how often it is gone through, there and back."""

    passes = SimpleNamespace(forward=0, backward=0)

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        _Watched.passes.forward += 1
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:
        _Watched.passes.backward += 1
        return gradients[0]


@pytest.mark.parametrize("solver", SOLVERS)
def test_guidance_adds_one_classifier_pass_there_and_back_per_call(solver: str) -> None:
    """Beside every denoiser call, and the denoiser itself is not differentiated."""
    calls: list[bool] = []

    def denoiser(x: torch.Tensor, sigma: torch.Tensor, stratum: torch.Tensor) -> torch.Tensor:
        calls.append(torch.is_grad_enabled())
        return 0.5 * x

    def log_p(x: torch.Tensor, sigma: torch.Tensor, stratum: torch.Tensor) -> torch.Tensor:
        return -_Watched.apply(x).square().mean(dim=(1, 2, 3))

    _Watched.passes.forward = _Watched.passes.backward = 0
    path, stratum = sigma_path(20.0, 0.02, 6, 2), torch.zeros(3, dtype=torch.long)
    guided = Guided(denoiser, log_p, 2.0, GROUPS)
    draw_slices(guided, SOLVERS[solver], path, [0, 1, 2], stratum, (2, 4, 4), 0, GROUPS, CPU)
    steps = 6 * SOLVERS[solver].calls_per_step - (SOLVERS[solver].calls_per_step - 1)
    assert calls == [False] * steps
    assert (_Watched.passes.forward, _Watched.passes.backward) == (steps, steps)


class _Watching(SliceStore):
    """Remembers how many slices were read at once."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.seen: list[int] = []

    def read(self, index: Any) -> Any:
        self.seen.append(len(index))
        return super().read(index)


def _store(folder: Path, count: int) -> _Watching:
    writer = StoreWriter(folder, (8, 8))
    image, label = np.zeros((count, 1, 8, 8), np.float32), np.zeros((count, 8, 8), np.uint8)
    planes = np.stack([np.eye(4)] * count)
    cut = CutSlices(image, label, np.linspace(0.1, 0.9, count), np.arange(count), planes, (1.0,))
    writer.append(cut, "a", "a_T1", "0", "train")
    writer.finish([0] * count, {"label_names": ["brain"], "strata": {"names": ["all"]}})
    return _Watching(folder)


class _Halving:
    """A network that remembers how many slices it was given at once."""

    groups = GROUPS

    def __init__(self) -> None:
        self.seen: list[int] = []

    def __call__(self, x: torch.Tensor, sigma: torch.Tensor, stratum: torch.Tensor) -> torch.Tensor:
        self.seen.append(len(x))
        return 0.5 * x


def test_as_many_slices_are_in_memory_however_many_there_are(tmp_path: Path) -> None:
    """Scoring reads and denoises in blocks of one size, whether there are 100 slices or 3,000."""
    config, largest = ScoreConfig(distance="both", draws=2), {}
    for count in (100, 3000):
        store, net, work = _store(tmp_path / str(count), count), _Halving(), tmp_path / f"work{count}"
        work.mkdir()
        parts = lost_parts_of(config, net, store, torch.zeros(count, dtype=torch.long), work, CPU, silent)  # type: ignore[arg-type]
        assert parts.shape == (count, 2, 2)
        assert sum(net.seen) == 2 * count
        largest[count] = (max(store.seen), max(net.seen))
    assert largest[100] == largest[3000]
