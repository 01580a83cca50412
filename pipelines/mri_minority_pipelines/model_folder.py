"""The model folder: model.json says what it is, safetensors hold the weights. Nothing in it is ever unpickled."""

import hashlib
import json
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import torch

from mri_minority import __version__
from mri_minority.backbones.experts import Experts, Network
from mri_minority.backbones.monai_unet import UNetDenoiser, UNetShape
from mri_minority.core.errors import DataError
from mri_minority.diffusion.gaussian import GaussianWorld
from mri_minority.diffusion.sizes import SizeCalibrated, SizeTable
from mri_minority.diffusion.state import groups_for
from mri_minority.training.checkpoint import load_tensors, save_tensors
from mri_minority.volumes.atomic import sha256_of, write_json_atomic
from mri_minority_pipelines.config import DenoiserConfig, Recipe

FORMAT = 2

SIZES = "sizes"
"""Name of the file with the sizes' calibration; a model without labels has none."""

EMBEDDED = "embedded"
"""Name of the model that comes with the package."""


def find_model(name: str | Path) -> "ModelFolder":
    """A model folder, or the one inside the package for the name "embedded"."""
    if str(name) == EMBEDDED:
        return ModelFolder(Path(str(resources.files("mri_minority_pipelines.models") / "brain_t1_2mm")))
    return ModelFolder(Path(name))


@dataclass(frozen=True)
class ModelFolder:
    """A model on disk.

    Args:
        path: The folder.
    """

    path: Path

    def card(self) -> dict[str, Any]:
        """What model.json says.

        Raises:
            DataError: There is no model, or one of another format.
        """
        file = self.path / "model.json"
        if not file.is_file():
            raise DataError(
                f"expected a model folder at {self.path} (a model.json in it), found none; run `train` first"
            )
        try:
            card: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise DataError(f"{file} is damaged: {error}; train the model again") from error
        if card.get("format") != FORMAT:
            raise DataError(
                f"expected model format {FORMAT}, found {card.get('format')} in {file} (written by version "
                f"{card.get('version', 'unknown')}); train it again with this version, {__version__}"
            )
        return card

    def write_card(self, card: dict[str, Any]) -> None:
        """Write model.json; its presence is what makes the folder a model."""
        write_json_atomic(self.path / "model.json", {**card, "format": FORMAT, "version": __version__})

    def recipe(self) -> Recipe:
        """The settings the model was made with."""
        card = self.card()
        recipe = Recipe.model_validate(card["recipe"])
        return recipe.model_copy(update={"prepare": recipe.prepare.with_classes(card["label_names"])})

    def denoiser(self) -> Network:
        """The trained denoiser, in evaluation mode."""
        config = self.recipe().denoiser
        coarse = self._network(config, "denoiser").eval().requires_grad_(False)
        net: UNetDenoiser | Experts = coarse
        if config.fine is not None:
            fine = self._network(config.of_fine(config.fine), "fine")
            net = Experts(coarse, fine, config.fine.border)
        sizes = self.path / f"{SIZES}.safetensors"
        if not sizes.is_file():
            return net.eval().requires_grad_(False)
        return SizeCalibrated(net, SizeTable(load_tensors(sizes)[0]["correction"])).eval().requires_grad_(False)

    def weights(self) -> list[Path]:
        """Files that hold what the denoiser has learnt."""
        names = ["world", "denoiser", *(["fine"] if self.recipe().denoiser.fine is not None else [])]
        files = [self.path / f"{name}.safetensors" for name in names]
        sizes = self.path / f"{SIZES}.safetensors"
        return [*files, *([sizes] if sizes.is_file() else [])]

    def fingerprint(self) -> str:
        """SHA-256 over the hashes of :meth:`weights`: what "the same denoiser" means."""
        return hashlib.sha256("".join(sha256_of(file) for file in self.weights()).encode()).hexdigest()

    def _network(self, config: DenoiserConfig, name: str) -> UNetDenoiser:
        classes = len(self.card()["label_names"])
        net = build_denoiser(load_world(self.path / "world.safetensors", classes), config)
        net.load_state_dict(load_tensors(self.path / f"{name}.safetensors")[0])
        return net


def channel_names(card: dict[str, Any]) -> list[str]:
    """What the image channels of a model are, for example ["T1", "FLAIR"]; "" where nobody said.

    Older cards have one channel, named by the recipe's sequence if at all.
    """
    return list(card.get("channel_names", [card["recipe"]["prepare"].get("sequence") or ""]))


def build_denoiser(world: GaussianWorld, config: DenoiserConfig) -> UNetDenoiser:
    """The untrained network of a configuration."""
    shape = UNetShape(config.patch, config.channels, config.attention, config.blocks, config.head)
    return UNetDenoiser(world, shape)


def save_world(path: Path, world: GaussianWorld) -> None:
    """Write a fitted Gaussian world."""
    tensors: dict[str, torch.Tensor] = {
        "mean": world.mean.half(),
        "basis": world.basis.half(),
        "covariance": world.covariance,
        "residual_variance": world.residual_variance,
    }
    save_tensors(path, tensors, {"groups": list(world.groups.sizes)})


def load_world(path: Path, classes: int) -> GaussianWorld:
    """Read a fitted Gaussian world."""
    tensors, _ = load_tensors(path)
    return GaussianWorld(
        tensors["mean"].float(),
        tensors["basis"].float(),
        tensors["covariance"],
        tensors["residual_variance"],
        groups_for(tensors["mean"].shape[1] - classes, classes),
    )
