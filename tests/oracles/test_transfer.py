"""Weights from another network: what means the same computes the same, whatever order the channels are in."""

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor, nn

from mri_minority.backbones.monai_unet import UNetDenoiser, UNetShape
from mri_minority.backbones.transfer import corresponding, start_from
from mri_minority.diffusion.gaussian import GaussianWorld
from mri_minority.diffusion.kernel import ChannelGroups

SIZE, RANK = 16, 3
SHAPE = UNetShape(2, (32, 32), (False, True), 1, 8)
CLASSES = ("grey", "white", "fluid")


def world(channels: int) -> GaussianWorld:
    """Two strata, each channel with a mean, directions and a residual of its own."""
    generator = torch.Generator().manual_seed(0)
    return GaussianWorld(
        0.3 * torch.randn(2, channels, SIZE, SIZE, generator=generator),
        torch.linalg.qr(torch.randn(channels * SIZE**2, RANK, generator=generator))[0],
        torch.diag_embed(1 + 9 * torch.rand(2, RANK, generator=generator, dtype=torch.float64)),
        0.02 + 0.2 * torch.rand(2, channels, generator=generator, dtype=torch.float64),
        ChannelGroups((1, channels - 1)),
    )


def reordered(of: GaussianWorld, order: list[int]) -> GaussianWorld:
    """The same world with its channels in another order."""
    basis = of.basis.view(of.groups.channels, SIZE**2, -1)[order].reshape(-1, of.basis.shape[1])
    return GaussianWorld(of.mean[:, order], basis, of.covariance, of.residual_variance[:, order], of.groups)


def network(of: GaussianWorld, seed: int, shape: UNetShape = SHAPE) -> UNetDenoiser:
    """A network every weight of which matters: none is 0, as some are in a fresh one."""
    torch.manual_seed(seed)
    net = UNetDenoiser(of, shape).eval()
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.1)
    return net


def weights(net: UNetDenoiser) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in net.state_dict().items()}


def call(net: UNetDenoiser, x: Tensor, sigma: Tensor, stratum: Tensor) -> Tensor:
    with torch.no_grad():
        return torch.as_tensor(net(x, sigma, stratum))


def noisy(channels: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(4)
    x = torch.randn(4, channels, SIZE, SIZE, generator=generator)
    return x, torch.tensor([[0.1, 0.3], [1.0, 0.05], [5.0, 9.0], [0.5, 0.5]]), torch.tensor([0, 1, 0, 1])


def alike_in_strata(net: UNetDenoiser) -> UNetDenoiser:
    """What is learnt about strata is averaged: give the source nothing to average."""
    with torch.no_grad():
        table = net.body.class_embedding.weight  # type: ignore[union-attr]
        table.copy_(table[:1].expand_as(table))  # type: ignore[operator,index]
    return net


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_classes_are_found_by_name(order: tuple[int, int, int]) -> None:
    """The same classes in another order: the same denoiser, its channels in that order."""
    names = tuple(CLASSES[n] for n in order)
    channels = [0, *(1 + n for n in order)]
    source = alike_in_strata(network(world(4), 1))
    target = network(reordered(world(4), channels), 2)
    x, sigma, stratum = noisy(4)
    wanted = call(source, x, sigma, stratum)[:, channels]
    assert not torch.allclose(call(target, x[:, channels], sigma, stratum), wanted, atol=0.1)
    start_from(target, weights(source), corresponding(1, names, 1, CLASSES))
    torch.testing.assert_close(call(target, x[:, channels], sigma, stratum), wanted, atol=1e-4, rtol=1e-4)


def test_a_channel_that_the_other_lacks_keeps_its_weights() -> None:
    """A lesion is nothing that a network of tissues knows; where it carries weight 0, the rest is as before."""
    source = alike_in_strata(network(world(4), 1))
    with torch.no_grad():  # a source that does not look at its tissues, and a target that does not look at its lesion
        _blind(source, range(1, 4))
    two = reordered(world(4), [0, 1, 2, 3])
    two = GaussianWorld(
        two.mean[:, :2],
        torch.cat([two.basis.view(4, SIZE**2, -1)[0], torch.zeros(SIZE**2, RANK)]),
        two.covariance,
        two.residual_variance[:, :2],
        ChannelGroups((1, 1)),
    )
    target = network(two, 2)
    with torch.no_grad():
        _blind(target, range(1, 2))
    before = weights(target)
    start_from(target, weights(source), corresponding(1, ("lesion",), 1, CLASSES))
    after = weights(target)
    assert torch.equal(after["head.last.weight"][1], before["head.last.weight"][1])
    assert torch.equal(after["head.last.weight"][0], source.head.last.weight[0])
    x, sigma, stratum = noisy(4)
    # One sees all directions of the Gaussian world, the other those of the image: compare what the networks add.
    mine = (call(target, x[:, :2], sigma, stratum) - target.gaussian(x[:, :2], sigma, stratum))[:, 0]
    start = target.gaussian(x[:, :2], sigma, stratum)
    source.gaussian.forward = lambda *_: torch.cat([start, torch.zeros_like(start)], dim=1)  # type: ignore[method-assign]
    theirs = (call(source, x, sigma, stratum)[:, :1] - start[:, :1])[:, 0]
    scale = target.c_out(sigma)[:, 0] / source.c_out(sigma)[:, 0]
    torch.testing.assert_close(mine, theirs * scale[:, None, None], atol=1e-4, rtol=1e-3)


def test_a_network_without_label_maps_takes_what_is_of_the_image() -> None:
    """One channel and one noise level instead of four and two; and back again, what it lacks stays as it was."""
    source, four = network(world(4), 1), world(4)
    alone = GaussianWorld(
        four.mean[:, :1], four.basis[: SIZE**2], four.covariance, four.residual_variance[:, :1], ChannelGroups((1,))
    )
    target = network(alone, 2)
    start_from(target, weights(source), corresponding(1, (), 1, CLASSES))
    mine, theirs, block = weights(target), weights(source), SHAPE.patch**2
    first, of = mine["body.conv_in.conv.weight"], theirs["body.conv_in.conv.weight"]
    assert torch.equal(first[:, :block], of[:, :block])
    assert torch.equal(first[:, block : 2 * block], of[:, 4 * block : 5 * block])
    assert torch.equal(first[:, 2 * block], of[:, 8 * block])
    assert torch.equal(mine["head.modulation.0.weight"], theirs["head.modulation.0.weight"][:, :1])
    other = network(world(4), 3)
    before = weights(other)
    start_from(other, mine, corresponding(1, CLASSES, 1, ()))
    assert torch.equal(weights(other)["head.modulation.0.weight"][:, 1], before["head.modulation.0.weight"][:, 1])
    assert torch.equal(weights(other)["head.modulation.0.weight"][:, 0], mine["head.modulation.0.weight"][:, 0])


def _blind(net: UNetDenoiser, channels: range) -> None:
    """Let a network ignore some channels of what it is given."""
    block, many = net.patch**2, net.groups.channels
    first, head = net.body.conv_in.conv.weight, net.head.first.weight  # type: ignore[union-attr]
    features = head.shape[1] - 3 * many
    for c in channels:
        for part in range(2):
            at = (part * many + c) * block
            first[:, at : at + block] = 0  # type: ignore[index,operator]
        for part in range(3):
            head[:, features + part * many + c] = 0


def test_what_was_learnt_about_strata_is_averaged() -> None:
    source, target = network(world(4), 1), network(world(4), 2)
    start_from(target, weights(source), corresponding(1, CLASSES, 1, CLASSES))
    table, of = (weights(net)["body.class_embedding.weight"] for net in (target, source))
    torch.testing.assert_close(table, of.mean(dim=0, keepdim=True).expand_as(of))


@pytest.mark.parametrize(
    "shape",
    [
        UNetShape(4, (32, 32), (False, True), 1, 8),
        UNetShape(2, (32, 64), (False, True), 1, 8),
        UNetShape(2, (32, 32), (False, False), 1, 8),
        UNetShape(2, (32, 32), (False, True), 1, 12),
    ],
)
def test_another_shape_is_refused_and_nothing_is_changed(shape: UNetShape) -> None:
    source, target = network(world(4), 1, shape), network(world(4), 2)
    before = weights(target)
    with pytest.raises(ValueError, match="shape"):
        start_from(target, weights(source), corresponding(1, CLASSES, 1, CLASSES))
    assert _equal(weights(target), before)


def _equal(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    return all(torch.equal(a[name], b[name]) for name in a)


def test_images_correspond_in_order_and_classes_by_name() -> None:
    assert corresponding(2, ("lesion", "white"), 1, CLASSES) == {0: 0, 3: 2}
    assert corresponding(1, (), 2, CLASSES) == {0: 0}
