"""T1 and FLAIR of one head, the whole way: prepared, learnt, scored, drawn, edited, labelled, judged, exported."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
import yaml
from typer.testing import CliRunner

from mri_minority.export.dataset import read_manifest, verify_dataset
from mri_minority.slices.store import SliceStore
from mri_minority.training.checkpoint import load_tensors
from mri_minority.volumes.phantom import write_cohort
from mri_minority_cli.app import app
from mri_minority_pipelines.config import PrepareConfig, recipe_names
from mri_minority_pipelines.model_folder import ModelFolder
from tests.support.tiny import TINY

pytestmark = pytest.mark.slow
BOTH = ("T1", "FLAIR")


def run(*words: object) -> str:
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `recipe.yaml`, `store` and `model`."""
    folder = tmp_path_factory.mktemp("lab")
    write_cohort(folder / "heads", 8, seed=2, rare_share=0.2, sequences=BOTH)
    recipe = {**TINY, "prepare": {**TINY["prepare"], "sequence": [*BOTH], "stratum_min_slices": 10}}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    run("prepare", folder / "heads", "--recipe", folder / "recipe.yaml", "--out", folder / "store")
    run("train", folder / "store", "--recipe", folder / "recipe.yaml", "--out", folder / "model")
    return folder


def test_store_and_model_know_both(lab: Path) -> None:
    store = SliceStore(lab / "store")
    assert store.channel_names == BOTH
    image, label = store.read(np.arange(len(store.rows)))
    assert image.shape == (len(store.rows), 2, *label.shape[1:])
    assert len({row.scale for row in store.rows}) == 8
    card = ModelFolder(lab / "model").card()
    assert card["channel_names"] == [*BOTH]
    assert len(card["intensity_scale"]) == 2
    net = ModelFolder(lab / "model").denoiser()
    assert net.groups.sizes == (2, 3)
    weights = load_tensors(lab / "model" / "score-weights.safetensors")[0]["weights"]
    assert weights.shape[1] == 5
    assert "T1 + FLAIR" in run("info", lab / "store")
    assert "T1 + FLAIR" in run("info", lab / "model")


def test_drawn_slices_have_both_channels_and_go_everywhere(lab: Path, tmp_path: Path) -> None:
    out = tmp_path / "rare"
    run("synthesize", "--model", lab / "model", "--count", 4, "--seed", 3, "--out", out)
    manifest = read_manifest(out)
    assert verify_dataset(out) == []
    assert manifest["channel_names"] == [*BOTH]
    assert len(manifest["white"]) == 2
    for row in manifest["slices"]:
        one, two = (np.asarray(nib.nifti1.load(out / name).dataobj) for name in row["image"])
        assert one.shape == two.shape == (48, 64, 1)
        assert not np.array_equal(one, two)
    for layout in ("nnunet", "monai", "bids", "dicom"):
        run("export", out, "--to", layout, "--out", tmp_path / layout)
        assert verify_dataset(tmp_path / layout) == []
    said = json.loads((tmp_path / "nnunet" / "Dataset900_MriMinority" / "dataset.json").read_text())
    assert said["channel_names"] == {"0": "T1", "1": "FLAIR"}


def test_the_other_verbs_take_it_too(lab: Path, tmp_path: Path) -> None:
    model, store = lab / "model", lab / "store"
    run("score", model, "--slices", store, "--out", tmp_path / "scores.tsv")
    assert len((tmp_path / "scores.tsv").read_text().splitlines()) == len(SliceStore(store).rows) + 1
    run("label", store, "--model", model, "--draws", 1, "--out", tmp_path / "labels")
    edit = ["synthesize", "--model", model, "--store", store, "--edit", "ventricles:grow=1.2", "--count", 2]
    run(*edit, "--out", tmp_path / "grown")
    assert len(read_manifest(tmp_path / "grown")["slices"][0]["image"]) == 2
    derived = ["synthesize", "--model", model, "--from", store, "--strength", 0.5, "--allow-derived", "--count", 4]
    run(*derived, "--out", tmp_path / "near")
    run("synthesize", "--model", model, "--count", 5, "--method", "ancestral", "--out", tmp_path / "plain")
    run("evaluate", tmp_path / "plain", "--against", store, "--model", model, "--out", tmp_path / "report")
    metrics = json.loads((tmp_path / "report" / "metrics.json").read_text())
    assert metrics["audit"]["slices"] == 5
    assert metrics["agreement"]["dice"].keys() == {"grey_matter", "white_matter", "ventricles"}


def test_a_store_of_other_channels_is_refused(lab: Path, tmp_path: Path) -> None:
    recipe = yaml.safe_load((lab / "recipe.yaml").read_text())
    recipe["prepare"]["sequence"] = "T1"
    (tmp_path / "one.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    run("prepare", lab / "heads", "--recipe", tmp_path / "one.yaml", "--out", tmp_path / "one")
    asked = ["score", str(lab / "model"), "--slices", str(tmp_path / "one"), "--out", str(tmp_path / "s.tsv")]
    result = CliRunner().invoke(app, asked)
    assert result.exit_code == 3
    assert "expected slices of T1 + FLAIR" in result.stderr


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_a_network_of_a_lab_sees_both_channels(lab: Path, tmp_path: Path) -> None:
    class Mean(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.avg_pool2d(x, 8)

    from mri_minority_pipelines.config import ScoreConfig
    from mri_minority_pipelines.distances import distance_of

    torch.jit.trace(Mean(), torch.zeros(1, 2, 48, 64)).save(tmp_path / "mean.pt")
    config = ScoreConfig(distance="file:mean.pt", distance_file=tmp_path / "mean.pt")
    distance = distance_of(config, torch.device("cpu"), 2)
    state = torch.rand(3, 5, 48, 64)
    changed = state.clone()
    changed[:, 1] *= -1
    assert float(distance(state, changed).min()) > 0
    changed = state.clone()
    changed[:, 2:] *= -1  # labels are no image
    assert float(distance(state, changed).max()) == 0


def test_recipes_name_channels_once() -> None:
    assert "t1_flair_lesion" in recipe_names()
    assert PrepareConfig(sequence=BOTH).channels == 2
    assert PrepareConfig(channel=(0, 1, 2)).channels == 3
    assert PrepareConfig(sequence="T1").channels == 1
    for wrong in ({"sequence": BOTH, "channel": (0, 1)}, {"sequence": ()}, {"channel": (1, 1)}, {"channel": -1}):
        with pytest.raises(ValueError, match=r"each of them once|from 0 on"):
            PrepareConfig.model_validate(wrong)
