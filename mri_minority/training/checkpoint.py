"""Checkpoints as safetensors: everything a run needs to go on, written atomically, no pickle."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from mri_minority.core.errors import DataError
from mri_minority.training.ema import Ema
from mri_minority.volumes.atomic import write_bytes_atomic


def save_tensors(path: Path, tensors: dict[str, Tensor], notes: dict[str, Any]) -> None:
    """Write tensors and JSON-able notes to one safetensors file."""
    packed = {name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}
    # Not save_file: it takes the file's permissions away from everybody but its owner.
    write_bytes_atomic(path, save(packed, metadata={"notes": json.dumps(notes)}))


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what :func:`save_tensors` wrote.

    Raises:
        DataError: The file is missing, damaged or was written by something else.
    """
    if not path.is_file():
        raise DataError(f"expected weights at {path}, found none")
    try:
        with safe_open(path, framework="pt") as file:
            notes = json.loads((file.metadata() or {})["notes"])
            return {name: file.get_tensor(name) for name in file.keys()}, notes  # noqa: SIM118
    except (SafetensorError, KeyError, ValueError, OSError) as error:
        raise DataError(f"expected weights written by this program, could not read {path}: {error}") from error


def save_run(path: Path, module: nn.Module, ema: Ema, optimiser: torch.optim.Optimizer, notes: dict[str, Any]) -> None:
    """Write weights, averaged weights and the optimiser's moments of a run in progress."""
    tensors: dict[str, Tensor] = {f"weights.{name}": p for name, p in module.named_parameters()}
    tensors |= {f"ema.{name}": value for name, value in ema.values.items()}
    names = {id(p): name for name, p in module.named_parameters()}
    for parameter, state in optimiser.state.items():
        tensors |= {f"optimiser.{names[id(parameter)]}/{key}": value for key, value in state.items()}
    save_tensors(path, tensors, notes)


def load_run(path: Path, module: nn.Module, ema: Ema, optimiser: torch.optim.Optimizer) -> dict[str, Any]:
    """Put a run's state back in place and return its notes.

    Raises:
        DataError: The checkpoint is damaged or belongs to another network.
    """
    tensors, notes = load_tensors(path)
    parameters = dict(module.named_parameters())
    expected = {f"{kind}.{name}" for kind in ("weights", "ema") for name in parameters}
    if not expected <= set(tensors):
        raise DataError(f"{path} belongs to another network; remove it or choose another folder")
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(tensors[f"weights.{name}"])
            ema.values[name].copy_(tensors[f"ema.{name}"])
    for key, value in tensors.items():
        if key.startswith("optimiser."):
            name, entry = key.removeprefix("optimiser.").rsplit("/", 1)
            # The fused optimiser wants all of its state, step counts included, where the weights are.
            optimiser.state[parameters[name]][entry] = value.to(parameters[name].device)
    return notes
