"""ST-LPIPS: a shift-tolerant perceptual distance (Ghildyal & Liu 2022), AlexNet trunk.

The weights come inside the wheel of `stlpips_pytorch` (BSD-2); its code, which needs torchvision, is not used.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

_LAYERS = (("slice1.0", 2, 1), ("slice2.5", 2, 1), ("slice3.9", 1, 1), ("slice4.11", 1, 1), ("slice5.13", 1, 1))
"""Convolution's name, padding, stride."""


class ShiftTolerantLpips(nn.Module):
    """d(a, b) = sum over layers of the mean over pixels of w . (a_hat - b_hat)^2, features of unit length."""

    def __init__(self, weights: dict[str, Tensor]) -> None:
        """Take the weights as they lie in the wheel's alex_shift_tolerant.pth.

        Raises:
            ValueError: They are not those weights.
        """
        super().__init__()
        needed = [f"net.{name}.weight" for name, _, _ in _LAYERS] + [f"lin{n}.model.1.weight" for n in range(5)]
        missing = [name for name in needed if name not in weights]
        if missing:
            raise ValueError(f"expected the weights of ST-LPIPS with AlexNet, missing {missing[0]}")
        for name, value in weights.items():
            self.register_buffer(name.replace(".", "_"), value.float(), persistent=False)

    def features(self, x: Tensor) -> list[Tensor]:
        """Activations of the five layers for (B, 3, H, W) in [-1, 1]."""
        h = (x - self.get_buffer("scaling_layer_shift")) / self.get_buffer("scaling_layer_scale")
        found = []
        for number, (name, padding, stride) in enumerate(_LAYERS):
            key = f"net_{name.replace('.', '_')}"
            if number in (1, 2):
                h = self._blur(functional.max_pool2d(h, 3, stride=1))
            h = functional.conv2d(h, self.get_buffer(f"{key}_weight"), self.get_buffer(f"{key}_bias"), stride, padding)
            h = functional.relu(self._blur(h) if number == 0 else h)
            found.append(h)
        return found

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Distance of every pair (B,) for (B, 1 or 3, H, W) in [-1, 1]."""
        total = a.new_zeros(len(a))
        pairs = zip(self.features(_rgb(a)), self.features(_rgb(b)), strict=True)
        for number, (first, second) in enumerate(pairs):
            difference = (_unit(first) - _unit(second)) ** 2
            weight = self.get_buffer(f"lin{number}_model_1_weight")
            total = total + functional.conv2d(difference, weight).mean(dim=(1, 2, 3))
        return total

    def pooled(self, x: Tensor) -> Tensor:
        """Mean activation of every channel of every layer: (B, 1152), for (B, 1 or 3, H, W) in [-1, 1]."""
        return torch.cat([h.mean(dim=(2, 3)) for h in self.features(_rgb(x))], dim=1)

    def _blur(self, h: Tensor) -> Tensor:
        """Anti-aliased halving: [1 2 1] x [1 2 1] / 16 after reflecting two pixels on every side."""
        row = torch.tensor([1.0, 2.0, 1.0], device=h.device) / 4
        kernel = (row[:, None] * row[None, :]).expand(h.shape[1], 1, 3, 3)
        return functional.conv2d(functional.pad(h, (2, 2, 2, 2), mode="reflect"), kernel, stride=2, groups=h.shape[1])


def _rgb(x: Tensor) -> Tensor:
    return x.expand(-1, 3, -1, -1) if x.shape[1] == 1 else x


def _unit(h: Tensor) -> Tensor:
    return h / (h.pow(2).sum(dim=1, keepdim=True).sqrt() + 1e-10)
