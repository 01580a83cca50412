"""The study is trained, tested and written whole; killed anywhere it goes on; unfair comparisons are refused."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from filelock import FileLock, Timeout
from typer.testing import CliRunner

from mri_minority.core.errors import DataError, UsageError
from mri_minority.evaluate.groups import quantile_groups
from mri_minority.export.dataset import write_manifest
from mri_minority.slices.store import SliceStore
from mri_minority.slices.subset import write_subset
from mri_minority.training.checkpoint import load_tensors
from mri_minority_cli.app import app
from mri_minority_pipelines import study as parts
from mri_minority_pipelines.config import Recipe
from mri_minority_pipelines.events import Event
from mri_minority_pipelines.model_folder import ModelFolder
from mri_minority_pipelines.request import study
from mri_minority_pipelines.stages import augment, train
from mri_minority_pipelines.stages.augment import Draws
from mri_minority_pipelines.stages.augment_run import measures
from mri_minority_pipelines.study import Arm, TrainingSet, check_model, extra_of, knows_only, synthetic_arm
from mri_minority_pipelines.study_results import RunValues, results_of
from tests.support.tiny import silent

CPU = torch.device("cpu")
NOTHING = Draws({}, (), 4, 0)
QUICK = {"steps": 2, "batch": 4, "seeds": (0, 1), "draws": 200}


def page_of(folder: Path) -> str:
    return (folder / "report.html").read_text(encoding="utf-8")


def test_the_whole_way(model: Path, store: SliceStore, tmp_path: Path) -> None:
    """Every arm, seed and picture is there, progress says what is left, and a second call only adds."""
    heard: list[Event] = []
    draws = Draws({"all": ModelFolder(model)}, ("ancestral", "attribute"), 4, 0)
    config = study(**QUICK, ratios=(0.34, 1.0))
    out = tmp_path / "study"
    results = augment.run(config, store, [], draws, out, CPU, heard.append)
    arms = {(a["name"], a["generator_knows_only_this_set"]) for a in results["arms"]}
    assert arms == {("real", None), ("oversampled", None), ("ancestral", True), ("attribute", True)}
    assert len(list((out / "runs").rglob("*.safetensors"))) == (1 + 3 * 2) * 2
    assert json.loads((out / "results.json").read_text(encoding="utf-8")) == json.loads(json.dumps(results))
    page = page_of(out)
    for part in ("What was compared", "Paired differences", "Against ordinary synthetic slices", "from common to rare"):
        assert part in page
    assert "What rare anatomy costs" not in page
    assert not re.search(r"(src|href)=\"https?:", page)
    along = next(r for r in results["along"] if (r["arm"], r["class"], r["by"]) == ("real", "ventricles", "stratum"))
    lowest = min((d, name) for d, name in zip(along["dice"], results["strata"], strict=True) if d is not None)
    said = [line for line in augment.in_words(results) if "worst at" in line]
    assert len(said) == 1
    assert said[0].startswith(f"all real, ventricles: worst at {lowest[1]} (Dice {lowest[0]:.2f})")
    last = heard[-1]
    assert (last.stage, last.done, last.total) == ("augment", 14, 14)
    assert any("minutes_left" in event.values for event in heard)
    assert not list(out.rglob("*.lock"))

    # Everything is there: the same study trains nothing, and another seed only what is new.
    before = {file: file.stat().st_mtime_ns for file in (out / "runs").rglob("*.safetensors")}
    again = augment.run(config, store, [], draws, out, CPU, silent)
    assert again == results
    augment.run(study(**{**QUICK, "seeds": (0, 1, 2)}, ratios=(0.34, 1.0)), store, [], draws, out, CPU, silent)
    after = {file: file.stat().st_mtime_ns for file in (out / "runs").rglob("*.safetensors")}
    assert before.items() <= after.items()
    assert len(after) == 21
    with pytest.raises(DataError, match="other settings"):
        augment.run(study(**{**QUICK, "steps": 3}), store, [], draws, out, CPU, silent)


@pytest.mark.slow
def test_the_stronger_network_and_the_other_samplers(model: Path, store: SliceStore, tmp_path: Path) -> None:
    """Another network learns it too; arms of samplers that need no classifier, or start elsewhere, are drawn."""
    draws = Draws({"all": ModelFolder(model)}, ("self-guided", "boost-and-skip"), 4, 0)
    config = study(**{**QUICK, "seeds": (0,)}, network="dynunet", oversample=False)
    results = augment.run(config, store, [], draws, tmp_path / "s", CPU, silent)
    assert {a["name"] for a in results["arms"]} == {"real", "self-guided", "boost-and-skip"}
    assert results["config"]["network"] == "dynunet"
    for method in ("self-guided", "boost-and-skip"):
        drawn = json.loads((tmp_path / "s" / "synthetic" / "all" / method / "manifest.json").read_text("utf-8"))
        assert drawn["method"] == method
        assert len(drawn["slices"]) == 4
    with pytest.raises(DataError, match="other settings"):
        augment.run(study(**{**QUICK, "seeds": (0,)}, oversample=False), store, [], draws, tmp_path / "s", CPU, silent)

    learnt = study(steps=30, batch=8, seeds=(0,), draws=200, network="dynunet", oversample=False)
    augment.run(learnt, store, [], NOTHING, tmp_path / "learnt", CPU, silent)
    begun, ended = (
        np.nanmean(load_tensors(tmp_path / of / "runs" / "all" / "real" / "ratio-0-seed-0.safetensors")[0]["dice"], 0)
        for of in ("s", "learnt")
    )
    assert (ended[:2] > 0.5).all()  # grey and white matter
    assert (ended[:2] > begun[:2] + 0.2).all()


def test_synthetic_slices_first_and_real_ones_after(model: Path, store: SliceStore, tmp_path: Path) -> None:
    """The arm is another training, is added to a finished study, and is held against the control of its own kind."""
    draws = Draws({"all": ModelFolder(model)}, ("ancestral", "attribute"), 4, 0)
    out = tmp_path / "study"
    augment.run(study(**QUICK, oversample=False), store, [], draws, out, CPU, silent)
    before = {file: file.stat().st_mtime_ns for file in (out / "runs").rglob("*.safetensors")}
    results = augment.run(study(**QUICK, oversample=False, then_real=True), store, [], draws, out, CPU, silent)
    assert all(file.stat().st_mtime_ns == then for file, then in before.items())
    added = set((out / "runs").rglob("*.safetensors")) - set(before)
    assert {file.parent.name for file in added} == {"ancestral-then-real", "attribute-then-real"}
    assert len(added) == 4
    losses = {load_tensors(file)[1]["loss"] for file in (out / "runs").rglob("ratio-*-seed-0.safetensors")}
    assert len(losses) == 5  # each arm is a training of its own
    asked = {(r["arm"], r["against"]) for r in results["differences"]}
    assert ("attribute then real", "ancestral then real") in asked
    assert ("attribute then real", "real") in asked
    assert ("attribute then real", "ancestral") not in asked
    assert ("attribute", "ancestral then real") not in asked
    assert "attribute then real" in page_of(out)


def test_extra_slices_of_their_own_height(model: Path, store: SliceStore, tmp_path: Path) -> None:
    """Another training than without; runs of the two are not mixed up, and a set of other heights is refused."""
    draws = Draws({"all": ModelFolder(model)}, ("ancestral",), 4, 0)
    out, config = tmp_path / "study", study(**{**QUICK, "seeds": (0,)}, matched=True)
    results = augment.run(config, store, [], draws, out, CPU, silent)
    assert results["config"]["matched"]
    assert "each in place of one of its own height" in page_of(out)
    anywhere = study(**{**QUICK, "seeds": (0,)})
    with pytest.raises(DataError, match="other matched"):
        augment.run(anywhere, store, [], draws, out, CPU, silent)
    drawn = out / "synthetic" / "all" / "ancestral"
    plain = tmp_path / "plain"
    augment.run(anywhere, store, [f"ancestral={drawn}"], NOTHING, plain, CPU, silent)
    for arm in ("oversampled", "ancestral"):
        file = Path("runs/all") / arm / "ratio-1-seed-0.safetensors"
        assert load_tensors(out / file)[1]["loss"] != load_tensors(plain / file)[1]["loss"]

    manifest = drawn / "manifest.json"
    said = json.loads(manifest.read_text(encoding="utf-8"))
    said["slices"][0]["trace"]["stratum_name"] = "height 7.0-8.0"
    manifest.write_text(json.dumps(said), encoding="utf-8")
    with pytest.raises(DataError, match="leave out --matched"):
        augment.run(config, store, [f"ancestral={drawn}"], NOTHING, tmp_path / "other", CPU, silent)


def test_ordinary_subjects_and_learning_curve(store: SliceStore, tmp_path: Path) -> None:
    config = study(**QUICK, sets=("4", "ordinary:4", "all"))
    results = augment.run(config, store, [], NOTHING, tmp_path / "s", CPU, silent)
    assert {name: s["subjects"] for name, s in results["sets"].items()} == {"4": 4, "ordinary:4": 4, "all": 11}
    cost = [r for r in results["differences"] if r["against_set"] != r["set"]]
    assert {(r["set"], r["against_set"], r["arm"]) for r in cost} == {("4", "ordinary:4", "real")}
    page = page_of(tmp_path / "s")
    assert "What rare anatomy costs" in page
    assert "labelled subjects" in page
    held = {store.rows[i].subject for i in store.indices("holdout")}
    for folder in (tmp_path / "s" / "stores").iterdir():
        subset = SliceStore(folder)
        assert {subset.rows[i].subject for i in subset.indices("holdout")} == held
        assert not held & {subset.rows[i].subject for i in subset.indices("train")}


def test_one_process_at_a_time_writes_a_training_set(
    store: SliceStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two would resize each other's arrays; the one that waits finds the store finished."""
    seen = []

    def write(*arguments: Any) -> SliceStore:
        (lock,) = tmp_path.glob(".stores-*.lock")
        with pytest.raises(Timeout):
            FileLock(lock).acquire(timeout=0)
        seen.append(lock.name)
        return write_subset(*arguments)

    monkeypatch.setattr(parts, "write_subset", write)
    for _ in range(2):
        made = parts.training_set("4", store, np.zeros(len(store.rows)), study(**QUICK), tmp_path / "stores")
        assert made.subjects == 4
    assert seen == [".stores-4.lock"] * 2


def test_no_subject_of_the_report_is_named(store: SliceStore, tmp_path: Path) -> None:
    augment.run(study(**QUICK), store, [], NOTHING, tmp_path / "s", CPU, silent)
    text = page_of(tmp_path / "s") + (tmp_path / "s" / "results.json").read_text(encoding="utf-8")
    assert not [row.subject for row in store.rows if row.subject in text]
    assert str(store.folder) not in text


@pytest.mark.slow
def test_killed_and_started_again(store: SliceStore, tmp_path: Path) -> None:
    """Killed in the middle of a run: what was finished stays as it is, and the end is that of an undisturbed study."""
    words = ["augment", str(store.folder), "--steps", "30", "--seeds", "2", "--out"]
    whole = CliRunner().invoke(app, [*words, str(tmp_path / "whole")])
    assert whole.exit_code == 0, whole.output
    out = tmp_path / "killed"
    command = [sys.executable, "-m", "mri_minority_cli", *words, str(out)]
    # One thread, as here: sums in another order would differ in the last bits.
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until = time.monotonic() + 300
    while time.monotonic() < until and process.poll() is None and not list(out.rglob("*.safetensors")):
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = {file: file.stat().st_mtime_ns for file in out.rglob("*.safetensors")}
    assert 1 <= len(kept) < 4
    assert not (out / "results.json").exists()
    again = CliRunner().invoke(app, [*words, str(out)])
    assert again.exit_code == 0, again.output
    assert all(file.stat().st_mtime_ns == then for file, then in kept.items())
    results = [json.loads((folder / "results.json").read_text("utf-8")) for folder in (tmp_path / "whole", out)]
    assert results[0] == results[1]


def test_runs_repeat(store: SliceStore, tmp_path: Path) -> None:
    """The same seed gives the same numbers; another seed does not."""
    for name in ("a", "b"):
        augment.run(study(**QUICK, oversample=False), store, [], NOTHING, tmp_path / name, CPU, silent)

    def dice(name: str, seed: int) -> torch.Tensor:
        return load_tensors(tmp_path / name / "runs" / "all" / "real" / f"ratio-0-seed-{seed}.safetensors")[0]["dice"]

    assert torch.equal(dice("a", 0).nan_to_num(), dice("b", 0).nan_to_num())
    assert not torch.equal(dice("a", 0).nan_to_num(), dice("a", 1).nan_to_num())


def test_a_generator_that_knows_more_is_refused(model: Path, store: SliceStore, recipe: Recipe, tmp_path: Path) -> None:
    """Drawn by a model of all subjects, for a segmenter of four: no fair comparison."""
    config = study(**QUICK, sets=("4",))
    with pytest.raises(DataError, match="trained on others"):
        augment.run(
            config, store, [], Draws({"4": ModelFolder(model)}, ("minority",), 4, 0), tmp_path / "s", CPU, silent
        )
    made = augment.prepare(config, store, tmp_path / "s")["4"]
    few = recipe.model_copy(update={"classifier": recipe.classifier.model_copy(update={"levels": 2})})
    own = tmp_path / "own"
    train.run(few, made.store, own, "minority", "denoiser", CPU, silent)
    check_model(ModelFolder(own), made)


def test_sets_that_are_given(model: Path, store: SliceStore, tmp_path: Path) -> None:
    """Edited slices and a store as arms; a generator is called fair only where its model is at hand."""
    edited = tmp_path / "edited"
    words = ["synthesize", "--model", str(model), "--edit", "ventricles:grow=1.05..1.1", "--store", str(store.folder)]
    made = CliRunner().invoke(app, [*words, "--count", "4", "--steps", "3", "--no-audit", "--out", str(edited)])
    assert made.exit_code == 0, made.output
    config = study(**{**QUICK, "seeds": (0,)}, oversample=False)
    given = [str(edited), f"others={store.folder}"]
    unknown = augment.run(config, store, given, NOTHING, tmp_path / "s", CPU, silent)
    known = augment.run(config, store, given, Draws({"all": ModelFolder(model)}, (), 4, 0), tmp_path / "s", CPU, silent)

    def checked(results: dict[str, Any]) -> dict[str, bool | None]:
        return {arm["name"]: arm["generator_knows_only_this_set"] for arm in results["arms"]}

    assert checked(unknown) == {"real": None, "edited": False, "others": False}
    assert checked(known) == {"real": None, "edited": True, "others": False}
    assert "not checked" in page_of(tmp_path / "s")

    # A set that was drawn anew under the same name is another arm: its old runs do not stand for it.
    manifest = edited / "manifest.json"
    manifest.write_text(manifest.read_text(encoding="utf-8").replace('"seed": 0', '"seed": 1', 1), encoding="utf-8")
    with pytest.raises(DataError, match="other extra"):
        augment.run(config, store, given, NOTHING, tmp_path / "s", CPU, silent)

    # Nobody who is tested on, or whom the training set lacks, may lend a map or an image.
    held = store.rows[store.indices("holdout")[0]].sha256
    lent = json.loads(manifest.read_text(encoding="utf-8"))
    lent["slices"][1]["trace"]["source_series_sha256"] = held
    manifest.write_text(json.dumps(lent), encoding="utf-8")
    with pytest.raises(DataError, match="training set all alone, found 1 other series"):
        augment.run(config, store, given, NOTHING, tmp_path / "held", CPU, silent)
    everybody = tmp_path / "everybody.store"
    shutil.copytree(store.folder, everybody)
    table = everybody / "slices.tsv"
    table.write_text(table.read_text(encoding="utf-8").replace("\tholdout\t", "\ttrain\t"), encoding="utf-8")
    with pytest.raises(DataError, match="people who are tested on"):
        augment.run(config, store, [f"others={everybody}"], NOTHING, tmp_path / "leak", CPU, silent)
    few = study(**{**QUICK, "seeds": (0,)}, oversample=False, sets=("4",))
    with pytest.raises(DataError, match=r"training set 4 in .*, found 7 other series: more labelled people"):
        augment.run(few, store, [f"others@4={store.folder}"], NOTHING, tmp_path / "more", CPU, silent)


def test_a_generator_that_began_with_another_is_not_called_fair(model: Path, tmp_path: Path) -> None:
    """Whom that one knew is not known here; nor is whose a label map from a file is."""
    other = ModelFolder(shutil.copytree(model, tmp_path / "model"))
    assert knows_only(other)
    other.write_card({**other.card(), "begun_from": {"recipe": "brain_t1_2mm", "train_subjects": 118}})
    assert not knows_only(other)
    folder = tmp_path / "set"
    drawn = [{"trace": {"label_from": "drawn"}}]
    for rows, model_of, fair in (
        (drawn, ModelFolder(model), True),
        (drawn, other, False),
        ([{"trace": {"label_from": "file"}}], ModelFolder(model), False),
    ):
        folder.mkdir(exist_ok=True)
        write_manifest(folder, {"model_sha256": model_of.fingerprint()}, rows)
        draws = Draws({"all": model_of}, (), 4, 0)
        assert augment._checked(Arm("a", "all", folder), draws).checked is fair


def test_the_rarest_of_few_slices_are_oversampled(store: SliceStore) -> None:
    """A tenth of five slices is none: then it is the rarest one, and not an arm of nothing."""
    strata = store.strata()
    index = np.concatenate([store.indices("train")[strata[store.indices("train")] == t][:5] for t in (0, 1)])
    rarity = np.arange(len(store.rows), dtype=float)
    few = TrainingSet("few", store, index)
    extra = extra_of(Arm("oversampled", "few"), few, rarity, 0.1, True)
    assert extra is not None
    np.testing.assert_array_equal(extra.image, store.read(index[[4, 9]])[0])


def test_arms_whose_folders_are_one_are_refused(store: SliceStore, tmp_path: Path) -> None:
    for name in ("x", "y"):
        (tmp_path / name).mkdir()
    given = [f"edited horns={tmp_path / 'x'}", f"edited-horns={tmp_path / 'y'}"]
    with pytest.raises(UsageError, match="different names"):
        augment.run(study(**QUICK), store, given, NOTHING, tmp_path / "s", CPU, silent)


def test_what_is_there_is_used_for_the_same_request_only(model: Path, store: SliceStore, tmp_path: Path) -> None:
    """Sets that the study drew itself, and runs that hang on a lab's table."""
    out, named = tmp_path / "s", {**QUICK, "seeds": (0,)}
    plain = study(**named, oversample=False, attribute="ventricles_share")
    one = {"all": ModelFolder(model)}
    augment.run(plain, store, [], Draws(one, ("attribute",), 4, 0), out, CPU, silent)
    augment.run(plain, store, [], Draws(one, ("attribute",), 4, 0), out, CPU, silent)
    for draws, other in ((Draws(one, ("attribute",), 5, 0), "slices"), (Draws(one, ("attribute",), 4, 1), "seed")):
        with pytest.raises(DataError, match=f"drawn with other {other} than"):
            augment.run(plain, store, [], draws, out, CPU, silent)
    otherwise = study(**named, oversample=False, attribute="white_matter_share")
    with pytest.raises(DataError, match="drawn with other rarity than"):
        augment.run(otherwise, store, [], Draws(one, ("attribute",), 4, 0), out, CPU, silent)

    scores = tmp_path / "scores.tsv"
    for turn in (1, -1):
        lines = [f"{i}\t{turn * i}" for i in range(len(store.rows))]
        scores.write_text("row\tscore\n" + "\n".join(lines) + "\n", encoding="utf-8")
        ours = study(**named, rarity=f"file:{scores}")
        if turn == 1:
            augment.run(ours, store, [], NOTHING, tmp_path / "t", CPU, silent)
    with pytest.raises(DataError, match="other extra"):
        augment.run(ours, store, [], NOTHING, tmp_path / "t", CPU, silent)


def test_arms_as_they_are_said(tmp_path: Path) -> None:
    folder = tmp_path / "rare_slices"
    folder.mkdir()
    assert synthetic_arm(str(folder), ("all",)) == Arm("rare_slices", "all", folder)
    assert synthetic_arm(f"edited={folder}", ("all",)) == Arm("edited", "all", folder)
    assert synthetic_arm(f"edited@ordinary:4={folder}", ("4", "ordinary:4")) == Arm("edited", "ordinary:4", folder)
    for wrong in (str(folder), f"edited={folder}", f"edited@5={folder}"):
        with pytest.raises(UsageError, match="NAME@SET=FOLDER"):
            synthetic_arm(wrong, ("4", "ordinary:4"))
    with pytest.raises(UsageError, match="another name"):
        synthetic_arm(f"real={folder}", ("all",))
    with pytest.raises(DataError, match="found none"):
        synthetic_arm(str(tmp_path / "absent"), ("all",))


def test_bad_requests_are_one_line(store: SliceStore, tmp_path: Path) -> None:
    def says(*more: str) -> str:
        words = ["augment", str(store.folder), "--steps", "1", "--seeds", "1", "--out", str(tmp_path / "s"), *more]
        result = CliRunner().invoke(app, words)
        assert result.exit_code in (2, 3), result.output
        lines = [line for line in result.stderr.splitlines() if line.startswith("error")]
        assert len(lines) == 1
        return lines[0]

    assert "all, NUMBER, ordinary" in says("--sets", "rare")
    assert "at most 11" in says("--sets", "500")
    assert "mri-minority score" in says("--rarity", "minority")
    assert "a ratio that leaves" in says("--ratios", "0.01")
    assert "network" in says("--network", "transformer")
    assert "an attribute among" in says("--attribute", "nose_share")


def test_a_perfect_segmenter(store: SliceStore) -> None:
    """Measured on the truth itself: Dice 1, distance 0, nothing found where nothing is."""
    label = store.read(store.indices("holdout"))[1]
    found = measures(label, label, store)
    for c in range(3):
        there = (label == c + 1).any(axis=(1, 2))
        assert bool((found["dice"][there, c] == 1).all())
        assert bool((found["hd95_mm"][there, c] == 0).all())
        assert bool(np.isnan(found["dice"][~there, c]).all())
        assert bool((found["false_mm2"][~there, c] == 0).all())
    blank = measures(np.zeros_like(label), label, store)
    assert float(np.nanmax(blank["dice"])) == 0.0


def test_a_planted_gain_is_found_where_it_was_planted(store: SliceStore) -> None:
    """An arm that is better by 0.1 on the rarest tenth only: seen there, with the right size, and nowhere else."""
    held = store.indices("holdout")
    rng = np.random.default_rng(0)
    rarity = rng.normal(size=len(store.rows))
    config = study(**{**QUICK, "draws": 2000})
    flat = results_of([_tested("real", np.full(len(held), 0.7))], config, store, rarity, rarity)
    assert {r["mean"] for r in flat["means"] if r["metric"] == "dice"} == {0.7}
    rarest = quantile_groups(rarity[held], store.strata()[held], 10) == 9
    tested = [_tested("real", np.full(len(held), 0.7)), _tested("minority", 0.7 + 0.1 * rarest)]
    results = results_of(tested, config, store, rarity, rarity)
    by_group = {r["group"]: r for r in results["differences"] if r["metric"] == "dice" and r["class"] == "ventricles"}
    assert by_group["rarest tenth"]["difference"] == pytest.approx(0.1, abs=1e-4)
    assert by_group["all slices"]["difference"] == pytest.approx(0.1 * rarest.mean(), abs=0.01)
    along: Any = next(r for r in results["along"] if r["arm"] == "minority" and r["by"] == "rarity")
    known = [v for v in along["dice"] if v is not None]
    assert known[-1] == pytest.approx(0.8, abs=1e-4)
    assert known[:-1] == pytest.approx([0.7] * (len(known) - 1), abs=1e-4)
    by = {r["by"]: r["dice"] for r in results["along"] if r["arm"] == "minority"}
    assert len(by["stratum"]) == len(store.strata_names)
    assert [v for v in by["stratum, rarest tenth"] if v is not None] == pytest.approx([0.8] * 2, abs=1e-4)
    assert 0.7 < max(v for v in by["stratum"] if v is not None) < 0.75


def _tested(arm: str, dice: np.ndarray) -> RunValues:
    values = torch.as_tensor(np.repeat(dice[:, None], 3, axis=1).astype(np.float32))
    return RunValues("all", arm, 0.0 if arm == "real" else 1.0, 0, {"dice": values})
