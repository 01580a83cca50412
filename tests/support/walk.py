"""A cohort of phantoms, a tiny recipe, and a model trained on them for a few steps: enough to walk the whole way."""

from pathlib import Path

import pytest
import torch
import yaml

from mri_minority.slices.store import SliceStore
from mri_minority.volumes.phantom import write_cohort
from mri_minority_pipelines.config import Recipe, load_recipe
from mri_minority_pipelines.stages import prepare, train
from tests.support.tiny import TINY, silent


@pytest.fixture(scope="session")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fourteen heads in assorted orientations, in a folder with an awkward name."""
    folder = tmp_path_factory.mktemp("lab") / 'Köln\'s "scans" 1'
    write_cohort(folder, 14, seed=3, rare_share=0.1)
    return folder


@pytest.fixture(scope="session")
def recipe_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny recipe as a file."""
    path = tmp_path_factory.mktemp("recipe") / "tiny.yaml"
    path.write_text(yaml.safe_dump(TINY, sort_keys=False), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def recipe(recipe_file: Path) -> Recipe:
    """The tiny recipe."""
    return load_recipe(str(recipe_file))


@pytest.fixture(scope="session")
def store(cohort: Path, recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> SliceStore:
    """The cohort, prepared."""
    out = tmp_path_factory.mktemp("stores") / "store"
    prepare.run(recipe.prepare, [cohort], out, silent)
    return SliceStore(out)


@pytest.fixture(scope="session")
def model(store: SliceStore, recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with two classifiers."""
    out = tmp_path_factory.mktemp("models") / "model"
    for rarity in ("minority", "attribute:ventricles_share"):
        train.run(recipe, store, out, rarity, "all", torch.device("cpu"), silent)
    return out
