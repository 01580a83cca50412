"""Put a trained model into the package: half-precision weights, a lean card, a model card for people.

    python benchmarks/embed_model.py --model MODEL [--store STORE]

With its store the model first scores its slices again, for a denoiser that went on after the classifier: weights of the
score and levels are then those of the denoiser that is shipped, and the classifier is judged by them.

Fails when denoiser and classifiers are over 25 MB, or when half precision changes what the denoiser says by more than a
thousandth of the data's range. The audit and the segmenter, where the model has them, come on top (2.5 MB).
"""

import argparse
import json
import shutil
from pathlib import Path

import torch

from mri_minority.minority.levels import fit_levels
from mri_minority.slices.store import SliceStore
from mri_minority.training.checkpoint import load_tensors, save_tensors
from mri_minority.volumes.atomic import sha256_of
from mri_minority_pipelines.config import ClassifierConfig, ScoreConfig
from mri_minority_pipelines.events import Event
from mri_minority_pipelines.model_folder import EMBEDDED, ModelFolder, find_model
from mri_minority_pipelines.samplers import load_classifier
from mri_minority_pipelines.stages.score import lost_parts_of_store, scores_of
from mri_minority_pipelines.stages.train import scale_of
from mri_minority_pipelines.stages.train_classifier import calibration

MOST_BYTES = 25_000_000
MOST_CHANGE = 2e-3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--store", type=Path)
    args = parser.parse_args()
    source, target = ModelFolder(args.model), find_model(EMBEDDED)
    if args.store:
        score_again(source, SliceStore(args.store))
    card = source.card()
    if target.path.exists():
        shutil.rmtree(target.path)
    target.path.mkdir(parents=True)
    names = [file.stem for file in source.weights()]
    names += [f"classifier-{name}" for name in card["classifiers"]]
    for name in names:
        tensors, notes = load_tensors(args.model / f"{name}.safetensors")
        # The world's coefficient covariances are inverted, and the small full-resolution heads decide the last digits
        # of a pixel: they stay as they are.
        kept = {k for k in tensors if name == "world" or k.startswith("head.") or tensors[k].dtype != torch.float32}
        halved = {k: v if k in kept else v.half() for k, v in tensors.items()}
        save_tensors(target.path / f"{name}.safetensors", halved, notes)
    for judge in ("audit", "segmenter", "score-weights"):
        if (args.model / f"{judge}.safetensors").is_file():
            shutil.copy(args.model / f"{judge}.safetensors", target.path)
    for name, entry in card["classifiers"].items():
        entry["sha256"] = sha256_of(target.path / f"classifier-{name}.safetensors")
    target.write_card(card)
    change = largest_change(source, target)
    drawing = sum((target.path / f"{name}.safetensors").stat().st_size for name in names)
    whole = sum(file.stat().st_size for file in target.path.iterdir())
    print(json.dumps({"bytes": drawing, "bytes_with_audit": whole, "largest_change": change}))
    if drawing > MOST_BYTES or change > MOST_CHANGE:
        raise SystemExit(f"expected at most {MOST_BYTES} bytes and a change of {MOST_CHANGE}")


def score_again(model: ModelFolder, store: SliceStore) -> None:
    """Weights and levels of the minority score by the present denoiser; goes on where it was interrupted."""
    card = model.card()
    entry = card["classifiers"]["minority"]
    config = ScoreConfig.model_validate(entry["score"])
    parts = lost_parts_of_store(config, model.denoiser(), store, model.path / ".training", torch.device("cpu"), tell)
    result = scores_of(config, parts, store)
    strata, train = torch.as_tensor(store.strata()), torch.as_tensor(store.indices("train"))
    scale = fit_levels(result.score[train], strata[train], len(store.strata_names), entry["levels"])
    before, after = (of.of(result.score, strata)[train] for of in (scale_of(entry), scale))
    near = ((before - after).abs() <= 1).double().mean()
    print(json.dumps({"levels_as_before": float((before == after).double().mean()), "or_next": float(near)}))
    net = load_classifier("minority", card, model, torch.device("cpu"))[0]
    chosen, level = ClassifierConfig.model_validate(entry["config"]), scale.of(result.score, strata)
    entry["thresholds"], entry["rank_stability"] = scale.thresholds.tolist(), round(result.stability, 4)
    entry["report"]["held_out"] = calibration(chosen, net, scale.levels, store, level)
    model.write_card(card)


def tell(event: Event) -> None:
    print(f"{event.stage} {event.done:g} / {event.total:g}", flush=True)


@torch.no_grad()
def largest_change(ours: ModelFolder, theirs: ModelFolder) -> float:
    """Largest difference of two denoisers on the same noisy input, over noise levels and strata."""
    a, b = ours.denoiser(), theirs.denoiser()
    strata, channels, height, width = a.gaussian.mean.shape
    generator = torch.Generator().manual_seed(0)
    stratum = torch.arange(strata)
    largest = 0.0
    for sigma in (0.05, 0.3, 1.0, 5.0, 20.0):
        eps = torch.randn((strata, channels, height, width), generator=generator)
        x = a.gaussian.mean + sigma * eps
        level = torch.full((strata, len(a.groups.sizes)), sigma)
        largest = max(largest, float((a(x, level, stratum) - b(x, level, stratum)).abs().max()))
    return largest


if __name__ == "__main__":
    main()
