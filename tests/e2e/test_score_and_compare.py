"""Scores of other slices on the model's scale, and every sampler side by side."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import zarr
from typer.testing import CliRunner

from mri_minority.core.errors import DataError, UsageError
from mri_minority.export.dataset import read_manifest
from mri_minority.slices.store import SliceStore
from mri_minority.training.checkpoint import load_tensors, save_tensors
from mri_minority_cli.app import app
from mri_minority_pipelines.config import Recipe, SampleConfig
from mri_minority_pipelines.model_folder import ModelFolder
from mri_minority_pipelines.samplers import build_discriminator, build_sampler
from mri_minority_pipelines.stages import compare, score_slices, synthesize, train_discriminator
from tests.support.tiny import silent

CPU = torch.device("cpu")


def table(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def scored(store: SliceStore, model: Path, out: Path, distance: str | None = None) -> list[dict[str, str]]:
    score_slices.run(store, ModelFolder(model), out, distance, CPU, silent)
    return table(out)


# Scores.


def test_training_slices_get_the_scores_they_had(model: Path, store: SliceStore, tmp_path: Path) -> None:
    """Same noise, same weights, same levels as in training, to the rounding of the arithmetic that pays today."""
    before = table(model / "scores-minority.tsv")
    found = scored(store, model, tmp_path / "scores.tsv")
    assert len(found) == len(before) == len(store.rows)
    ours, theirs = (np.array([float(row["score"]) for row in rows]) for rows in (found, before))
    np.testing.assert_allclose(ours, theirs, rtol=0.02)
    assert np.mean([a["level"] == b["level"] for a, b in zip(found, before, strict=True)]) > 0.9
    assert [row["subject"] for row in found] == [row.subject for row in store.rows]
    assert not (tmp_path / ".scores.tsv.work").exists()


def test_new_slices_are_scored_in_the_models_strata(
    model: Path, store: SliceStore, cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the command line, volumes of two people: the scores their slices had among fourteen."""
    monkeypatch.chdir(tmp_path)
    chosen = sorted({row.series for row in store.rows})[:2]
    some = tmp_path / "two"
    for path in cohort.rglob("*.nii*"):
        if any(path.name.startswith(series) for series in chosen) or path.parent.name == "labels":
            target = some / path.relative_to(cohort)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)
    said = CliRunner().invoke(app, ["score", str(model), "--slices", str(some), "--out", "s.tsv", "--json"])
    assert said.exit_code == 0, said.output
    assert json.loads(said.stdout)["top_level_share"] is not None
    found = {(row["series"], row["index"]): row for row in table(tmp_path / "s.tsv")}
    among = {(row.series, str(row.index)): row.stratum for row in store.rows if row.series in chosen}
    assert set(found) == set(among)
    assert all(int(row["stratum"]) == among[place] for place, row in found.items())
    # Classes are numbered as the model's: the recipe in its card is a JSON file, whose keys are sorted.
    again = SliceStore(tmp_path / "s.tsv.store")
    assert again.label_names == store.label_names
    assert list(store.label_names) != sorted(store.label_names)
    before = table(model / "scores-minority.tsv")
    score = {(row.series, str(row.index)): float(b["score"]) for row, b in zip(store.rows, before, strict=True)}
    np.testing.assert_allclose([float(r["score"]) for r in found.values()], [score[p] for p in found], rtol=0.02)


def test_interrupted_scoring_goes_on(model: Path, store: SliceStore, tmp_path: Path) -> None:
    out = tmp_path / "s.tsv"

    def stop(event: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        score_slices.run(store, ModelFolder(model), out, None, CPU, stop)
    assert not out.exists()
    assert (tmp_path / ".s.tsv.work" / "header.json").is_file()
    assert len(scored(store, model, out)) == len(store.rows)


def test_slices_that_do_not_fit_are_refused(model: Path, store: SliceStore, tmp_path: Path) -> None:
    """Another size, another distance, no weights for other slices: each in a clear sentence."""
    other = tmp_path / "store"
    shutil.copytree(store.folder, other)
    header = json.loads((other / "store.json").read_text())
    header["settings"]["size"] = [48, 48]
    (other / "store.json").write_text(json.dumps(header))
    with pytest.raises(DataError, match=r"size \[48, 64\]\), found \[48, 48\]"):
        scored(SliceStore(other), model, tmp_path / "s.tsv")
    with pytest.raises(DataError, match=r"distance balanced, found --distance st-lpips"):
        scored(store, model, tmp_path / "s.tsv", "st-lpips")
    header["settings"]["size"] = [48, 64]
    swapped = {**header, "label_names": sorted(header["label_names"])}
    (other / "store.json").write_text(json.dumps(swapped))
    with pytest.raises(DataError, match="expected the classes"):
        scored(SliceStore(other), model, tmp_path / "s.tsv")
    (other / "store.json").write_text(json.dumps(header))
    (other / "slices.tsv").write_text((other / "slices.tsv").read_text().replace("train", "holdout", 1))
    bare = tmp_path / "model"
    shutil.copytree(model, bare)
    (bare / "score-weights.safetensors").unlink()
    with pytest.raises(DataError, match="score-weights"):
        scored(SliceStore(other), bare, tmp_path / "s.tsv")
    assert not (tmp_path / ".s.tsv.work").exists()  # before anything was scored
    assert len(scored(store, bare, tmp_path / "s.tsv")) == len(store.rows)  # its own slices are enough


def test_scores_that_are_no_numbers_stop_the_run(model: Path, store: SliceStore, tmp_path: Path) -> None:
    """A denoiser broken by NaN weights: an error that says so, no table, no level."""
    broken = tmp_path / "model"
    shutil.copytree(model, broken)
    weights, notes = load_tensors(broken / "denoiser.safetensors")
    key = next(name for name in weights if name.startswith("head.last"))
    save_tensors(broken / "denoiser.safetensors", {**weights, key: torch.full_like(weights[key], torch.nan)}, notes)
    with pytest.raises(DataError, match="scores must be finite"):
        scored(store, broken, tmp_path / "s.tsv")
    assert not (tmp_path / "s.tsv").exists()


def test_an_empty_store_is_refused(model: Path, store: SliceStore, tmp_path: Path) -> None:
    empty = tmp_path / "store"
    shutil.copytree(store.folder, empty)
    lines = (empty / "slices.tsv").read_text().splitlines(keepends=True)
    (empty / "slices.tsv").write_text(lines[0])
    for name in ("image", "label"):
        array = zarr.open_array(empty / f"{name}.zarr", mode="r+")
        array.resize((0, *array.shape[1:]))
    with pytest.raises(DataError, match="found none"):
        scored(SliceStore(empty), model, tmp_path / "s.tsv")


def test_the_calibration_report(model: Path) -> None:
    """One line per noise level, in the card and as a table, on held-out slices fewer than a batch of 64."""
    rows = table(model / "calibration-minority.tsv")
    assert [row["sigma"] for row in rows] == ["0.1", "0.5", "1.0", "2.0", "4.0", "8.0"]
    entry = ModelFolder(model).card()["classifiers"]["minority"]
    for row in rows:
        said = entry["report"]["held_out"][row["sigma"]]
        assert row["head"] == "ordinal"
        assert float(row["chance"]) == pytest.approx(-np.log(3), abs=1e-4)
        assert float(row["log_likelihood"]) == said["log_likelihood"]
        assert 0 <= said["ece"] <= 1
        assert said["items"] == int(row["items"]) < 64


# Samplers.


ASKED = compare.Comparison((), "rare", "minority", "", 5, (0.0, 1.0), 3)
SAMPLE = SampleConfig(steps=3, skip=0.4, self_every=2, precision="float32")


@pytest.fixture(scope="module")
def full_model(model: Path, store: SliceStore, recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model with what low-density sampling needs."""
    folder = tmp_path_factory.mktemp("full") / "model"
    shutil.copytree(model, folder)
    train_discriminator.run(recipe.discriminator, recipe.sample, store, ModelFolder(folder), "minority", CPU, silent)
    return folder


def test_low_density_draws(full_model: Path, tmp_path: Path) -> None:
    """Pushed slices differ from plain ones; neither push nor pull changes nothing; the manifest has both hashes."""

    def draw(name: str, method: str, **changes: object) -> dict[str, object]:
        request = synthesize.Request("rare", "minority", method, 3, (0.0, 1.0), 1)
        config = SAMPLE.model_copy(update=changes)
        synthesize.run(request, config, ModelFolder(full_model), tmp_path / name, CPU, silent)
        return read_manifest(tmp_path / name)

    plain, pushed = draw("plain", "ancestral"), draw("pushed", "low-density")
    neutral = draw("neutral", "low-density", push=0.0, pull=0.0)

    def hashes(manifest: dict[str, object]) -> list[str]:
        return [row["image_sha256"] for row in manifest["slices"]]  # type: ignore[attr-defined, index, misc]

    assert pushed["low_density_sha256"] is not None
    assert pushed["classifier_sha256"] is not None
    assert pushed["wanted"] is None
    images = [
        synthesize.pictures(tmp_path / n, m, 3)[0]
        for n, m in (("plain", plain), ("neutral", neutral), ("pushed", pushed))
    ]
    np.testing.assert_array_equal(images[0], images[1])
    assert np.abs(images[2] - images[0]).max() > 0
    assert hashes(pushed) != hashes(plain)


def test_the_embedding_and_the_judge_are_what_was_saved(full_model: Path, store: SliceStore) -> None:
    """Centres are unit vectors per noise level and stratum; the report names every noise level."""
    tensors, notes = load_tensors(full_model / "low-density-minority.safetensors")
    assert tensors["centres"].shape == (8, len(store.strata_names), 512)
    torch.testing.assert_close(tensors["centres"].norm(dim=2), torch.ones(8, len(store.strata_names)))
    assert set(notes["auroc"]) == {"0.05", "0.2", "0.5", "1.0", "2.0", "4.0", "8.0", "20.0"}
    sampler = build_sampler("low-density", "rare", "minority", SAMPLE, ModelFolder(full_model), CPU)
    assert sampler.low_density is not None
    x = torch.randn(2, 4, 48, 64, generator=torch.Generator().manual_seed(0)).requires_grad_(True)
    energy = sampler.low_density(x, torch.full((2, 2), 1.0), torch.tensor([0, 1]))
    (gradient,) = torch.autograd.grad(energy.sum(), x)
    assert float(gradient.abs().max()) > 0


def test_the_discriminator_is_held_against_all_held_out_people(
    full_model: Path, store: SliceStore, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store begins with one person's lowest slices."""
    asked: list[int] = []
    read = SliceStore.read

    def noted(self: SliceStore, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        asked.extend(index.tolist())
        return read(self, index)

    monkeypatch.setattr(SliceStore, "read", noted)
    judge = build_discriminator(ModelFolder(full_model), recipe.discriminator).eval()
    fakes, strata = torch.zeros(6, 4, 48, 64), torch.zeros(6, dtype=torch.int64)
    train_discriminator._report(recipe.discriminator, judge, store, fakes, strata, CPU)
    assert len(asked) == 6
    assert {store.rows[i].subject for i in asked} == {store.rows[i].subject for i in store.indices("holdout")}
    assert set(store.strata()[asked]) == {0, 1}


def test_a_new_classifier_needs_a_new_discriminator_file(full_model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(full_model, folder)
    card = json.loads((folder / "model.json").read_text())
    card["classifiers"]["minority"]["sha256"] = "0" * 64
    (folder / "model.json").write_text(json.dumps(card))
    with pytest.raises(DataError, match="belongs to another classifier"):
        build_sampler("low-density", "rare", "minority", SAMPLE, ModelFolder(folder), CPU)


@pytest.mark.slow
def test_every_sampler_in_one_table(full_model: Path, store: SliceStore, tmp_path: Path) -> None:
    """Same strata for all, a row of real slices, counted calls, notes, a picture; run again it is the same."""
    out = tmp_path / "c"
    result = compare.run(ASKED, SAMPLE, ModelFolder(full_model), store, out, CPU, silent)
    rows = {row["sampler"]: row for row in result["rows"]}
    assert list(rows) == ["real, held out", *compare.DEFAULT]
    strata = [[row["stratum"] for row in read_manifest(out / compare._folder(m))["slices"]] for m in compare.DEFAULT]
    assert all(found == strata[0] for found in strata)
    calls = {name: (row["denoiser_calls"], row["guidance_calls"]) for name, row in rows.items() if "real" not in name}
    assert calls == {
        "ancestral": (3, 0),
        "minority": (3, 3),
        "low-density": (3, 3),
        "self-guided": (5, 0),
        "boost-and-skip": (2, 0),
        "minority+boost-and-skip": (2, 2),
    }
    for row in rows.values():
        assert 0 <= row["attribute_rate"] <= 1
        assert row["avg_knn"] > 0
        assert row["slices"] == 5
    read = table(out / "compare.tsv")
    assert [row["sampler"] for row in read] == list(rows)
    assert float(read[1]["seconds_per_slice"]) > 0
    said = json.loads((out / "compare.json").read_text())
    assert said["attribute"] == "ventricles_share"
    assert any("in the row of real slices of other people these are false alarms" in note for note in said["notes"])
    assert all(0 <= float(row["copies"]) <= 1 for row in read)
    assert (out / "compare.md").read_text().count("| minority |") == 1
    assert (out / "compare.png").stat().st_size > 1000
    before = {name: (out / name).read_bytes() for name in ("compare.tsv", "compare.json", "compare.md", "compare.png")}
    compare.run(ASKED, SAMPLE, ModelFolder(full_model), store, out, CPU, silent)
    assert before == {name: (out / name).read_bytes() for name in before}
    with pytest.raises(DataError, match="another comparison"):
        compare.run(
            compare.Comparison((), "rare", "minority", "", 6, (0.0, 1.0), 3),
            SAMPLE,
            ModelFolder(full_model),
            store,
            out,
            CPU,
            silent,
        )


def test_comparison_goes_on_sampler_by_sampler(model: Path, store: SliceStore, tmp_path: Path) -> None:
    """Stopped in the second sampler: the first is not drawn again; what this model cannot do is left out and said."""
    out, heard = tmp_path / "c", []

    def stop(event: object) -> None:
        heard.append(event)
        if [e.stage for e in heard].count("compare") == 2:  # type: ignore[attr-defined]
            raise KeyboardInterrupt

    heun = SAMPLE.model_copy(update={"solver": "heun"})
    with pytest.raises(KeyboardInterrupt):
        compare.run(ASKED, heun, ModelFolder(model), store, out, CPU, stop)
    first = out / "ancestral" / "manifest.json"
    before = first.stat().st_mtime_ns
    result = compare.run(ASKED, heun, ModelFolder(model), store, out, CPU, silent)
    assert first.stat().st_mtime_ns == before
    assert [row["sampler"] for row in result["rows"]][1:] == ["ancestral", "minority", "self-guided"]
    assert sum("left out" in note for note in result["notes"]) == 2


def test_features_without_the_perceptual_weights(
    model: Path, store: SliceStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Blocks of pixels stand in, and the table says so; without an audit, that copies were not looked for."""
    bare = tmp_path / "model"
    shutil.copytree(model, bare)
    (bare / "audit.safetensors").unlink()
    monkeypatch.setattr("mri_minority_pipelines.measures.is_installed", lambda: False)
    asked = compare.Comparison(("ancestral",), "rare", "minority", "", 4, (0.0, 1.0), 3)
    result = compare.run(asked, SAMPLE, ModelFolder(bare), store, tmp_path / "c", CPU, silent)
    assert any("features: blocks of 8 x 8 pixels" in note for note in result["notes"])
    assert any("copies were not looked for" in note for note in result["notes"])
    assert [row["copies"] for row in table(tmp_path / "c" / "compare.tsv")] == ["", ""]


def test_wrong_comparisons(model: Path, store: SliceStore, tmp_path: Path) -> None:
    def refuse(error: type[Exception], says: str, methods: tuple[str, ...] = (), attribute: str = "") -> None:
        asked = compare.Comparison(methods, "rare", "minority", attribute, 4, (0.0, 1.0), 3)
        with pytest.raises(error, match=says):
            compare.run(asked, SAMPLE, ModelFolder(model), store, tmp_path / "c", CPU, silent)

    refuse(UsageError, "found 'gan'", ("gan",))
    refuse(UsageError, "each sampler once", ("minority", "minority"))
    refuse(DataError, "low-density-minority", ("low-density",))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("precious")
    with pytest.raises(DataError, match="holds something"):
        compare.run(ASKED, SAMPLE, ModelFolder(model), store, tmp_path / "full", CPU, silent)
    other = tmp_path / "store"
    shutil.copytree(store.folder, other)
    (other / "slices.tsv").write_text((other / "slices.tsv").read_text().replace("train", "holdout", 1))
    with pytest.raises(DataError, match="holds others"):
        compare.run(ASKED, SAMPLE, ModelFolder(model), SliceStore(other), tmp_path / "d", CPU, silent)
