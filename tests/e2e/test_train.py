"""Training: it learns, it resumes exactly, and a model folder says what it is."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from multiprocessing import get_context
from pathlib import Path

import pytest
import torch
import yaml
from lightning_fabric import Fabric
from typer.testing import CliRunner

from mri_minority.backbones.experts import Experts
from mri_minority.core.errors import DataError, UsageError
from mri_minority.diffusion.sizes import SizeCalibrated
from mri_minority.slices.store import SliceStore
from mri_minority.slices.subset import write_subset
from mri_minority.training.checkpoint import load_tensors
from mri_minority.training.compiling import wants_compile
from mri_minority.training.processes import fabric_for
from mri_minority_cli.app import app
from mri_minority_pipelines.begin_from import with_start
from mri_minority_pipelines.config import DenoiserConfig, FineConfig, Recipe, frozen, load_recipe
from mri_minority_pipelines.events import Event
from mri_minority_pipelines.model_folder import ModelFolder, find_model, load_world
from mri_minority_pipelines.rarity import slug
from mri_minority_pipelines.request import resolve
from mri_minority_pipelines.stages import train, train_classifier, train_denoiser
from tests.support.tiny import TINY, silent

CPU = torch.device("cpu")
run_cli = CliRunner().invoke


@pytest.fixture
def fabric() -> Fabric:
    """One process, full precision."""
    return fabric_for(CPU)


def loss_curve(model: Path) -> list[tuple[int, float]]:
    """(step, loss) of every step that the denoiser's journal holds."""
    log = model / "denoiser_log.jsonl"
    # What follows the last line feed is being written.
    lines = log.read_text(encoding="utf-8").split("\n")[:-1] if log.is_file() else []
    return [(entry["step"], entry["loss"]) for entry in map(json.loads, lines) if "loss" in entry]


def same_weights(ours: Path, theirs: Path) -> bool:
    """Whether two denoisers are equal bit for bit."""
    a, b = (load_tensors(model / "denoiser.safetensors")[0] for model in (ours, theirs))
    return set(a) == set(b) and all(torch.equal(a[name], b[name]) for name in a)


def training(store: SliceStore, recipe: Path, out: Path) -> list[str]:
    """The command that trains a denoiser."""
    return [
        *(sys.executable, "-m", "mri_minority_cli", "train", str(store.folder), "--out", str(out)),
        *("--recipe", str(recipe), "--stage", "denoiser", "--device", "cpu"),
    ]


def _train_in_child(config: DenoiserConfig, store: Path, out: Path) -> None:
    """What the killed processes run."""
    torch.set_num_threads(1)  # as here: sums are split over threads
    train_denoiser.run(config, SliceStore(store), out, fabric_for(CPU), silent)


@pytest.mark.slow
def test_killed_twenty_times_the_loss_curve_is_the_same(
    store: SliceStore, recipe: Recipe, fabric: Fabric, tmp_path: Path
) -> None:
    """SIGKILL at 20 random moments, and the same call again: the same losses and weights as in one go, bit for bit."""
    config = recipe.denoiser.model_copy(update={"max_steps": 120})
    train_denoiser.run(config, store, tmp_path / "in one go", fabric, silent)
    out = tmp_path / "in pieces"
    processes = get_context("forkserver")
    processes.set_forkserver_preload(["mri_minority_pipelines.stages.train_denoiser", "tests.e2e.test_train"])
    moments = random.Random(5)
    for step in sorted(moments.sample(range(2, 100), 20)):
        child = processes.Process(target=_train_in_child, args=(config, store.folder, out))
        child.start()
        while child.exitcode is None and len(loss_curve(out)) < step:
            time.sleep(0.005)
        time.sleep(moments.uniform(0, 0.03))
        child.kill()
        child.join()
        assert child.exitcode == -signal.SIGKILL, "it must not have ended by itself"
    train_denoiser.run(config, store, out, fabric, silent)
    assert loss_curve(out) == loss_curve(tmp_path / "in one go")
    assert [step for step, _ in loss_curve(out)] == list(range(1, 121))
    assert same_weights(out, tmp_path / "in one go")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_a_signal_ends_with_a_checkpoint(
    store: SliceStore, recipe: Recipe, model: Path, number: signal.Signals, tmp_path: Path
) -> None:
    """Asked to stop, the command writes where it is, exits with 130, and goes on when repeated."""
    out = tmp_path / "model"
    settings = TINY | {"denoiser": TINY["denoiser"] | {"checkpoint_seconds": 1e6, "max_steps": 100_000}}
    endless = tmp_path / "endless.yaml"
    endless.write_text(yaml.safe_dump(settings), encoding="utf-8")
    run = subprocess.Popen(training(store, endless, out), stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not (out / "denoiser_log.jsonl").exists() and run.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    run.send_signal(number)
    said = run.communicate(timeout=60)[1]
    assert run.returncode == 130
    assert "the same command goes on from here" in said
    _, notes = load_tensors(out / ".training" / "denoiser.safetensors")
    assert notes["step"] >= 1


@pytest.mark.slow
def test_two_processes_train_like_one(store: SliceStore, recipe_file: Path, model: Path, tmp_path: Path) -> None:
    """torchrun with two gloo processes: the same global batch, the same losses and weights up to rounding."""
    out = tmp_path / "model"
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node",
        "2",
        *training(store, recipe_file, out)[1:],
    ]
    subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    ours, theirs = loss_curve(out), loss_curve(model)
    assert [step for step, _ in ours] == [step for step, _ in theirs]
    assert [loss for _, loss in ours] == pytest.approx([loss for _, loss in theirs], rel=1e-5)
    a, b = (load_tensors(m / "denoiser.safetensors")[0] for m in (out, model))
    for name in b:
        torch.testing.assert_close(a[name], b[name], atol=2e-5, rtol=1e-3)


def test_accumulating_gradients_changes_nothing(
    store: SliceStore, recipe: Recipe, model: Path, fabric: Fabric, tmp_path: Path
) -> None:
    """A batch of four in one go, or slice by slice."""
    config = recipe.denoiser.model_copy(update={"micro_batch": 1})
    train_denoiser.run(config, store, tmp_path, fabric, silent)
    ours, theirs = loss_curve(tmp_path), loss_curve(model)
    assert [loss for _, loss in ours] == pytest.approx([loss for _, loss in theirs], rel=1e-5)


def test_training_lowers_the_held_out_error(store: SliceStore, recipe: Recipe, fabric: Fabric, tmp_path: Path) -> None:
    """Four hundred steps beat two in the image and in every label."""
    errors = []
    for steps in (2, 400):
        config = recipe.denoiser.model_copy(update={"max_steps": steps, "checkpoint_seconds": 1e9})
        train_denoiser.run(config, store, tmp_path / str(steps), fabric, silent)
        errors.append(load_tensors(tmp_path / str(steps) / "denoiser.safetensors")[1]["rmse"]["0.3"])
    assert all(b < 0.99 * a for a, b in zip(*errors, strict=True)), errors


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
    """A wrong attribute or too many levels: a usage error that leaves nothing behind."""
    with pytest.raises(UsageError, match="ventricles_share"):
        train.run(recipe, store, tmp_path / "model", "attribute:no_such", "all", CPU, silent)
    greedy = recipe.model_copy(update={"classifier": recipe.classifier.model_copy(update={"levels": 500})})
    with pytest.raises(UsageError, match="fewer levels"):
        train.run(greedy, store, tmp_path / "model", "minority", "all", CPU, silent)
    assert not (tmp_path / "model").exists()


def test_what_cannot_be_built_or_measured_is_refused_before_training(
    store: SliceStore, recipe: Recipe, tmp_path: Path
) -> None:
    for part, settings in (
        ("classifier", {"channels": [48, 96]}),
        ("denoiser", {"channels": [32, 32, 32]}),
        ("denoiser", {"fine": {"channels": [32]}}),
    ):
        file = tmp_path / "recipe.yaml"
        file.write_text(yaml.safe_dump({**TINY, part: {**TINY[part], **settings}}), encoding="utf-8")
        with pytest.raises(UsageError, match="is not valid"):
            load_recipe(str(file))
    unshared = recipe.model_copy(update={"classifier": recipe.classifier.model_copy(update={"micro_batch": 3})})
    with pytest.raises(DataError, match="micro_batch"):
        train.run(unshared, store, tmp_path / "model", "minority", "all", CPU, silent)
    lost = recipe.model_copy(update={"score": recipe.score.model_copy(update={"distance": "file:gone.pt"})})
    with pytest.raises(UsageError, match="--distance"):
        train.run(lost, store, tmp_path / "model", "minority", "all", CPU, silent)
    assert not (tmp_path / "model").exists()


def test_an_unfinished_model_is_not_finished_with_other_slices(
    store: SliceStore, recipe: Recipe, tmp_path: Path
) -> None:
    """It would know people of whom its card, and the copy audit, know nothing."""

    def stop(event: Event) -> None:
        if event.stage == "train denoiser" and event.values["step"] == 5:
            raise KeyboardInterrupt

    few = write_subset(store, sorted({store.rows[i].subject for i in store.indices("train")})[:8], tmp_path / "few")
    with pytest.raises(KeyboardInterrupt):
        train.run(recipe, few, tmp_path / "model", "minority", "denoiser", CPU, stop)
    with pytest.raises(DataError, match="begun with other slices"):
        train.run(recipe, store, tmp_path / "model", "minority", "denoiser", CPU, silent)
    train.run(recipe, few, tmp_path / "model", "minority", "denoiser", CPU, silent)
    assert few.is_known_as(ModelFolder(tmp_path / "model").card()["store_sha256"])


def test_scores_of_another_kind_do_not_take_the_place_of_a_classifiers(
    model: Path, store: SliceStore, recipe: Recipe, tmp_path: Path
) -> None:
    """Table and weights stay those that its thresholds were made from."""
    folder = shutil.copytree(model, tmp_path / "model")
    before = {file.name: file.read_bytes() for file in folder.glob("score*")}
    other = recipe.model_copy(update={"score": recipe.score.model_copy(update={"distance": "image"})})
    fewer = recipe.model_copy(update={"classifier": recipe.classifier.model_copy(update={"levels": 2})})
    for changed in (other, fewer):
        with pytest.raises(UsageError, match="classifier"):
            train.run(changed, store, folder, "minority", "all", CPU, silent)
    assert {file.name: file.read_bytes() for file in folder.glob("score*")} == before


def test_a_small_stratum_is_in_the_gaussian_start(
    store: SliceStore, recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of few slices drawn from all, a small stratum may get none, and two are needed."""
    train_denoiser.fit_world(recipe.denoiser, store, tmp_path / "all.safetensors", silent)
    monkeypatch.setattr(train_denoiser, "_FIT_SLICES", 1)
    monkeypatch.setattr(train_denoiser, "_FIT_OF_STRATUM", 10_000)
    train_denoiser.fit_world(recipe.denoiser, store, tmp_path / "small.safetensors", silent)
    every, small = (load_world(tmp_path / f"{name}.safetensors", 3) for name in ("all", "small"))
    torch.testing.assert_close(small.mean, every.mean)
    # Twelve slices of each, out of some fifty: means as far from those of all as sampling makes them.
    monkeypatch.setattr(train_denoiser, "_FIT_OF_STRATUM", 12)
    train_denoiser.fit_world(recipe.denoiser, store, tmp_path / "some.safetensors", silent)
    apart = (load_world(tmp_path / "some.safetensors", 3).mean - every.mean).square().mean(dim=(1, 2, 3)).sqrt()
    assert 0.005 < float(apart.min()) <= float(apart.max()) < 0.15, apart


def test_a_classifiers_step_does_not_depend_on_what_came_before(model: Path, store: SliceStore, recipe: Recipe) -> None:
    """Its dropout too: a run that was interrupted goes on as if it had not been."""
    world = load_world(model / "world.safetensors", 3)
    net = train_classifier.build_classifier(world, recipe.classifier, 3).train()
    level = torch.zeros(len(store.rows), dtype=torch.int64)
    loss = train_classifier._Loss(recipe.classifier, store, net, 3, level, False)
    first = loss(net, 3, slice(0, 4))
    torch.manual_seed(99)
    assert torch.equal(loss(net, 3, slice(0, 4)), first)
    assert not torch.equal(loss(net, 4, slice(0, 4)), first)


def test_names_of_other_scripts_are_told_apart() -> None:
    assert slug("attribute:ventricles_share") == "attribute-ventricles_share"
    names = [slug(f"attribute:{name}_share") for name in ("灰质", "白质", "脑室")]
    assert len(set(names)) == 3
    assert all(name.isascii() for name in names)


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


@pytest.mark.slow
def test_a_second_network_for_low_noise(store: SliceStore, recipe: Recipe, tmp_path: Path) -> None:
    """Trained after the first, it is in the model folder, it draws below the border, and it counts in the hash."""
    fine = FineConfig(border=0.5, channels=(32, 32), attention=(False, False), head=8)
    denoiser = recipe.denoiser.model_copy(update={"max_steps": 4, "fine": fine})
    both = recipe.model_copy(update={"denoiser": denoiser})
    out = tmp_path / "model"
    train.run(both, store, out, "attribute:ventricles_share", "denoiser", CPU, silent)
    folder = ModelFolder(out)
    assert [file.name for file in folder.weights()] == [
        f"{name}.safetensors" for name in ("world", "denoiser", "fine", "sizes")
    ]
    calibrated = folder.denoiser()
    assert isinstance(calibrated, SizeCalibrated)
    net = calibrated.base
    assert isinstance(net, Experts)
    assert (net.coarse.patch, net.fine.patch, net.border) == (4, 2, 0.5)
    before = folder.fingerprint()
    shutil.copyfile(out / "world.safetensors", out / "fine.safetensors")
    assert folder.fingerprint() != before


@pytest.mark.slow
@pytest.mark.skipif(
    shutil.which("g++") is None or " " in sys.prefix,
    reason="torch.compile needs a C++ compiler, and an environment without a space in its path",
)
def test_a_compiled_network_learns_the_same(store: SliceStore, recipe: Recipe, tmp_path: Path) -> None:
    """Losses agree with those of the network as it is, up to the order of sums. In processes without shape checks."""
    losses = {}
    for compile_ in ("no", "yes"):
        denoiser = recipe.denoiser.model_copy(update={"max_steps": 8, "compile": compile_})
        file = tmp_path / f"{compile_}.yaml"
        said = recipe.model_copy(update={"denoiser": denoiser}).model_dump(mode="json")
        file.write_text(yaml.safe_dump(said), encoding="utf-8")
        done = subprocess.run(
            training(store, file, tmp_path / compile_), capture_output=True, text=True, check=True, timeout=600
        )
        assert "without torch.compile" not in done.stderr
        losses[compile_] = [loss for _, loss in loss_curve(tmp_path / compile_)]
    assert losses["yes"] == pytest.approx(losses["no"], rel=1e-3)
    assert not same_weights(tmp_path / "yes", tmp_path / "no")  # else nothing was compiled


def test_where_nothing_can_be_compiled_training_says_so(
    store: SliceStore, recipe: Recipe, fabric: Fabric, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_compiler(network: torch.nn.Module) -> torch.nn.Module:
        return _Broken()

    monkeypatch.setattr(torch, "compile", no_compiler)
    config = recipe.denoiser.model_copy(update={"max_steps": 3, "compile": "yes"})
    said: list[str] = []
    train_denoiser.run(config, store, tmp_path, fabric, lambda event: said.append(str(event.values.get("text"))))
    assert any("without torch.compile" in text and "no compiler here" in text for text in said)
    assert len(loss_curve(tmp_path)) == 3


class _Broken(torch.nn.Module):
    def forward(self, *anything: object) -> torch.Tensor:
        raise RuntimeError("no compiler here\nand a long explanation")


def test_compiling_is_for_long_runs_of_one_process_on_a_cpu_with_bfloat16() -> None:
    assert wants_compile("auto", CPU, 1, 30.0, True)
    assert not wants_compile("auto", CPU, 1, 30.0, False)
    assert not wants_compile("auto", CPU, 1, 10.0, True)
    assert not wants_compile("auto", CPU, 2, 30.0, True)
    assert not wants_compile("auto", torch.device("cuda"), 1, 30.0, True)
    assert not wants_compile("no", CPU, 1, 30.0, True)
    assert wants_compile("yes", CPU, 2, 1.0, False)


def test_training_begins_with_another_models_weights(
    store: SliceStore, recipe_file: Path, model: Path, tmp_path: Path
) -> None:
    """The first loss is the other model's; card and data card say where the weights came from."""
    arguments = ["train", str(store.folder), "--recipe", str(recipe_file), "--stage", "denoiser"]
    began = run_cli(app, [*arguments, "--out", str(tmp_path / "began"), "--start-from", str(model)])
    assert began.exit_code == 0, began.output
    assert "begins with the weights of a model of recipe tiny" in began.stderr
    assert loss_curve(tmp_path / "began")[0][1] < loss_curve(model)[0][1]
    card = ModelFolder(tmp_path / "began").card()
    assert card["begun_from"]["model_sha256"] == ModelFolder(model).fingerprint()
    assert card["recipe"]["denoiser"]["start_sha256"] == ModelFolder(model).fingerprint()
    assert str(model) not in (tmp_path / "began" / "model.json").read_text(encoding="utf-8")
    drawing = [
        "synthesize",
        "--model",
        str(tmp_path / "began"),
        "--method",
        "ancestral",
        "--count",
        "1",
        "--steps",
        "2",
    ]
    assert run_cli(app, [*drawing, "--out", str(tmp_path / "set")]).exit_code == 0
    assert "began with the weights of another model" in (tmp_path / "set" / "README.md").read_text(encoding="utf-8")
    assert ModelFolder(model).card()["begun_from"] is None


def test_a_model_of_another_shape_is_one_line(store: SliceStore, model: Path, tmp_path: Path) -> None:
    wider = tmp_path / "wider.yaml"
    wider.write_text(yaml.safe_dump(TINY | {"denoiser": TINY["denoiser"] | {"head": 16}}), encoding="utf-8")
    arguments = ["train", str(store.folder), "--recipe", str(wider), "--out", str(tmp_path / "out")]
    for start, says in ((model, "head 16"), (tmp_path / "nowhere", "found none")):
        refused = run_cli(app, [*arguments, "--start-from", str(start)])
        assert refused.exit_code == 3
        assert says in refused.stderr
        assert len(refused.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["brain_t1_2mm", "flair_lesion"])
def test_recipes_of_two_networks_may_begin_with_the_packaged_model(name: str) -> None:
    recipe = resolve(name, start=Path("embedded"))
    assert recipe.denoiser.fine is not None
    assert recipe.denoiser.start_folder == find_model("embedded").path


def test_a_second_network_of_another_shape_is_refused(tmp_path: Path) -> None:
    settings = load_recipe("flair_lesion").model_dump(mode="json")
    settings["denoiser"]["fine"]["head"] = 16
    (tmp_path / "other.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    with pytest.raises(DataError, match="recipe's fine head 16, found fine head 24"):
        resolve(str(tmp_path / "other.yaml"), start=Path("embedded"))


def test_the_start_belongs_to_a_run_in_progress(recipe: Recipe, model: Path) -> None:
    """A checkpoint begun from another model is refused; one of a version that knew no start goes on."""
    begun = DenoiserConfig.model_validate(with_start(recipe.denoiser.model_dump(), model))
    assert frozen(begun) == frozen(recipe.denoiser) | {"start_sha256": ModelFolder(model).fingerprint()}
    assert "start_sha256" not in frozen(recipe.denoiser)
