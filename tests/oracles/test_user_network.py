"""A lab's own network as a distance: closed forms, both file kinds, and files that are neither."""

import json
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from monai.networks.nets.regressor import Regressor
from safetensors.torch import save_file
from torch import Tensor, nn

from mri_minority.backbones.user_network import FeatureDistance, load_network
from mri_minority.core.errors import DataError
from mri_minority.minority.score import lost_parts
from tests.support.worlds import ONE_GROUP, IsotropicGaussian


class Pair(nn.Module):
    """Two features of every pixel: the value itself and one."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, torch.ones_like(x)], dim=1)


def traced(net: nn.Module, path: Path) -> Path:
    """Save as TorchScript, as a user would."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.save(torch.jit.trace(net, torch.zeros(2, 1, 8, 8)), path)
    return path


def test_distance_in_closed_form() -> None:
    """Features (x, 1) of unit length lie at an angle atan(x): |difference|^2 = 2 - 2 cos of the angle between."""
    a, b = torch.rand(2, 5, 3, 4, 4, generator=torch.Generator().manual_seed(0)).mul(4).sub(2).double().unbind()
    angle = torch.atan(a[:, 0].clamp(-1, 1)) - torch.atan(b[:, 0].clamp(-1, 1))
    wanted = (2 - 2 * angle.cos()).mean(dim=(1, 2))[:, None]
    torch.testing.assert_close(FeatureDistance(Pair())(a, b), wanted, atol=1e-9, rtol=1e-9)
    assert float(FeatureDistance(Pair())(a, a).max()) == 0


class Several(nn.Module):
    """A list of maps and a vector."""

    def forward(self, x: Tensor) -> list[Tensor]:
        pair = Pair()(x)
        return [pair, pair[:, :, ::2, ::2], pair.mean(dim=(2, 3))]


def test_maps_are_added_and_a_vector_is_one_position() -> None:
    a, b = torch.randn(2, 3, 1, 4, 4, generator=torch.Generator().manual_seed(1)).unbind()
    whole = FeatureDistance(Pair())

    def of_mean(x: Tensor) -> Tensor:
        return torch.atan(x.clamp(-1, 1).mean(dim=(1, 2, 3)))

    wanted = whole(a, b) + whole(a[:, :, ::2, ::2], b[:, :, ::2, ::2])
    wanted = wanted + (2 - 2 * (of_mean(a) - of_mean(b)).cos())[:, None]
    torch.testing.assert_close(FeatureDistance(Several())(a, b), wanted, atol=1e-6, rtol=1e-5)


def test_torchscript_and_safetensors(tmp_path: Path) -> None:
    """What was saved is what computes; frozen and in evaluation mode."""
    x = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(2))
    script = load_network(traced(Pair(), tmp_path / "pair.pt"))
    torch.testing.assert_close(script(x), Pair()(x))
    torch.manual_seed(0)
    arguments = {"in_shape": [1, 8, 8], "out_shape": [6], "channels": [4, 8], "strides": [2, 2], "dropout": 0.5}
    net = Regressor(**arguments).eval()
    path = tmp_path / "own.safetensors"
    save_file(net.state_dict(), path, metadata={"network": "Regressor", "arguments": json.dumps(arguments)})
    loaded = load_network(path)
    assert not loaded.training
    assert not any(p.requires_grad for p in loaded.parameters())
    torch.testing.assert_close(loaded(x), net(x))


def test_the_score_looks_through_it(tmp_path: Path) -> None:
    """One part per slice and draw, and what is rare loses more of it."""
    world, x_0 = IsotropicGaussian(0.0, 0.2), torch.zeros(2, 1, 8, 8)
    x_0[1] = 0.9
    distance = FeatureDistance(load_network(traced(Pair(), tmp_path / "pair.pt")))
    lost = lost_parts(world, x_0, torch.zeros(2, dtype=torch.long), 1.0, [0, 1], 4, 0, ONE_GROUP, distance)
    assert lost.shape == (2, 4, 1)
    assert float(lost[1].mean()) > 10 * float(lost[0].mean())


def _empty(path: Path) -> None:
    path.write_bytes(b"nothing")


def _weights_only(path: Path) -> None:
    save_file({"w": torch.zeros(1)}, path)


def _other_class(path: Path) -> None:
    save_file({"w": torch.zeros(1)}, path, metadata={"network": "warnings"})


def _wrong_arguments(path: Path) -> None:
    save_file({"w": torch.zeros(1)}, path, metadata={"network": "Regressor", "arguments": '{"depth": 3}'})


@pytest.mark.parametrize(
    ("name", "make", "says"),
    [
        ("absent.pt", None, "found none"),
        ("net.pt", _empty, "TorchScript archive"),
        ("net.onnx", _empty, "as .safetensors or as TorchScript"),
        ("net.safetensors", _empty, "no safetensors file"),
        ("net.safetensors", _weights_only, "name a class of monai.networks.nets, found ''"),
        ("net.safetensors", _other_class, "found 'warnings'"),
        ("net.safetensors", _wrong_arguments, "the weights of Regressor"),
    ],
)
def test_wrong_files(name: str, make: Callable[[Path], None] | None, says: str, tmp_path: Path) -> None:
    path = tmp_path / name
    if make is not None:
        make(path)
    with pytest.raises(DataError, match=says):
        load_network(path)


def test_a_pickled_network_is_refused_unread(tmp_path: Path) -> None:
    """A file of torch.save is a pickle; it is not opened as one."""
    path = tmp_path / "net.pth"
    torch.save(Pair(), path)
    with pytest.raises(DataError, match="TorchScript archive"):
        load_network(path)


@pytest.mark.parametrize(
    ("returned", "says"),
    [
        (lambda x: x.sum(), "returned"),
        (lambda x: {"features": x}, "returned dict"),
        (lambda x: [], "empty list"),
        (lambda x: x / 0, "NaN or infinity"),
    ],
)
def test_networks_that_return_no_features(returned: Callable[[Tensor], object], says: str) -> None:
    net = nn.Identity()
    net.forward = returned  # type: ignore[assignment]
    with pytest.raises(DataError, match=says):
        FeatureDistance(net)(torch.ones(2, 1, 4, 4), torch.ones(2, 1, 4, 4))
