"""Half the bits, the same anatomy: what bfloat16 changes must not add up along a chain of steps."""

import pytest
import torch

from mri_minority.training.precision import autocast
from mri_minority_pipelines.model_folder import EMBEDDED, find_model


@pytest.mark.parametrize("sigma", [0.1, 0.5, 2.0])
def test_bfloat16_moves_no_structure(sigma: float) -> None:
    """Of the model in the package: a channel's sum differs by less than half a pixel per call.

    With the head's convolutions in bfloat16 it is two.
    Every step of a sampler adds the same difference; ventricles have 150 pixels, and a tail is a few dozen more.
    """
    net = find_model(EMBEDDED).denoiser()
    x_0, stratum = net.gaussian.mean[4:7], torch.tensor([4, 5, 6])
    level = torch.full((3, 2), sigma)
    x = x_0 + sigma * torch.randn(x_0.shape, generator=torch.Generator().manual_seed(0))
    found = []
    for fast in (False, True):
        with torch.no_grad(), autocast(torch.device("cpu"), fast):
            found.append(net(x, level, stratum))
    moved = (found[1] - found[0]).sum(dim=(2, 3)).mean(dim=0)
    assert float(moved.abs().max()) < 0.5, moved
