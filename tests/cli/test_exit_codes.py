"""What people and scripts meet: one clear line, the right exit code, nothing half-written."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mri_minority_cli.app import app

run = CliRunner().invoke


def _one_line(text: str) -> bool:
    return len([line for line in text.strip().splitlines() if line.strip()]) == 1


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["prepare", "nowhere", "--out", "store"], 3, "does not exist"),
        (["prepare", "empty", "--out", "store"], 3, "found none"),
        (["prepare", "notes.txt", "--out", "store"], 3, "notes.txt"),
        (["prepare", "empty", "--out", "store", "--recipe", "no_such"], 2, "quickstart"),
        (["prepare", "empty", "--out", "store", "--holdout", "1.5"], 2, "holdout"),
        (["train", "nowhere", "--out", "model"], 3, "does not exist"),
        (["train", "empty", "--out", "model", "--stage", "half"], 2, "--stage"),
        (["train", "empty", "--out", "model", "--device", "abacus"], 2, "--device"),
        (["synthesize", "--model", "empty", "--out", "slices"], 3, "model.json"),
        (["synthesize", "--model", "empty", "--out", "slices", "--format", "jpeg"], 2, "nifti"),
        (["synthesize", "--model", "empty", "--out", "slices", "--method", "gan"], 3, "model.json"),
        (["score", "empty", "--slices", "nowhere", "--out", "s.tsv"], 3, "model.json"),
        (["compare", "empty", "--out", "c"], 3, "model.json"),
        (["discriminator", "empty", "--model", "empty"], 3, "model.json"),
        (["train", "empty", "--out", "model", "--distance", "far"], 2, "score.distance"),
        (["train", "empty", "--out", "model", "--distance", "file:absent.pt"], 3, "absent.pt"),
        (["export", "empty", "--to", "nnunet", "--out", "slices"], 3, "manifest.json"),
        (["export", "empty", "--to", "jpeg", "--out", "slices"], 2, "nnunet"),
        (["export", "empty", "--to", "bids", "--real", "empty", "--out", "slices"], 2, "--real"),
        (["label", "empty", "--model", "empty", "--out", "l"], 3, "model.json"),
        (["audit", "empty", "--against", "nowhere"], 3, "store.json"),
        (["evaluate", "empty", "--against", "empty", "--out", "r"], 3, "store.json"),
        (["verify", "empty"], 3, "manifest.json"),
        (["info", "empty"], 3, "none of them"),
    ],
)
def test_bad_requests(
    arguments: list[str], code: int, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line on stderr that says what is wrong, the documented exit code, and no new file."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("hello", encoding="utf-8")
    before = sorted(tmp_path.rglob("*"))
    result = run(app, arguments)
    assert result.exit_code == code, result.output
    assert result.stderr.startswith("error: ")
    assert says in result.stderr
    assert _one_line(result.stderr)
    assert "Traceback" not in result.output
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    "verb",
    [
        "prepare",
        "train",
        "score",
        "discriminator",
        "synthesize",
        "audit",
        "evaluate",
        "compare",
        "label",
        "export",
        "verify",
        "info",
        "recipes",
        "doctor",
        "demo",
    ],
)
def test_every_verb_helps_with_an_example(verb: str) -> None:
    """--help shows what it does and a command to copy."""
    result = run(app, [verb, "--help"])
    assert result.exit_code == 0
    assert f"mri-minority {verb}" in result.stdout.split("Example:")[1]


def test_json_is_alone_on_stdout() -> None:
    """A script can parse what it gets."""
    result = run(app, ["recipes", "--json"])
    assert set(json.loads(result.stdout)) >= {"quickstart", "brain_t1_2mm"}


def test_dry_run_resolves_and_does_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The settings that would be used, with what was said on the command line in them."""
    monkeypatch.chdir(tmp_path)
    arguments = ["train", "x", "--out", "m", "--recipe", "quickstart", "--max-minutes", "7", "--seed", "5", "--dry-run"]
    settings = json.loads(run(app, arguments).stdout)
    assert settings["denoiser"]["minutes"] == 7
    assert settings["denoiser"]["seed"] == settings["classifier"]["seed"] == 5
    assert not list(tmp_path.iterdir())


def test_the_whole_way_from_the_command_line(
    cohort: Path, recipe_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """train on a folder of volumes, synthesize, verify, info: the two verbs and their helpers."""
    monkeypatch.chdir(tmp_path)
    trained = run(app, ["train", str(cohort), "--out", "my model", "--recipe", str(recipe_file), "--json"])
    assert trained.exit_code == 0, trained.output
    assert json.loads(trained.stdout)["store"] == "my model.store"
    drawn = run(app, ["synthesize", "--class", "rare", "--model", "my model", "--count", "3", "--out", "rare ones"])
    assert drawn.exit_code == 0, drawn.output
    assert (tmp_path / "rare ones" / "contact_sheet.png").stat().st_size > 1000
    assert run(app, ["verify", "rare ones"]).exit_code == 0
    assert "minority (3 levels)" in run(app, ["info", "my model"]).stdout
    (tmp_path / "rare ones" / "images" / "synth_00000.nii.gz").unlink()
    assert run(app, ["verify", "rare ones"]).exit_code == 4
