"""export --to bundle: a model as a MONAI bundle, which `python -m monai.bundle run` draws slices from."""

import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any

from mri_minority import __version__
from mri_minority.core.errors import DataError
from mri_minority.volumes.atomic import write_json_atomic, write_text_atomic
from mri_minority_pipelines.events import beside, publish_folder
from mri_minority_pipelines.model_folder import ModelFolder, channel_names

_INFERENCE = """\
# python -m monai.bundle run --config_file configs/inference.yaml --bundle_root .
# Any value below may be given on the command line, for example: --count 64 --wanted common --output_dir slices
imports:
  - $import torch
  - $from pathlib import Path
bundle_root: .
output_dir: $@bundle_root + '/output'
wanted: rare
rarity: {rarity}
method: minority
count: 16
heights: [0.0, 1.0]
seed: 0
device: $torch.device('cuda' if torch.cuda.is_available() else 'cpu')
model:
  _target_: mri_minority_pipelines.model_folder.find_model
  name: $Path(@bundle_root) / 'models'
request:
  _target_: mri_minority_pipelines.stages.synthesize.Request
  wanted: '@wanted'
  rarity: '@rarity'
  method: '@method'
  count: '@count'
  heights: $tuple(@heights)
  seed: '@seed'
draw:
  _target_: mri_minority_pipelines.stages.synthesize.run
  request: '@request'
  config: $@model.recipe().sample
  model: '@model'
  out: $Path(@output_dir)
  device: '@device'
  tell: '$lambda event: None'
run:
  - '$print(@draw)'
"""


def run(model: ModelFolder, out: Path) -> dict[str, Any]:
    """Write the bundle.

    Raises:
        DataError: `out` holds something, or the model cannot draw (it has no classifier).
    """
    card = model.card()
    if not card["classifiers"]:
        raise DataError(f"expected a model with a classifier, {model.path} has none; run `mri-minority train` first")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(f"expected an empty or new folder for the bundle, {out} holds something")
    building = beside(out, "building")
    if building.exists():
        shutil.rmtree(building)
    files = ["model.json", *(file.name for file in model.weights())]
    files += [f"classifier-{name}.safetensors" for name in card["classifiers"]]
    (building / "models").mkdir(parents=True)
    for name in files:
        shutil.copyfile(model.path / name, building / "models" / name)
    rarities = [entry["rarity"] for entry in card["classifiers"].values()]
    rarity = "minority" if "minority" in rarities else rarities[0]
    write_text_atomic(building / "configs" / "inference.yaml", _INFERENCE.format(rarity=rarity))
    write_json_atomic(building / "configs" / "metadata.json", _metadata(card))
    write_text_atomic(building / "docs" / "README.md", _readme(card))
    publish_folder(building, out)
    return {"out": str(out), "files": len(files)}


def _metadata(card: dict[str, Any]) -> dict[str, Any]:
    """What MONAI's bundle specification asks for."""
    height, width = card["recipe"]["prepare"]["size"]
    plane: dict[str, Any] = {"spatial_shape": [height, width, 1], "dtype": "float32", "value_range": []}
    names = channel_names(card)
    image = {**plane, "num_channels": len(names), "type": "image", "format": "magnitude", "modality": "MR"}
    image["channel_def"] = {str(number): name or "unnamed" for number, name in enumerate(names)}
    label = {**plane, "num_channels": 1, "type": "image", "format": "segmentation", "dtype": "uint8"}
    label["channel_def"] = {str(n): name for n, name in enumerate(("background", *card["label_names"]))}
    return {
        "schema": "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/"
        "meta_schema_generator_ldm_20240305.json",
        "version": __version__,
        "changelog": {__version__: "exported by mri-minority"},
        "monai_version": version("monai"),
        "pytorch_version": version("torch").split("+")[0],
        "numpy_version": version("numpy"),
        "required_packages_version": {"mri-minority": __version__},
        "task": "generation of rare brain MRI slices with label maps",
        "description": f"Minority-guided diffusion model of recipe {card['recipe']['name']}",
        "authors": "the owner of the model",
        "copyright": "see the licence of the training data",
        "network_data_format": {
            "inputs": {"seed": {"type": "tuples", "format": "integer", "num_channels": 1, "spatial_shape": []}},
            "outputs": {"image": image, "label": label},
        },
    }


def _readme(card: dict[str, Any]) -> str:
    have = ", ".join(entry["rarity"] for entry in card["classifiers"].values())
    return f"""# MONAI bundle made by mri-minority {__version__}

Draws synthetic brain MRI slices with label maps from a model of recipe `{card["recipe"]["name"]}`, trained on
{card["train_subjects"]} subjects. Guides towards: {have}.

    pip install mri-minority fire
    python -m monai.bundle run --config_file configs/inference.yaml --bundle_root . --count 16 --output_dir slices

The slices are those of `mri-minority synthesize` with the same model and seed. Research use only.
"""
