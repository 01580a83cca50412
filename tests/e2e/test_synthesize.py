"""Slices that come out: readable by others, the same every time, guided where asked."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import torch

from mri_minority.core.errors import DataError, UsageError
from mri_minority.export.dataset import read_manifest, verify_dataset
from mri_minority_pipelines.config import SampleConfig
from mri_minority_pipelines.events import Event
from mri_minority_pipelines.model_folder import ModelFolder
from mri_minority_pipelines.stages import synthesize
from tests.support.tiny import silent

CPU = torch.device("cpu")
BASE = synthesize.Request("rare", "minority", "minority", 5, (0.0, 1.0), seed=4, batch=2)


def draw(model: Path, out: Path, request: synthesize.Request = BASE, **changes: object) -> Path:
    """Run the stage with the tiny model."""
    config = SampleConfig(steps=3, precision="float32").model_copy(update=changes)
    synthesize.run(request, config, ModelFolder(model), out, CPU, silent)
    return out


def _with(**changes: object) -> synthesize.Request:
    return synthesize.Request(**{**BASE.__dict__, **changes})  # type: ignore[arg-type]


def test_pairs_are_read_alike_by_nibabel_and_simpleitk(model: Path, tmp_path: Path) -> None:
    """Same pixels, same world, image and label on one grid, thickness no thinner than a pixel, marked synthetic."""
    out = draw(model, tmp_path / "rare")
    manifest = read_manifest(out)
    assert len(manifest["slices"]) == 5
    for row in manifest["slices"]:
        image, label = nib.load(out / row["image"]), nib.load(out / row["label"])
        assert image.shape == label.shape == (48, 64, 1)
        assert image.get_data_dtype() == np.float32
        assert label.get_data_dtype() == np.uint8
        assert image.header["descrip"].item().startswith(b"SYNTHETIC mri-minority")
        np.testing.assert_array_equal(image.affine, label.affine)
        assert image.header.get_zooms()[2] >= max(image.header.get_zooms()[:2])
        other = sitk.ReadImage(str(out / row["image"]))
        np.testing.assert_array_equal(sitk.GetArrayFromImage(other).T, np.asarray(image.dataobj))
        there = np.array(other.TransformIndexToPhysicalPoint((7, 11, 0))) * [-1, -1, 1]
        np.testing.assert_allclose(there, image.affine[:3] @ [7, 11, 0, 1], atol=1e-3)
        comment = json.loads(image.header.extensions[0].get_content())
        assert comment["item"] == row["item"]
        assert comment["model_sha256"] == manifest["model_sha256"]
    assert verify_dataset(out) == []


def test_the_same_seed_gives_the_same_bytes(model: Path, tmp_path: Path) -> None:
    """Every file but nothing else."""
    first, second = draw(model, tmp_path / "a"), draw(model, tmp_path / "b")
    names = sorted(str(p.relative_to(first)) for p in first.rglob("*") if p.is_file())
    assert names == sorted(str(p.relative_to(second)) for p in second.rglob("*") if p.is_file())
    assert all((first / name).read_bytes() == (second / name).read_bytes() for name in names)
    other = draw(model, tmp_path / "c", _with(seed=5))
    assert (other / "images/synth_00000.nii.gz").read_bytes() != (first / "images/synth_00000.nii.gz").read_bytes()


def test_no_guidance_is_the_ancestral_sample(model: Path, tmp_path: Path) -> None:
    """w = 0 changes not a pixel; w > 0 does."""
    plain = draw(model, tmp_path / "plain", _with(method="ancestral"))
    zero = draw(model, tmp_path / "zero", guidance=0.0)
    strong = draw(model, tmp_path / "strong", guidance=5.0)

    def pixels(folder: Path) -> np.ndarray:
        return np.asarray(nib.load(folder / "images/synth_00001.nii.gz").dataobj)

    np.testing.assert_array_equal(pixels(plain), pixels(zero))
    assert np.abs(pixels(strong) - pixels(plain)).max() > 0


@pytest.mark.parametrize("method", ["self-guided", "boost-and-skip", "minority+boost-and-skip", "minority+self-guided"])
def test_every_method_draws_and_says_how(method: str, model: Path, tmp_path: Path) -> None:
    """Its pixels differ from the plain ones, the same seed gives the same, the manifest tells all that is needed."""
    settings = {"skip": 0.4, "self_every": 2}
    out = draw(model, tmp_path / "a", _with(method=method, count=3), **settings)
    plain = draw(model, tmp_path / "plain", _with(method="ancestral", count=3))
    again = draw(model, tmp_path / "b", _with(method=method, count=3, batch=3), **settings)
    name = "images/synth_00001.nii.gz"

    def pixels(folder: Path) -> np.ndarray:
        return np.asarray(nib.load(folder / name).dataobj)

    assert np.abs(pixels(out) - pixels(plain)).max() > 0
    np.testing.assert_allclose(pixels(out), pixels(again), atol=1e-2 * np.abs(pixels(out)).max())
    manifest = read_manifest(out)
    assert manifest["method"] == method
    assert manifest["sample"]["skip"] == manifest["slices"][0]["trace"]["sample"]["skip"] == 0.4
    assert (manifest["classifier_sha256"] is not None) == ("minority" in method)
    assert (manifest["rarity"] is not None) == ("minority" in method)
    assert verify_dataset(out) == []


def test_neutral_settings_are_the_plain_sampler(model: Path, tmp_path: Path) -> None:
    """Gain 1 and nothing skipped, or no self-guidance: not a pixel differs."""
    plain = draw(model, tmp_path / "plain", _with(method="ancestral"))
    boost = draw(model, tmp_path / "boost", _with(method="boost-and-skip"), boost=1.0, skip=0.0)
    own = draw(model, tmp_path / "own", _with(method="self-guided"), self_guidance=0.0)
    for other in (boost, own):
        for item in range(5):
            name = f"images/synth_{item:05d}.nii.gz"
            first, second = (np.asarray(nib.load(folder / name).dataobj) for folder in (plain, other))
            np.testing.assert_array_equal(first, second)


def test_what_a_slice_costs(model: Path, tmp_path: Path) -> None:
    """Network calls per slice are counted, not computed from the settings."""

    def costs(method: str, **changes: object) -> tuple[int, int]:
        config = SampleConfig(steps=6, precision="float32").model_copy(update=changes)
        out = tmp_path / method.replace("+", "-")
        found = synthesize.run(_with(method=method, count=3), config, ModelFolder(model), out, CPU, silent)
        assert found["seconds"] > 0
        return found["denoiser_calls"], found["guidance_calls"]

    assert costs("ancestral") == (6, 0)
    assert costs("minority") == (6, 6)
    assert costs("self-guided", self_every=3) == (8, 0)
    assert costs("boost-and-skip", skip=0.34) == (4, 0)
    assert costs("minority+self-guided", self_every=2) == (9, 6)


@pytest.mark.parametrize(
    ("method", "says"),
    [
        ("GAN", "ancestral, minority, low-density"),
        ("minority+minority", "minority\\+boost-and-skip"),
        ("ancestral+minority", "cannot be combined"),
        ("", "found ''"),
    ],
)
def test_wrong_methods_are_refused(method: str, says: str, model: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=says):
        draw(model, tmp_path / "x", _with(method=method))
    assert not (tmp_path / "x").exists()


def test_boost_and_skip_needs_a_stochastic_solver(model: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"stochastic solver \(ancestral, dpmpp_2m_sde\), found heun"):
        draw(model, tmp_path / "x", _with(method="boost-and-skip"), solver="heun")
    assert read_manifest(draw(model, tmp_path / "y", _with(method="boost-and-skip"), solver="dpmpp_2m_sde"))["slices"]


def test_low_density_says_what_it_needs(model: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"low-density-minority\.safetensors .*`mri-minority discriminator"):
        draw(model, tmp_path / "x", _with(method="low-density"))


def test_a_longer_run_begins_with_the_shorter_one(model: Path, tmp_path: Path) -> None:
    """Item i does not depend on how many are asked for, and all methods share strata."""
    short, long = draw(model, tmp_path / "short", _with(count=2)), draw(model, tmp_path / "long", _with(count=6))
    for item in range(2):
        name = f"labels/synth_{item:05d}.nii.gz"
        assert (short / name).read_bytes() == (long / name).read_bytes()


def test_interrupted_synthesis_goes_on(model: Path, tmp_path: Path) -> None:
    """Stopped after the first batch and repeated: the same data set, nothing twice."""
    heard = 0

    def stop(event: object) -> None:
        nonlocal heard
        heard += 1
        if heard == 2:
            raise KeyboardInterrupt

    config = SampleConfig(steps=3, precision="float32")
    with pytest.raises(KeyboardInterrupt):
        synthesize.run(BASE, config, ModelFolder(model), tmp_path / "out", CPU, stop)
    assert not (tmp_path / "out").exists()
    synthesize.run(BASE, config, ModelFolder(model), tmp_path / "out", CPU, silent)
    whole = draw(model, tmp_path / "whole")
    assert (tmp_path / "out/manifest.json").read_bytes() == (whole / "manifest.json").read_bytes()


def test_a_run_goes_on_in_its_own_arithmetic(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether bfloat16 pays is measured; measured otherwise the second time, the finished blocks still count."""

    def stop(event: Event) -> None:
        if event.stage == "synthesize" and event.done:
            raise KeyboardInterrupt

    config = SampleConfig(steps=3)
    monkeypatch.setattr(synthesize, "wants_bfloat16", lambda precision, device: False)
    with pytest.raises(KeyboardInterrupt):
        synthesize.run(BASE, config, ModelFolder(model), tmp_path / "out", CPU, stop)
    block = tmp_path / ".out.building" / "block-0000000-0000001.json"
    before = block.stat().st_mtime_ns
    monkeypatch.setattr(synthesize, "wants_bfloat16", lambda precision, device: True)

    def look(event: object) -> None:
        assert block.stat().st_mtime_ns == before

    synthesize.run(BASE, config, ModelFolder(model), tmp_path / "out", CPU, look)
    assert read_manifest(tmp_path / "out")["bfloat16"] is False


def test_a_changed_or_foreign_file_is_found(model: Path, tmp_path: Path) -> None:
    """Verification names each."""
    out = draw(model, tmp_path / "out")
    victim = out / "labels/synth_00002.nii.gz"
    victim.write_bytes(victim.read_bytes()[:-1] + b"x")
    (out / "images/stranger.nii.gz").write_bytes(b"?")
    (out / "images/synth_00003.nii.gz").unlink()
    problems = "\n".join(verify_dataset(out))
    assert "synth_00002.nii.gz has changed" in problems
    assert "stranger.nii.gz is not in the manifest" in problems
    assert "synth_00003.nii.gz is missing" in problems


def test_wrong_requests_are_refused(model: Path, tmp_path: Path) -> None:
    """Level out of range, unknown rarity, no stratum, a full folder: before anything is written."""
    with pytest.raises(UsageError, match=r"0 .* to 2"):
        draw(model, tmp_path / "x", _with(wanted="9"))
    with pytest.raises(UsageError, match="attribute:ventricles_share"):
        draw(model, tmp_path / "x", _with(rarity="attribute:grey_matter_share"))
    with pytest.raises(UsageError, match="heights"):
        draw(model, tmp_path / "x", _with(heights=(0.98, 1.0)))
    assert not (tmp_path / "x").exists()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.docx").write_bytes(b"precious")
    with pytest.raises(DataError, match="holds something"):
        draw(model, tmp_path / "full")
    assert (tmp_path / "full" / "thesis.docx").read_bytes() == b"precious"


def test_no_subject_reaches_the_output(model: Path, tmp_path: Path) -> None:
    """Source names appear in no byte of the data set."""
    import gzip

    out = draw(model, tmp_path / "out")
    for path in out.rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            data = gzip.decompress(data) if path.name.endswith(".gz") else data
            assert b"phantom" not in data


@pytest.mark.slow
@pytest.mark.parametrize("workers", [2, 4])
def test_workers_change_nothing(model: Path, tmp_path: Path, workers: int) -> None:
    """Every file of the set is the same, whoever drew which block."""
    config = SampleConfig(steps=3, precision="float32")
    request = _with(count=9)
    alone, together = tmp_path / "alone", tmp_path / "together"
    synthesize.run(request, config, ModelFolder(model), alone, CPU, silent)
    synthesize.run(request, config, ModelFolder(model), together, CPU, silent, workers)
    names = sorted(str(p.relative_to(alone)) for p in alone.rglob("*") if p.is_file())
    assert names == sorted(str(p.relative_to(together)) for p in together.rglob("*") if p.is_file())
    assert all((alone / name).read_bytes() == (together / name).read_bytes() for name in names)


def test_the_batch_fits_into_memory(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Little free memory: fewer slices at once, the same slices."""
    monkeypatch.setattr(synthesize, "free_bytes", lambda device: 2**62)
    assert synthesize.batch_that_fits(ModelFolder(model), CPU) == 16
    plenty = draw(model, tmp_path / "plenty", _with(batch=0))
    monkeypatch.setattr(synthesize, "free_bytes", lambda device: 1)
    assert synthesize.batch_that_fits(ModelFolder(model), CPU) == 1
    scarce = draw(model, tmp_path / "scarce", _with(batch=0))
    for row in read_manifest(plenty)["slices"]:
        a, b = (np.asarray(nib.load(folder / row["image"]).dataobj) for folder in (plenty, scarce))
        np.testing.assert_allclose(a, b, atol=1e-3 * np.abs(a).max())
