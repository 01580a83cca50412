"""A denoiser that leaves most of a little noise where it was draws grain, and its loss alone does not tell anybody."""

from collections.abc import Callable

from mri_minority.training.checkpoint import load_tensors
from mri_minority_pipelines.events import Event
from mri_minority_pipelines.model_folder import ModelFolder, channel_names

SIGMA = 0.1
"""Noise that is less than the contrast of a fold and more than that of a scan at 2 mm."""
ENOUGH = 0.5
"""By eye: models that take out 0.2 draw grain, those that take out 0.6 and more do not (benchmarks/curve.md)."""


def noise_removed(model: ModelFolder) -> float | None:
    """Share of the variance of a little noise that one call takes out of held-out images: 1 is all, 0 is none.

    None where the model's files do not say. Below 0 the network adds more than it takes.
    """
    networks = ("fine", "denoiser") if model.recipe().denoiser.fine is not None else ("denoiser",)
    for name in networks:  # the second network, where there is one, is the one that is asked at low noise
        errors = load_tensors(model.path / f"{name}.safetensors")[1].get("rmse", {}).get(f"{SIGMA:g}")
        if errors is not None:
            images = len(channel_names(model.card()))
            return 1 - float(sum(e**2 for e in errors[:images])) / images / SIGMA**2
    return None


def warn(model: ModelFolder, tell: Callable[[Event], None]) -> None:
    """Tell whoever trains or draws that grain is to be expected, if it is."""
    share = noise_removed(model)
    if share is not None and share < ENOUGH:
        text = (
            f"expect grain: of noise of sigma {SIGMA:g} this model takes out {max(share, 0):.0%}, and {ENOUGH:.0%} is "
            "the least that looks like a scan. Train longer, or begin with another model (train --start-from)"
        )
        tell(Event("note", 0, 0, {"text": text}))
