"""A lab's own network as a perceptual distance, from safetensors (a MONAI architecture) or a TorchScript archive.

Neither unpickles arbitrary objects. A safetensors file is numbers, and its header names a network of
`monai.networks.nets` and its arguments. A TorchScript archive holds code: torch interprets it, in its own restricted
language that has no Python and no imports but every operator of torch, so load only archives whose origin you know.
The file's hash is recorded with every score.
"""

import json
import warnings
from pathlib import Path
from typing import Any

import monai.networks.nets as architectures
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from mri_minority.core.errors import DataError
from mri_minority.core.types import Batch


def load_network(path: Path) -> nn.Module:
    """Read a network that takes an image (B, I, H, W) in [-1, 1] and returns features.

    Args:
        path: `.safetensors` with metadata `network` (a class of `monai.networks.nets`, such as "ResNetFeatures") and
            `arguments` (JSON, its keyword arguments); or `.pt`, `.ts`, `.pth`: a TorchScript archive.

    Raises:
        DataError: The file is missing, of another kind, or does not fit the network it names.
    """
    if not path.is_file():
        raise DataError(f"expected a network at {path}, found none")
    if path.suffix == ".safetensors":
        return _from_safetensors(path)
    if path.suffix not in (".pt", ".ts", ".pth"):
        raise DataError(f"expected a network as .safetensors or as TorchScript (.pt, .ts, .pth), found {path.name}")
    try:
        with warnings.catch_warnings():
            # torch advises torch.export, whose archives cannot be read without unpickling.
            warnings.simplefilter("ignore", DeprecationWarning)
            net: nn.Module = torch.jit.load(path, map_location="cpu")
    except RuntimeError as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise DataError(
            f"expected a TorchScript archive at {path} (from torch.jit.trace or torch.jit.script, then save), found "
            f"something else: {first}; a file of torch.save cannot be read safely"
        ) from error
    for parameter in net.parameters():  # a ScriptModule has no requires_grad_
        parameter.requires_grad = False
    return net.eval()


class FeatureDistance(nn.Module):
    """d(a, b) = sum over feature maps of the mean over positions of |a_hat - b_hat|^2, features of unit length.

    LPIPS without its learnt weights (Zhang et al. 2018, equation 1, w = 1). The image channels alone are looked
    at, clipped to [-1, 1].
    """

    def __init__(self, network: nn.Module, images: int = 1) -> None:
        """Wrap a network.

        Args:
            network: Its output is a tensor (B, F, ...) or a list or tuple of such tensors.
            images: How many channels of a state are image channels; they come first.
        """
        super().__init__()
        self.network, self.images = network, images

    def forward(self, x_0: Batch, denoised: Batch) -> Tensor:
        """What was lost of every slice, (B, 1).

        Raises:
            DataError: The network returns no features, or features that are not finite.
        """
        total = x_0.new_zeros(len(x_0))
        for first, second in zip(self._features(x_0), self._features(denoised), strict=True):
            squared = ((_unit(first) - _unit(second)) ** 2).sum(dim=1)
            total = total + squared.flatten(1).mean(dim=1)
        return total[:, None]

    def _features(self, state: Batch) -> list[Tensor]:
        found: Any = self.network(state[:, : self.images].clamp(-1, 1))
        maps = list(found) if isinstance(found, list | tuple) else [found]
        for feature in maps:
            if not isinstance(feature, Tensor) or feature.ndim < 2 or len(feature) != len(state):
                shape = tuple(feature.shape) if isinstance(feature, Tensor) else type(feature).__name__
                raise DataError(
                    f"expected features (B, F, ...) for {len(state)} images, or a list of them, the network of "
                    f"--distance returned {shape}"
                )
            if not bool(torch.isfinite(feature).all()):
                raise DataError("expected finite features, the network of --distance returned NaN or infinity")
        if not maps:
            raise DataError("expected features, the network of --distance returned an empty list")
        # A vector of features is one position.
        return [feature[:, :, None] if feature.ndim == 2 else feature.flatten(2) for feature in maps]


def _from_safetensors(path: Path) -> nn.Module:
    try:
        with safe_open(path, framework="pt") as file:
            notes = file.metadata() or {}
            weights = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118, not a mapping
    except SafetensorError as error:
        raise DataError(f"{path} is no safetensors file: {error}") from error
    name = notes.get("network", "")
    kind = getattr(architectures, name, None)
    if not (isinstance(kind, type) and issubclass(kind, nn.Module)):
        raise DataError(
            f"expected metadata `network` of {path.name} to name a class of monai.networks.nets, found {name!r}; save "
            'with save_file(net.state_dict(), path, metadata={"network": "...", "arguments": json.dumps({...})})'
        )
    try:
        with warnings.catch_warnings():
            # MONAI warns about its own optional accelerations at construction.
            warnings.simplefilter("ignore")
            net = kind(**json.loads(notes.get("arguments", "{}")))
        net.load_state_dict(weights)
    except (TypeError, ValueError, RuntimeError) as error:
        first = " ".join(str(error).split())[:300]
        raise DataError(
            f"expected the weights of {name}({notes.get('arguments', '')}) in {path.name}: {first}"
        ) from error
    return net.eval().requires_grad_(False)


def _unit(feature: Tensor) -> Tensor:
    return feature / (feature.pow(2).sum(dim=1, keepdim=True).sqrt() + 1e-10)
