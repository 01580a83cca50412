"""Too little data, in every place where there can be too little: a clear error, or a stated fallback."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from mri_minority.core.errors import DataError, UsageError
from mri_minority.diffusion.gaussian import fit_gaussian_world
from mri_minority.diffusion.kernel import ChannelGroups
from mri_minority.minority.levels import fit_levels
from mri_minority.slices.store import SliceStore
from mri_minority.slices.strata import fit_strata
from mri_minority_pipelines.config import ClassifierConfig, Recipe
from mri_minority_pipelines.model_folder import ModelFolder
from mri_minority_pipelines.samplers import build_sampler, load_classifier
from mri_minority_pipelines.stages import train
from mri_minority_pipelines.stages.train_classifier import calibration
from tests.support.tiny import silent

CPU = torch.device("cpu")


def test_more_levels_than_slices(model: Path, store: SliceStore, recipe: Recipe, tmp_path: Path) -> None:
    """Refused before any classifier is trained, with the number there is."""
    out = tmp_path / "model"
    shutil.copytree(model, out)
    before = {path.name for path in out.iterdir()}
    greedy = recipe.model_copy(update={"classifier": recipe.classifier.model_copy(update={"levels": 500})})
    with pytest.raises(UsageError, match=r"500 levels and a stratum of \d+ slices; ask for fewer levels"):
        train.run(greedy, store, out, "attribute:white_matter_share", "all", CPU, silent)
    assert {path.name for path in out.iterdir()} == before


def test_a_stratum_of_three_slices_is_merged_and_said() -> None:
    """It goes to its thinner neighbour; without neighbours it stays, and levels say what they need."""
    height = np.concatenate([np.full(3, 0.15), np.full(60, 0.35), np.full(50, 0.55)])
    strata = fit_strata(height, (0.1, 0.7), 3, 40)
    assert len(strata.names) == 2
    assert strata.merged == ("heights 0.10 to 0.30 held 3 slices (under 40): merged",)
    assert np.bincount(strata.of(height)).tolist() == [63, 50]
    alone = fit_strata(np.full(3, 0.15), (0.1, 0.7), 1, 40)
    assert np.bincount(alone.of(np.full(3, 0.15))).tolist() == [3]


def test_a_stratum_of_three_slices_that_could_not_be_merged() -> None:
    """Three levels, one slice each; four are refused; its Gaussian start is shrunk to the pooled one, and finite."""
    score, stratum = torch.tensor([3.0, 1.0, 2.0]), torch.zeros(3, dtype=torch.long)
    assert fit_levels(score, stratum, 1, 3).of(score, stratum).tolist() == [2, 0, 1]
    with pytest.raises(ValueError, match="4 levels and a stratum of 3 slices"):
        fit_levels(score, stratum, 1, 4)
    generator = torch.Generator().manual_seed(0)
    slices, stratum = torch.randn(43, 1, 4, 4, generator=generator), torch.tensor([0] * 40 + [1] * 3)
    world = fit_gaussian_world(slices, stratum, 2, ChannelGroups((1,)), 8, generator)
    assert bool(torch.isfinite(world.covariance).all())
    assert float(torch.linalg.eigvalsh(world.covariance[1]).min()) > 0
    with pytest.raises(ValueError, match="every stratum needs two slices"):
        fit_gaussian_world(slices[:41], stratum[:41], 2, ChannelGroups((1,)), 8, generator)


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("head", ["ordinal", "softmax"])
def test_a_validation_set_smaller_than_a_batch(head: str, count: int, model: Path, store: SliceStore) -> None:
    """It is measured, slice by slice; separation needs both kinds and is left empty without."""
    card = ModelFolder(model).card()
    net, entry = load_classifier("minority", card, ModelFolder(model), CPU)
    config = ClassifierConfig.model_validate({**entry["config"], "head": head})
    if head == "softmax":
        net.body.out[3] = torch.nn.Linear(512, entry["levels"])  # type: ignore[index, operator]
    level = torch.zeros(len(store.rows), dtype=torch.long)
    with torch.no_grad():
        report = calibration(config, net, entry["levels"], store, level, count)
    for found in report.values():
        assert found["items"] == count
        assert found["auroc_top"] is None
        assert found["log_likelihood"] < 0


def test_a_table_with_scores_that_are_no_numbers(
    model: Path, store: SliceStore, recipe: Recipe, tmp_path: Path
) -> None:
    out, table = tmp_path / "model", tmp_path / "mine.tsv"
    shutil.copytree(model, out)
    rows = [f"{n}\t{'nan' if n == 4 else n / 7}" for n in range(len(store.rows))]
    table.write_text("row\tscore\n" + "\n".join(rows) + "\n")
    with pytest.raises(DataError, match="1 are missing or NaN"):
        train.run(recipe, store, out, f"file:{table}", "all", CPU, silent)


@pytest.mark.parametrize("wanted", ["3", "77", "rarest:0%", "40%-40.5%", "-1"])
def test_a_level_out_of_range(wanted: str, model: Path, recipe: Recipe) -> None:
    """The model has levels 0, 1, 2."""
    with pytest.raises(UsageError, match=r"0 \(common\) to 2|expected rare, common|narrower than one"):
        build_sampler("minority", wanted, "minority", recipe.sample, ModelFolder(model), CPU)
