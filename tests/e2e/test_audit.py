"""Copies are found under every disguise, strangers are left alone, and the command line says so."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from mri_minority.core.errors import AuditError, DataError
from mri_minority.diffusion.kernel import sigma_path
from mri_minority.diffusion.sampling import draw_slices
from mri_minority.diffusion.solvers import SOLVERS
from mri_minority.diffusion.state import decode, encode, groups_for
from mri_minority.evaluate.disguise import Disguise
from mri_minority.evaluate.verdict import leak
from mri_minority.export.dataset import read_manifest, verify_dataset, write_manifest
from mri_minority.export.nifti import export_slice
from mri_minority.slices.store import SliceStore
from mri_minority.training.checkpoint import load_tensors, save_tensors
from mri_minority.volumes.phantom import write_cohort
from mri_minority_cli.app import app
from mri_minority_pipelines.config import AuditConfig, PrepareConfig, Recipe, SampleConfig
from mri_minority_pipelines.model_folder import ModelFolder
from mri_minority_pipelines.stages import audit, prepare, synthesize
from mri_minority_pipelines.stages.audit_set import auditor_at_hand
from tests.support.tiny import silent

CPU = torch.device("cpu")
CONFIG = AuditConfig(batch=48, max_steps=250, calibration=120)


@pytest.fixture(scope="module")
def crowd(tmp_path_factory: pytest.TempPathFactory, recipe: Recipe) -> SliceStore:
    """Forty phantom heads, so that there are people to be told apart; a third held out."""
    folder = tmp_path_factory.mktemp("crowd")
    write_cohort(folder / "cohort", 40, seed=11, rare_share=0.1)
    config = PrepareConfig.model_validate({**recipe.prepare.model_dump(), "holdout": 0.34})
    prepare.run(config, [folder / "cohort"], folder / "store", silent)
    return SliceStore(folder / "store")


@pytest.fixture(scope="module")
def auditor(crowd: SliceStore, tmp_path_factory: pytest.TempPathFactory) -> audit.Auditor:
    """Trained and calibrated on the crowd."""
    path = tmp_path_factory.mktemp("audit") / "audit.safetensors"
    assert audit.run(CONFIG, crowd, path, None, None, silent)
    return audit.load(path, crowd)


def spread(index: np.ndarray, count: int) -> np.ndarray:
    return index[np.linspace(0, len(index) - 1, count).astype(int)]


def rejected(auditor: audit.Auditor, image: np.ndarray) -> float:
    return float(np.mean([v["verdict"] == "reject" for v in auditor.judge(image)]))


def test_planted_copies_are_rejected_and_strangers_are_not(auditor: audit.Auditor, crowd: SliceStore) -> None:
    chosen = spread(crowd.indices("train"), 90)
    original = torch.as_tensor(crowd.read(chosen)[0])
    disguised = Disguise()(original, torch.Generator().manual_seed(77)).numpy()
    verdicts = auditor.judge(disguised)
    assert np.mean([v["verdict"] == "reject" for v in verdicts]) >= 0.98
    people = [crowd.rows[i].subject for i in crowd.indices("train")]
    owner = [people[v["nearest"]] == crowd.rows[i].subject for v, i in zip(verdicts, chosen, strict=True)]
    assert np.mean(owner) >= 0.98
    assert rejected(auditor, crowd.read(spread(crowd.indices("holdout"), 120))[0]) <= 0.01
    assert rejected(auditor, original.numpy()) == 1.0


class ByHeart:
    """The posterior mean of a finite set: what a network converges to that has learnt its slices by heart."""

    def __init__(self, slices: torch.Tensor) -> None:
        self.slices = slices

    def __call__(self, x: torch.Tensor, sigma: torch.Tensor, stratum: torch.Tensor) -> torch.Tensor:
        square = torch.cdist(x.flatten(1), self.slices.flatten(1)) ** 2
        weight = torch.softmax(-square / (2 * sigma[:, :1] ** 2), dim=1)
        return (weight @ self.slices.flatten(1)).reshape(x.shape)


def test_what_was_learnt_by_heart_is_caught(auditor: audit.Auditor, crowd: SliceStore) -> None:
    """The whole sampler, on a denoiser overfitted to 64 slices as far as can be: every slice is rejected."""
    image, label = crowd.read(spread(crowd.indices("train"), 64))
    known = encode(torch.as_tensor(image), torch.as_tensor(label), len(crowd.label_names))
    groups = groups_for(1, len(crowd.label_names))
    path, none = sigma_path(40.0, 0.02, 20, len(groups.sizes)), torch.zeros(24, dtype=torch.long)
    shape = tuple(known.shape[1:])
    drawn = draw_slices(ByHeart(known), SOLVERS["ancestral"], path, list(range(24)), none, shape, 5, groups, CPU)
    assert rejected(auditor, decode(drawn, len(crowd.label_names))[0].numpy()) == 1.0


def test_the_file_is_small_and_of_its_store_only(
    auditor: audit.Auditor, store: SliceStore, crowd: SliceStore, tmp_path: Path
) -> None:
    path = tmp_path / "audit.safetensors"
    assert audit.run(CONFIG.model_copy(update={"max_steps": 2}), crowd, path, None, None, silent)
    assert path.stat().st_size < 2_000_000
    raw = path.read_bytes()
    assert not [row.subject for row in crowd.rows if row.subject.encode() in raw]
    with pytest.raises(DataError, match="holds others"):
        audit.load(path, store)
    with pytest.raises(DataError, match=r"expected slices of \(1, 48, 64\) channels and pixels"):
        auditor.judge(np.zeros((1, 1, 10, 10), np.float32))


def test_one_held_out_person_says_little(crowd: SliceStore, tmp_path: Path) -> None:
    """Nothing of twins or leaks, and no figure that is not a number."""
    held = sorted({crowd.rows[i].subject for i in crowd.indices("holdout")})
    alone = shutil.copytree(crowd.folder, tmp_path / "alone")
    table = alone / "slices.tsv"
    lines = table.read_text(encoding="utf-8").splitlines()
    moved = [line.replace("\tholdout\t", "\ttrain\t") if line.split("\t")[0] != held[0] else line for line in lines]
    table.write_text("\n".join(moved) + "\n", encoding="utf-8")
    store = SliceStore(alone)
    net = ByHeart(torch.zeros(1, 4, *crowd.header["settings"]["size"]))
    quick = CONFIG.model_copy(update={"max_steps": 2})
    assert audit.run(quick, store, tmp_path / "audit.safetensors", None, net, silent)  # type: ignore[arg-type]
    found = audit.load(tmp_path / "audit.safetensors", store)
    image = store.read(spread(store.indices("holdout"), 12))[0]
    summary = found.summary(found.judge(image), image)
    assert summary["duplicates"] == []
    assert summary["membership"] is None
    json.dumps(summary, allow_nan=False)


def test_an_audit_is_of_the_models_own_slices(model: Path, crowd: SliceStore, tmp_path: Path) -> None:
    """Without its file too: a set is not passed because it was held against other people."""
    bare = shutil.copytree(model, tmp_path / "model")
    (bare / audit.FILE).unlink(missing_ok=True)
    with pytest.raises(DataError, match="holds others"):
        auditor_at_hand(crowd, ModelFolder(bare))


def test_twins_in_a_set_are_found(auditor: audit.Auditor, crowd: SliceStore) -> None:
    image = crowd.read(spread(crowd.indices("holdout"), 6))[0]
    again = np.concatenate([image, image[2:3, ::-1]])
    assert auditor.summary(auditor.judge(again), again)["duplicates"] == [[2, 6]]


def test_rejected_slices_are_replaced_and_counted(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A judge that dislikes items 1 and 5 of the stream: five others come out, a replacement fails too."""
    seen = 0

    def judge(self: audit.Auditor, image: np.ndarray) -> list[dict[str, object]]:
        nonlocal seen
        words = ["reject" if seen + n in (1, 5) else "pass" for n in range(len(image))]
        seen += len(image)
        return [{"verdict": w, "authentic": True} for w in words]

    monkeypatch.setattr(audit.Auditor, "judge", judge)
    request = synthesize.Request("rare", "minority", "minority", 5, (0.0, 1.0), seed=4, batch=2)
    config = SampleConfig(steps=3, precision="float32")
    out = tmp_path / "set"
    result = synthesize.run(request, config, ModelFolder(model), out, torch.device("cpu"), silent)
    assert result["audit"]["rejected_and_replaced"] == 2
    assert [row["item"] for row in read_manifest(out)["slices"]] == [0, 2, 3, 4, 6]
    assert "2 slices were rejected" in (out / "README.md").read_text()
    assert verify_dataset(out) == []
    plain = tmp_path / "plain"
    synthesize.run(request, config, ModelFolder(model), plain, torch.device("cpu"), silent, audit=False)
    name = "images/synth_00002.nii.gz"
    assert (plain / name).read_bytes() == (out / name).read_bytes()
    assert read_manifest(plain)["audit"] == "not run"


def test_a_model_that_only_copies_gives_up(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def judge(self: audit.Auditor, image: np.ndarray) -> list[dict[str, object]]:
        return [{"verdict": "reject", "authentic": False}] * len(image)

    monkeypatch.setattr(audit.Auditor, "judge", judge)
    request = synthesize.Request("rare", "minority", "minority", 2, (0.0, 1.0), seed=4, batch=2)
    with pytest.raises(AuditError, match="--no-audit"):
        synthesize.run(request, SampleConfig(steps=3), ModelFolder(model), tmp_path / "x", torch.device("cpu"), silent)
    assert not (tmp_path / "x").exists()


def write_copies(folder: Path, store: SliceStore, positions: np.ndarray) -> Path:
    """Real slices in the clothes of a synthetic data set."""
    image, label = store.read(positions)
    rows = []
    for n, position in enumerate(positions):
        affine = np.array(store.rows[position].affine).reshape(4, 4)
        affine[:3, :3] = np.diag([4.0, 4.0, 4.0])
        pixels = ((image[n] + 1) / 2 * 240).astype(np.float32)
        row = export_slice(folder, f"synth_{n:05d}", pixels, label[n], affine, {})
        rows.append({**row, "item": n, "stratum": store.rows[position].stratum, "attributes": {}})
    header = {"label_names": list(store.label_names), "white": 240.0, "audit": "not run"}
    write_manifest(folder, header, rows)
    return folder


def test_the_verb_ends_with_4_on_a_copy(crowd: SliceStore, auditor: audit.Auditor, tmp_path: Path) -> None:
    """Planted training slices: exit 4; held-out ones: exit 0. The audit is made once, beside the store."""
    beside = crowd.folder.with_name(f"{crowd.folder.name}.{audit.FILE}")
    assert audit.run(CONFIG, crowd, beside, None, None, silent)
    copies = write_copies(tmp_path / "copies", crowd, spread(crowd.indices("train"), 6))
    result = CliRunner().invoke(app, ["audit", str(copies), "--against", str(crowd.folder)])
    assert result.exit_code == 4
    assert "6 of 6 slices are too close" in result.stderr
    words = json.loads(CliRunner().invoke(app, ["audit", str(copies), "--against", str(crowd.folder), "--json"]).stdout)
    assert len(words["copies"]) == 6
    strangers = write_copies(tmp_path / "strangers", crowd, spread(crowd.indices("holdout"), 6))
    fine = CliRunner().invoke(app, ["audit", str(strangers), "--against", str(crowd.folder)])
    assert fine.exit_code == 0, fine.output


def test_a_model_that_learnt_by_heart_is_caught_without_a_copy(
    crowd: SliceStore, auditor: audit.Auditor, tmp_path: Path
) -> None:
    """Strangers only, so no slice is rejected; the model's membership figure alone ends the verb with 4."""
    beside = crowd.folder.with_name(f"{crowd.folder.name}.{audit.FILE}")
    assert audit.run(CONFIG, crowd, beside, None, None, silent)
    before = beside.read_bytes()
    strangers = write_copies(tmp_path / "strangers", crowd, spread(crowd.indices("holdout"), 6))
    arguments = ["audit", str(strangers), "--against", str(crowd.folder)]
    tensors, notes = load_tensors(beside)
    try:
        for low, code in ((0.51, 0), (0.7, 0), (0.99, 4)):
            notes["membership"] = {"auc": 0.996, "low": low, "high": 0.999}
            save_tensors(beside, tensors, notes)
            result = CliRunner().invoke(app, arguments)
            assert result.exit_code == code, result.output
            assert ("by heart" in result.stderr) == (code == 4)
        assert CliRunner().invoke(app, [*arguments, "--json"]).exit_code == 4
    finally:
        beside.write_bytes(before)


@pytest.mark.parametrize(("low", "verdict"), [(0.5, "pass"), (0.6, "review"), (0.74, "review"), (0.75, "reject")])
def test_the_verdict_on_a_model(low: float, verdict: str) -> None:
    assert leak({"auc": 0.9, "low": low, "high": 0.95}) == verdict
    assert leak(None) is None
