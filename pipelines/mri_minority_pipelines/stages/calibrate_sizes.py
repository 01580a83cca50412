"""train, after the denoiser: regress true on denoised sizes of structures, on training slices of every stratum."""

from collections.abc import Callable

import numpy as np
import torch

from mri_minority.core.rng import generator_for
from mri_minority.diffusion.sizes import fit_sizes
from mri_minority.diffusion.state import encode
from mri_minority.slices.store import SliceStore
from mri_minority.training.checkpoint import save_tensors
from mri_minority.training.precision import autocast, wants_bfloat16
from mri_minority_pipelines.config import DenoiserConfig
from mri_minority_pipelines.events import Event
from mri_minority_pipelines.model_folder import SIZES, ModelFolder

_SLICES_PER_STRATUM = 160


def run(
    config: DenoiserConfig,
    store: SliceStore,
    model: ModelFolder,
    device: torch.device,
    tell: Callable[[Event], None],
) -> None:
    """Write `sizes.safetensors` into the model folder, unless it is there or the slices have no labels."""
    file = model.path / f"{SIZES}.safetensors"
    if file.is_file() or not store.label_names:
        return
    strata, train = store.strata(), store.indices("train")
    order = np.random.default_rng(config.seed).permutation(train)
    chosen = [order[strata[order] == t][:_SLICES_PER_STRATUM] for t in range(len(store.strata_names))]
    index = np.sort(np.concatenate(chosen))
    tell(Event("note", 0, 0, {"text": f"calibrating the sizes of structures on {len(index)} slices"}))
    image, label = store.read(index)
    x_0 = encode(torch.as_tensor(image), torch.as_tensor(label), len(store.label_names))
    generator = generator_for(config.seed, "sizes")
    net = model.denoiser().to(device)
    with autocast(device, wants_bfloat16(config.precision, device)):
        table = fit_sizes(net, x_0, torch.as_tensor(strata[index]), generator)
    save_tensors(file, {"correction": table.correction}, {"slices": len(index)})
