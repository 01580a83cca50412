"""The minority score through another distance: by name, and through a lab's own network with its hash."""

import json
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mri_minority.core.errors import DataError, UsageError
from mri_minority.slices.store import SliceStore
from mri_minority.volumes.atomic import sha256_of
from mri_minority_pipelines.config import Recipe, ScoreConfig
from mri_minority_pipelines.distances import distance_of
from mri_minority_pipelines.model_folder import ModelFolder
from mri_minority_pipelines.request import resolve
from mri_minority_pipelines.stages import score_slices, train
from tests.support.tiny import silent

CPU = torch.device("cpu")


class Edges(nn.Module):
    """Differences between neighbours, coarse and fine."""

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        coarse = nn.functional.avg_pool2d(x, 4)
        return tuple(
            torch.cat([torch.ones_like(y[:, :, 1:, 1:]), y[:, :, 1:, 1:] - y[:, :, :-1, 1:], y[:, :, 1:, 1:]], dim=1)
            for y in (x, coarse)
        )


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("lab of somebody") / "edges.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.save(torch.jit.trace(Edges(), torch.zeros(2, 1, 16, 16)), path)
    return path


def bare(model: Path, out: Path) -> Path:
    """The model before it had classifiers."""
    shutil.copytree(model, out)
    card = json.loads((out / "model.json").read_text())
    (out / "model.json").write_text(json.dumps({**card, "classifiers": {}}))
    return out


def test_a_network_of_yours(model: Path, store: SliceStore, recipe_file: Path, network: Path, tmp_path: Path) -> None:
    """Name and hash are in the card, its folder is not; scoring needs the same file."""
    out = bare(model, tmp_path / "model")
    recipe = resolve(str(recipe_file), distance=f"file:{network}")
    card = train.run(recipe, store, out, "minority", "all", CPU, silent)
    said = card["classifiers"]["minority"]["score"]
    assert said["distance"] == "file:edges.pt"
    assert said["distance_sha256"] == sha256_of(network)
    assert "lab of somebody" not in (out / "model.json").read_text()
    folder, table = ModelFolder(out), tmp_path / "s.tsv"
    with pytest.raises(UsageError, match=r"--distance file:PATH"):
        score_slices.run(store, folder, table, None, CPU, silent)
    other = tmp_path / "edges.pt"
    other.write_bytes(network.read_bytes() + b" ")
    with pytest.raises(DataError, match="is another"):
        score_slices.run(store, folder, table, f"file:{other}", CPU, silent)
    score_slices.run(store, folder, table, f"file:{network}", CPU, silent)
    first, second = (
        np.genfromtxt(path, delimiter="\t", names=True, dtype=None, encoding="utf-8")["score"]
        for path in (table, out / "scores-minority.tsv")
    )
    np.testing.assert_allclose(first, second, rtol=0.05)


@pytest.mark.slow
def test_the_perceptual_distance_by_name(model: Path, store: SliceStore, recipe: Recipe, tmp_path: Path) -> None:
    """Scores differ from the balanced ones, and finished shards of another distance are not mistaken for them."""
    out = bare(model, tmp_path / "model")
    changed = recipe.model_copy(update={"score": recipe.score.model_copy(update={"distance": "st-lpips"})})
    before = (out / "scores-minority.tsv").read_text()
    train.run(changed, store, out, "minority", "score", CPU, silent)
    assert (out / "scores-minority.tsv").read_text() != before
    assert list((out / ".training").glob("score-*st-lpips*"))


def test_wrong_distances(recipe_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=r"score\.distance"):
        resolve(str(recipe_file), distance="lpips")
    with pytest.raises(DataError, match="found none"):
        resolve(str(recipe_file), distance=f"file:{tmp_path / 'absent.pt'}")
    monkeypatch.setattr("mri_minority_pipelines.perceptual._weights", lambda: [])
    with pytest.raises(UsageError, match="stlpips_pytorch"):
        distance_of(ScoreConfig(distance="st-lpips"), CPU, 1)
