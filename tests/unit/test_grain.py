"""Whoever trains or draws is told of grain before it is drawn."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from mri_minority.training.checkpoint import load_tensors, save_tensors
from mri_minority_pipelines import grain
from mri_minority_pipelines.events import Event
from mri_minority_pipelines.model_folder import EMBEDDED, ModelFolder, find_model


@pytest.fixture
def model(tmp_path: Path) -> ModelFolder:
    """The packaged model's networks, to be written over."""
    shutil.copytree(find_model(EMBEDDED).path, tmp_path / "model")
    return ModelFolder(tmp_path / "model")


def said(model: ModelFolder, name: str, notes: dict[str, Any]) -> list[str]:
    """What is told of the model once one of its networks is noted to err so much."""
    file = model.path / f"{name}.safetensors"
    save_tensors(file, load_tensors(file)[0], notes)
    heard: list[Event] = []
    grain.warn(model, heard.append)
    return [event.values["text"] for event in heard]


def test_the_model_in_the_package_draws_none() -> None:
    """Its page gives 0.0539 at sigma 0.1: 1 - 0.539^2."""
    assert grain.noise_removed(find_model(EMBEDDED)) == pytest.approx(1 - 0.5386**2, abs=1e-4)


@pytest.mark.parametrize(
    ("rmse", "told"), [(0.0877, "takes out 23%"), (0.0708, "takes out 50%"), (0.2, "takes out 0%")]
)
def test_more_than_half_of_the_noise_left_is_grain(model: ModelFolder, rmse: float, told: str) -> None:
    """The image alone counts, at the one level; label maps are easier."""
    notes = {"rmse": {"0.05": [0.001] * 4, "0.1": [rmse, 0.001, 0.001, 0.001], "1": [0.001] * 4}}
    (text,) = said(model, "fine", notes)
    assert told in text
    assert "--start-from" in text


def test_the_network_that_is_asked_at_low_noise_counts(model: ModelFolder) -> None:
    """The first one may be as bad there as it likes; where nobody measured, nothing is said."""
    bad, good = ({"rmse": {"0.1": [value] * 4}} for value in (0.09, 0.0706))
    assert said(model, "denoiser", bad) == []
    assert said(model, "fine", good) == []
    assert len(said(model, "fine", {})) == 1  # then the first one's figure is all there is
    assert said(model, "denoiser", {}) == []
    assert grain.noise_removed(model) is None
