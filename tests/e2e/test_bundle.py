"""A model as a MONAI bundle: MONAI's own command draws the slices that ours draws."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from monai.bundle import ConfigParser

from mri_minority.core.errors import DataError
from mri_minority.export.dataset import read_manifest, verify_dataset
from mri_minority_pipelines.model_folder import ModelFolder
from mri_minority_pipelines.stages import bundle, synthesize
from tests.support.tiny import silent


@pytest.mark.slow
def test_monai_draws_the_same_slices(model: Path, tmp_path: Path) -> None:
    """`python -m monai.bundle run`, from a folder with an awkward name, with an option of ours replaced."""
    made, theirs, ours = tmp_path / "my bundle", tmp_path / "theirs", tmp_path / "ours"
    bundle.run(ModelFolder(model), made)
    command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", "configs/inference.yaml"]
    command += ["--bundle_root", ".", "--count", "3", "--seed", "4", "--output_dir", str(theirs)]
    # Sums are split over threads, so bits are the same for the same number of them only.
    one = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run(command, check=True, cwd=made, capture_output=True, env=one)
    request = synthesize.Request("rare", "minority", "minority", 3, (0.0, 1.0), 4)
    config = ModelFolder(model).recipe().sample
    synthesize.run(request, config, ModelFolder(model), ours, torch.device("cpu"), silent)
    assert verify_dataset(theirs) == []
    rows = [read_manifest(folder)["slices"] for folder in (theirs, ours)]
    assert [row["label_sha256"] for row in rows[0]] == [row["label_sha256"] for row in rows[1]]
    assert [row["image_sha256"] for row in rows[0]] == [row["image_sha256"] for row in rows[1]]


def test_its_metadata_has_what_monai_asks_for(model: Path, tmp_path: Path) -> None:
    """The fields of MONAI's bundle specification, the classes by name, and a configuration that its parser reads."""
    bundle.run(ModelFolder(model), tmp_path / "bundle")
    said = json.loads((tmp_path / "bundle" / "configs" / "metadata.json").read_text(encoding="utf-8"))
    needed = {"version", "monai_version", "pytorch_version", "numpy_version", "required_packages_version", "task"}
    needed |= {"description", "authors", "copyright", "network_data_format", "changelog"}
    assert needed <= set(said)
    classes = said["network_data_format"]["outputs"]["label"]["channel_def"]
    assert classes == {"0": "background", "1": "grey_matter", "2": "white_matter", "3": "ventricles"}
    parser = ConfigParser(ConfigParser.load_config_file(tmp_path / "bundle" / "configs" / "inference.yaml"))
    assert parser["count"] == 16
    assert parser.get_parsed_content("request").rarity == "minority"


def test_only_a_model_that_can_draw_becomes_a_bundle(model: Path, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").touch()
    with pytest.raises(DataError, match="holds something"):
        bundle.run(ModelFolder(model), tmp_path / "full")
    with pytest.raises(DataError, match=r"model\.json"):
        bundle.run(ModelFolder(tmp_path / "none"), tmp_path / "bundle")
