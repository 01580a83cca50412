"""Two networks as one denoiser: each item goes to the expert of its largest noise level."""

from pathlib import Path

import pytest
import torch
import yaml
from torch import Tensor, nn

from mri_minority.backbones.experts import Experts
from mri_minority.backbones.monai_unet import UNetDenoiser, UNetShape
from mri_minority.diffusion.gaussian import GaussianWorld
from mri_minority.diffusion.kernel import ChannelGroups
from mri_minority_pipelines.request import resolve
from tests.support.tiny import TINY


@pytest.fixture(scope="module")
def experts() -> Experts:
    """A coarse and a fine network with random weights (a fresh one would say what its Gaussian start says)."""
    torch.manual_seed(0)
    world = GaussianWorld(
        torch.zeros(2, 3, 16, 16),
        torch.zeros(3 * 256, 0),
        torch.zeros(2, 0, 0),
        torch.full((2, 3), 0.2, dtype=torch.float64),
        ChannelGroups((1, 2)),
    )
    pair = []
    for patch in (4, 2):
        net = UNetDenoiser(world, UNetShape(patch, (32, 32), (False, False), 1, 8))
        nn.init.normal_(net.head.last.weight, std=0.1)
        pair.append(net)
    return Experts(*pair, border=0.7).eval().requires_grad_(False)


def call(net: nn.Module, x: Tensor, sigma: Tensor) -> Tensor:
    return torch.as_tensor(net(x, sigma, torch.tensor([0, 1] * (len(x) // 2))))


@pytest.mark.parametrize(("sigmas", "name"), [((0.7, 0.7), "coarse"), ((0.69, 0.69), "fine"), ((0.002, 5.0), "coarse")])
def test_the_largest_level_decides(experts: Experts, sigmas: tuple[float, float], name: str) -> None:
    x = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    sigma = torch.tensor([sigmas] * 4)
    expert, other = (experts.coarse, experts.fine) if name == "coarse" else (experts.fine, experts.coarse)
    assert torch.equal(call(experts, x, sigma), call(expert, x, sigma))
    assert not torch.allclose(call(experts, x, sigma), call(other, x, sigma), atol=1e-3)


def test_a_mixed_batch_is_split(experts: Experts) -> None:
    """Item by item the same as alone, in place."""
    x = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(2))
    sigma = torch.tensor([[3.0, 3.0], [0.1, 0.1], [0.1, 0.9], [0.2, 0.002]])
    stratum = torch.tensor([0, 1, 0, 1])
    together = experts(x, sigma, stratum)
    for item in range(4):
        one = slice(item, item + 1)
        torch.testing.assert_close(together[one], experts(x[one], sigma[one], stratum[one]), atol=1e-5, rtol=1e-4)


def test_the_time_is_for_both_networks(tmp_path: Path) -> None:
    """--max-minutes 60 trains for 60 minutes, shared between the networks as the recipe shares them."""
    two = TINY | {"denoiser": {**TINY["denoiser"], "minutes": 30, "fine": {"minutes": 90}}}
    file = tmp_path / "two.yaml"
    file.write_text(yaml.safe_dump(two), encoding="utf-8")
    config = resolve(str(file), minutes=60).denoiser
    assert config.fine is not None
    assert (config.minutes, config.fine.minutes) == (15, 45)
    assert resolve(str(file)).denoiser.minutes == 30
