"""Training: it learns, it resumes exactly, and a model folder says what it is."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from mri_minority.core.errors import DataError, UsageError
from mri_minority.slices.store import SliceStore
from mri_minority.training.checkpoint import load_tensors
from mri_minority_pipelines.config import Recipe
from mri_minority_pipelines.model_folder import ModelFolder
from mri_minority_pipelines.stages import train, train_denoiser
from tests.support.tiny import silent

CPU = torch.device("cpu")


def test_interrupted_training_equals_uninterrupted(
    store: SliceStore, recipe: Recipe, model: Path, tmp_path: Path
) -> None:
    """Stopped after every third step and repeated, the weights are the same bit for bit."""
    out = tmp_path / "model"
    steps = 0

    def stop(loss: torch.Tensor) -> None:
        raise KeyboardInterrupt

    for _ in range(8):
        limited = recipe.denoiser.model_copy(update={"max_steps": recipe.denoiser.max_steps})
        original, count = train_denoiser.denoising_loss, 0

        def limited_loss(*args: object, **kwargs: object) -> torch.Tensor:
            nonlocal count
            count += 1
            if count > 3:
                raise KeyboardInterrupt
            return original(*args, **kwargs)  # noqa: B023

        train_denoiser.denoising_loss = limited_loss  # type: ignore[assignment]
        try:
            train_denoiser.run(limited, store, out, CPU, silent)
            break
        except KeyboardInterrupt:
            steps += 1
        finally:
            train_denoiser.denoising_loss = original
    assert steps >= 3, "the run must really have been interrupted"
    ours, _ = load_tensors(out / "denoiser.safetensors")
    theirs, _ = load_tensors(model / "denoiser.safetensors")
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert not (out / ".training" / "denoiser.safetensors").exists()


@pytest.mark.slow
def test_a_killed_process_goes_on(store: SliceStore, recipe_file: Path, model: Path, tmp_path: Path) -> None:
    """SIGKILL in the middle of training; the same command then finishes with the same weights."""
    out = tmp_path / "model"
    command = [sys.executable, "-m", "mri_minority_cli", "train", str(store.folder), "--out", str(out)]
    command += ["--recipe", str(recipe_file), "--stage", "denoiser", "--device", "cpu"]
    environment = {**os.environ, "OMP_NUM_THREADS": "2"}
    first = subprocess.Popen(command, stderr=subprocess.DEVNULL, env=environment)
    checkpoint = out / ".training" / "denoiser.safetensors"
    deadline = time.monotonic() + 120
    while not checkpoint.exists() and first.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    first.send_signal(signal.SIGKILL)
    assert first.wait() == -signal.SIGKILL
    assert checkpoint.exists()
    assert not (out / "model.json").exists()
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL, env=environment)
    ours, _ = load_tensors(out / "denoiser.safetensors")
    theirs, _ = load_tensors(model / "denoiser.safetensors")
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_training_lowers_the_held_out_error(store: SliceStore, recipe: Recipe, tmp_path: Path) -> None:
    """Four hundred steps beat two at low noise, where the Gaussian start knows least."""
    errors = []
    for steps in (2, 400):
        config = recipe.denoiser.model_copy(update={"max_steps": steps, "checkpoint_seconds": 1e9})
        train_denoiser.run(config, store, tmp_path / str(steps), CPU, silent)
        errors.append(load_tensors(tmp_path / str(steps) / "denoiser.safetensors")[1]["rmse"]["0.1"][0])
    assert errors[1] < 0.95 * errors[0]


def test_the_card_says_how_rarity_was_measured(model: Path) -> None:
    """Score settings, thresholds inside strata, and a held-out report per noise level."""
    card = ModelFolder(model).card()
    minority, attribute = card["classifiers"]["minority"], card["classifiers"]["attribute-ventricles_share"]
    assert minority["score"]["sigma"] == 2.5
    assert -1 <= minority["rank_stability"] <= 1
    assert attribute["rarity"] == "attribute:ventricles_share"
    for entry in (minority, attribute):
        thresholds = torch.tensor(entry["thresholds"])
        assert thresholds.shape == (len(card["strata"]["names"]), entry["levels"] - 1)
        assert bool((thresholds[:, 1:] >= thresholds[:, :-1]).all())
        assert set(entry["report"]["held_out"]) == {"0.1", "0.5", "1.0", "2.0", "4.0", "8.0"}


def test_a_labs_own_table_works_and_its_folder_stays_private(
    store: SliceStore, recipe: Recipe, model: Path, tmp_path: Path
) -> None:
    """`file:` rarity: levels follow the table; the model keeps the table's name and not where it lay."""
    lab = tmp_path / "Jane Doe 1970"
    lab.mkdir()
    table = lab / "ours.tsv"
    lines = [f"{row}\t{(row * 37) % 101}" for row in range(len(store.rows))]
    table.write_text("row\tscore\n" + "\n".join(lines) + "\n", encoding="utf-8")
    out = tmp_path / "model"
    shutil.copytree(model, out)
    card = train.run(recipe, store, out, f"file:{table}", "all", CPU, silent)
    assert card["classifiers"]["file-ours"]["rarity"] == "file:ours.tsv"
    assert "Jane" not in (out / "model.json").read_text(encoding="utf-8")


def test_wrong_requests_are_refused_before_training(store: SliceStore, recipe: Recipe, tmp_path: Path) -> None:
    """A wrong attribute or too many levels: a usage error; the first leaves nothing behind."""
    with pytest.raises(UsageError, match="ventricles_share"):
        train.run(recipe, store, tmp_path / "model", "attribute:no_such", "all", CPU, silent)
    assert not (tmp_path / "model").exists()


def test_more_levels_than_slices_is_refused(store: SliceStore, recipe: Recipe, model: Path) -> None:
    """With the number of the thin stratum in the message."""
    greedy = recipe.model_copy(update={"classifier": recipe.classifier.model_copy(update={"levels": 500})})
    with pytest.raises(UsageError, match="fewer levels"):
        train.run(greedy, store, model, "attribute:grey_matter_share", "all", CPU, silent)


def test_a_model_of_another_version_is_refused(model: Path, tmp_path: Path) -> None:
    """The message names both formats."""
    card = json.loads((model / "model.json").read_text(encoding="utf-8"))
    (tmp_path / "model.json").write_text(json.dumps({**card, "format": 999}), encoding="utf-8")
    with pytest.raises(DataError, match="999"):
        ModelFolder(tmp_path).card()
