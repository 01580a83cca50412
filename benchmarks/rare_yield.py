"""How much rare anatomy is in what was asked for? Three sets of slices, same seeds, same heights.

    python benchmarks/rare_yield.py --model MODEL --store STORE --work FOLDER [--count 200] [--guidance W ...]

A slice is "beyond" when its ventricles' share of the labelled area exceeds the real 95th percentile in its stratum:
about 5 % of real slices by definition. Measured on the generated label and, independently, on the label that a
segmenter (trained on real slices only) finds in the generated image. Intervals: 95 %, bootstrap over slices; over
subjects for real slices.
"""

import argparse
import json
import re
import time
from pathlib import Path

import numpy as np
import torch

from mri_minority.backbones.perceptual import ShiftTolerantLpips
from mri_minority.evaluate.fidelity import kid, precision_recall
from mri_minority.evaluate.segmenter import build_segmenter, dice, segment, train_segmenter
from mri_minority.export.dataset import read_manifest
from mri_minority.report.figures import contact_sheet
from mri_minority.slices.batches import SliceBatches
from mri_minority.slices.store import SliceStore
from mri_minority.training.checkpoint import load_tensors, save_tensors
from mri_minority_pipelines.events import Event
from mri_minority_pipelines.model_folder import find_model
from mri_minority_pipelines.perceptual import shift_tolerant_lpips
from mri_minority_pipelines.stages import synthesize

HEIGHTS = (0.38, 0.70)
CPU = torch.device("cpu")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("model", "store", "work"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--guidance", type=float, default=None)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--segmenter-steps", type=int, default=1500)
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    store, model = SliceStore(args.store), find_model(args.model)
    names, strata = store.label_names, store.strata()
    ventricles = names.index("ventricles") + 1
    config = model.recipe().sample
    if args.guidance is not None:
        config = config.model_copy(update={"guidance": args.guidance})
    asked = {
        "ancestral": ("minority", "ancestral"),
        "rare (minority)": ("minority", "minority"),
        "rare (ventricles_share)": ("attribute:ventricles_share", "minority"),
    }
    sets = {}
    for title, (rarity, method) in asked.items():
        out = args.work / f"{re.sub(r'[^a-z_]+', '-', title).strip('-')}-w{config.guidance:g}-{args.count}"
        begun = time.time()
        if not (out / "manifest.json").is_file():
            request = synthesize.Request("rare", rarity, method, args.count, HEIGHTS, args.seed)
            synthesize.run(request, config, model, out, CPU, quiet)
        manifest = read_manifest(out)
        image, label = synthesize.pictures(out, manifest, args.count)
        sets[title] = (image, label, np.array([row["trace"]["stratum"] for row in manifest["slices"]]))
        print(f"<!-- {title}: {time.time() - begun:.0f} s for {len(image)} slices -->", flush=True)
    used = np.unique(np.concatenate([stratum for _, _, stratum in sets.values()]))
    segmenter = judge(store, args.work / "segmenter.safetensors", args.segmenter_steps)
    held = np.array([i for i in store.indices("holdout") if strata[i] in used])
    train = np.array([i for i in store.indices("train") if strata[i] in used])
    train_label = store.read(train)[1]
    p95 = {t: np.quantile(share(train_label[strata[train] == t], ventricles), 0.95) for t in used}
    held_image, held_label = store.read(held)
    sets = {"real, held out": (held_image, held_label, strata[held]), **sets}
    people = np.array([store.rows[i].subject for i in held])
    lpips = shift_tolerant_lpips()
    subsample = np.random.default_rng(0).permutation(len(train))[:600]
    train_image = store.read(np.sort(train[subsample]))[0]
    real_features = features(lpips, train_image)
    # One scale for all: dividing each feature by its own spread would blow up those that hardly vary.
    centre, spread = real_features.mean(axis=0), real_features.std()
    dice_column = " / ".join(f"Dice {n}" for n in names)
    print(f"| set | beyond, label | beyond, image | share / real | {dice_column} | KID x 1000 | precision | recall |")
    print("|---|---|---|---|---|---|---|---|")
    results = {}
    for title, (image, label, stratum) in sets.items():
        seen = segment(segmenter, image, CPU)
        limit = np.array([p95[t] for t in stratum])
        mean_real = np.mean([share(train_label[strata[train] == t], ventricles).mean() for t in stratum])
        on_label, on_image = (share(m, ventricles) > limit for m in (label, seen))
        drawn = (features(lpips, image) - centre) / spread
        real = (real_features - centre) / spread
        precision, recall = precision_recall(real, drawn)
        results[title] = {
            "beyond_label": _interval(on_label, people if title.startswith("real") else None),
            "beyond_image": _interval(on_image, people if title.startswith("real") else None),
            "share_ratio": float(share(label, ventricles).mean() / mean_real),
            "dice": [round(float(np.nanmean(dice(seen, label, c))), 3) for c in range(1, len(names) + 1)],
            "kid": kid(real, drawn) * 1000,
            "precision": precision,
            "recall": recall,
        }
        r = results[title]
        print(
            f"| {title} (n={len(image)}) | {r['beyond_label']} | {r['beyond_image']} | {r['share_ratio']:.2f} | "
            f"{' / '.join(f'{d:.2f}' for d in r['dice'])} | {r['kid']:.1f} | {precision:.2f} | {recall:.2f} |",
            flush=True,
        )
    (args.work / f"results-w{config.guidance:g}.json").write_text(json.dumps(results, indent=2), encoding="utf-8")
    rows = [(title, image[:16], label[:16]) for title, (image, label, _) in sets.items()]
    shuffled = np.random.default_rng(1).permutation(len(held))[:16]
    rows[0] = ("real, held out", held_image[shuffled], held_label[shuffled])
    contact_sheet(args.work / f"sheet-w{config.guidance:g}.png", rows)


def judge(store: SliceStore, path: Path, steps: int) -> torch.nn.Module:
    """The segmenter of a file, or trained on the training slices and written there."""
    torch.manual_seed(0)
    net = build_segmenter(len(store.label_names))
    if path.is_file():
        net.load_state_dict(load_tensors(path)[0])
        return net
    batches = SliceBatches(store, store.indices("train"), 16, seed=11)
    for step, loss in train_segmenter(net, batches, steps, CPU, seed=11):
        if step % 250 == 0:
            print(f"<!-- segmenter step {step}: loss {loss:.3f} -->", flush=True)
    save_tensors(path, dict(net.state_dict()), {})
    return net


@torch.no_grad()
def features(lpips: ShiftTolerantLpips, image: np.ndarray) -> np.ndarray:
    """Pooled ST-LPIPS features (N, F) of images (N, I, H, W)."""
    rows = [lpips.pooled(torch.as_tensor(image[s : s + 16])).numpy() for s in range(0, len(image), 16)]
    return np.concatenate(rows).astype(np.float64)


def share(label: np.ndarray, value: int) -> np.ndarray:
    """A class's share of the labelled area of every map (N,)."""
    return (label == value).sum(axis=(1, 2)) / np.maximum(1, (label > 0).sum(axis=(1, 2)))


def _interval(hits: np.ndarray, people: np.ndarray | None) -> str:
    """Rate with its interval; slices of one person are drawn together."""
    units = np.arange(len(hits)) if people is None else np.unique(people, return_inverse=True)[1]
    sums, sizes = np.bincount(units, hits), np.bincount(units)
    drawn = np.random.default_rng(0).integers(len(sums), size=(2000, len(sums)))
    draws = sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1)
    low, high = np.quantile(draws, [0.025, 0.975])
    return f"{hits.mean():.1%} [{low:.0%}, {high:.0%}]"


def quiet(event: Event) -> None:
    """No bar: the tables are the output."""


if __name__ == "__main__":
    main()
