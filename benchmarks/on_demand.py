"""Do images follow label maps that nobody's brain had? Held-out subjects' maps, as they are and with edited ventricles.

    python benchmarks/on_demand.py --store STORE --work FOLDER [--model embedded] [--count 200] [--guided]

For every set of maps an image is drawn for each (`synthesize --labels`). A segmenter that was trained on real slices
only reads the image, and its label is compared with the given one. The yardstick is the same segmenter on the real
images of the same slices. "Beyond the largest" is the share of maps whose ventricles are larger, as a share of the
labelled area, than in any training slice of the stratum.

Is it the image or the judge? The second table asks a judge that knows large ventricles, and still no synthetic slice:
half of its real training slices are deformed, map and image together, by edits of the same kind (1 to 3.2 times). And
it asks both judges about the real images, carried along with their edited maps: what a judge says of anatomy that is
there. What precision such images have says how much of a loss of precision is anatomy beyond the data.
"""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from rare_yield import CPU, HEIGHTS, features, judge, quiet, share
from torch import nn

from mri_minority.anatomy.edit import CannotReach, room_of
from mri_minority.anatomy.flow import carried_along
from mri_minority.backbones.perceptual import ShiftTolerantLpips
from mri_minority.evaluate.fidelity import precision_recall
from mri_minority.evaluate.segmenter import build_segmenter, dice, segment, train_segmenter
from mri_minority.export.dataset import read_manifest
from mri_minority.report.figures import contact_sheet
from mri_minority.slices.batches import SliceBatches
from mri_minority.slices.store import SliceStore
from mri_minority.training.checkpoint import load_tensors, save_tensors
from mri_minority.volumes.nifti import write_nifti
from mri_minority_pipelines.edits import parse_edit
from mri_minority_pipelines.model_folder import ModelFolder, find_model
from mri_minority_pipelines.perceptual import shift_tolerant_lpips
from mri_minority_pipelines.stages import synthesize, synthesize_given
from mri_minority_pipelines.stages.synthesize_given import Wish

EDITS = {
    "as they are": "",
    "ventricles 1.5 times": "ventricles:grow=1.5",
    "ventricles 2 times": "ventricles:grow=2",
    "ventricles 3 times": "ventricles:grow=3",
    "ventricles 1.5 to 3 times": "ventricles:grow=1.5..3",
    "1.2 to 2 times the real 95th percentile": "ventricles:grow=1.2*p95..2*p95",
}
LEAST_PIXELS = 20
AT_ONCE = 50
EDITED_TRAINING = 1500
"""Training slices that are tried for the judge that knows edits; those that show ventricles are taken."""


@dataclass(frozen=True)
class Maps:
    """Label maps to draw images for.

    Args:
        at: Rows of the store that they come from (N,).
        label: uint8 (N, H, W).
        stratum: (N,), the model's.
        image: Of the people, carried along with the edit, float32 (N, I, H, W).
    """

    at: npt.NDArray[np.int64]
    label: npt.NDArray[np.uint8]
    stratum: npt.NDArray[np.int64]
    image: npt.NDArray[np.float32]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--model", type=Path, default=Path("embedded"))
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--segmenter-steps", type=int, default=800)
    parser.add_argument("--guided", action="store_true", help="steer the images to rare levels, too")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    store, model = SliceStore(args.store), find_model(args.model)
    names, value = store.label_names, store.label_names.index("ventricles") + 1
    base = held_out(store, args.count, value)
    segmenter = judge(store, args.work / "segmenter.safetensors", args.segmenter_steps)
    knowing = judge_of_edits(store, model, args.work / "segmenter-edits.safetensors", args.segmenter_steps)
    judges = {"real slices": segmenter, "real slices, half of them edited": knowing}
    real_image = base.image
    real_dice = {c: dice(segment(segmenter, real_image, CPU), base.label, c) for c in range(1, len(names) + 1)}
    rows = dict(zip(base.at.tolist(), range(len(base.at)), strict=True))
    largest = largest_share(store, value)
    lpips = shift_tolerant_lpips()
    near = np.flatnonzero(np.isin(store.strata(), np.unique(base.stratum)))
    train = np.intersect1d(store.indices("train"), near)
    chosen = np.sort(np.random.default_rng(0).permutation(train)[:600])
    real = features(lpips, store.read(chosen)[0])
    scale = real.std()
    print(
        "| maps | n | " + " | ".join(f"Dice {n} (real)" for n in names) + " | area slope | area ratio | mean share"
        " | largest share | beyond the largest | precision | recall |"
    )
    print("|---" * (len(names) + 9) + "|")
    sheet = [("real, held out", real_image[:16], base.label[:16])]
    results: dict[str, Any] = {}
    wanted, found = [], []
    second: list[dict[str, Any]] = []
    for title, edit in EDITS.items():
        maps = edited(base, edit, model, args.seed) if edit else base
        image = drawn(maps, title, args, store, model)
        seen = segment(segmenter, image, CPU)
        pairs = [
            (np.nanmean(dice(seen, maps.label, c)), np.nanmean(real_dice[c][[rows[a] for a in maps.at.tolist()]]))
            for c in range(1, len(names) + 1)
        ]
        x, y = ((m == value).sum(axis=(1, 2)).astype(float) for m in (maps.label, seen))
        wanted.append(x)
        found.append(y)
        shares = share(maps.label, value)
        precision, recall = precision_recall(real / scale, features(lpips, image) / scale)
        result = {
            "slices": len(image),
            "dice": [round(float(own), 4) for own, _ in pairs],
            "dice_real": [round(float(of_real), 4) for _, of_real in pairs],
            "slope": float(np.polyfit(x, y, 1)[0]),
            "ratio": float(y.sum() / x.sum()),
            "share": float(shares.mean()),
            "share_largest": float(shares.max()),
            "beyond_largest": float((shares > largest[maps.stratum]).mean()),
            "precision": precision,
            "recall": recall,
        }
        results[title] = result
        whose = np.array([store.rows[at].subject for at in maps.at])
        second += judged_by(judges, title, maps, image, whose, value, real, lpips)
        cells = " | ".join(f"{own:.3f} ({of_real:.3f}, {own / of_real:.0%})" for own, of_real in pairs)
        print(
            f"| {title} | {len(image)} | {cells} | {result['slope']:.2f} | {result['ratio']:.2f} | {shares.mean():.1%} "
            f"| {shares.max():.1%} | {result['beyond_largest']:.0%} | {precision:.2f} | {recall:.2f} |",
            flush=True,
        )
        sheet.append((title, image[:16], maps.label[:16]))
    slope = float(np.polyfit(np.concatenate(wanted), np.concatenate(found), 1)[0])
    print(f"\nAll sets together: measured area on wanted area, slope {slope:.3f}.")
    train_label = store.read(train)[1]
    print(f"Largest ventricles in a training slice of these strata: {share(train_label, value).max():.1%}.")
    results["all"] = {"slope": slope}
    results["judges"] = second
    print("\n| judge learnt from | maps | images | Dice ventricles | area slope | area ratio | precision |")
    print("|---" * 7 + "|")
    for row in second:
        print("| " + " | ".join(f"{v:.3f}" if isinstance(v, float) else str(v) for v in row.values()) + " |")
    (args.work / "on_demand.json").write_text(json.dumps(results, indent=2), encoding="utf-8")
    contact_sheet(args.work / "on_demand.png", sheet)


def held_out(store: SliceStore, count: int, value: int) -> Maps:
    """Slices of held-out subjects that show ventricles, the same number of every subject as far as possible."""
    strata, heights = store.strata(), np.array([row.height for row in store.rows])
    index = store.indices("holdout")
    index = index[(heights[index] >= HEIGHTS[0]) & (heights[index] <= HEIGHTS[1])]
    label = store.read(index)[1]
    index = index[(label == value).sum(axis=(1, 2)) >= LEAST_PIXELS]
    people = np.array([store.rows[i].subject for i in index])
    order = np.random.default_rng(0).permutation(len(index))
    turn = np.empty(len(index), dtype=int)  # the how-manieth slice of its subject it is, in a random order
    for person in np.unique(people):
        own = order[people[order] == person]
        turn[own] = np.arange(len(own))
    at = index[order[np.argsort(turn[order], kind="stable")][:count]]
    at = np.sort(at)
    at = at[np.random.default_rng(1).permutation(len(at))]
    image, label = store.read(at)
    return Maps(at, label, strata[at], image)


def judged_by(
    judges: dict[str, nn.Module],
    title: str,
    maps: Maps,
    drawn: npt.NDArray[np.float32],
    whose: npt.NDArray[np.str_],
    value: int,
    real: npt.NDArray[np.float64],
    lpips: ShiftTolerantLpips,
) -> list[dict[str, Any]]:
    """What each judge says of the drawn images and of the people's own, carried along: rows of the second table."""
    rows = []
    given = (maps.label == value).sum(axis=(1, 2)).astype(float)
    for kind, image in (("real, carried along", maps.image), ("drawn", drawn)):
        precision, _ = precision_recall(real / real.std(), features(lpips, image) / real.std())
        for name, net in judges.items():
            seen = segment(net, image, CPU)
            read = (seen == value).sum(axis=(1, 2)).astype(float)
            rows.append(
                {
                    "judge": name,
                    "maps": title,
                    "images": kind,
                    "dice": float(np.nanmean(dice(seen, maps.label, value))),
                    "slope": slope_of(given, read, whose),
                    "ratio": float(read.sum() / given.sum()),
                    "precision": precision,
                }
            )
    return rows


def slope_of(given: npt.NDArray[np.float64], read: npt.NDArray[np.float64], whose: npt.NDArray[np.str_]) -> str:
    """Slope of read on given area, with its 95 % interval by bootstrap over subjects."""
    people = [np.flatnonzero(whose == person) for person in np.unique(whose)]
    rng, slopes = np.random.default_rng(0), []
    for _ in range(1000):
        chosen = np.concatenate([people[n] for n in rng.integers(len(people), size=len(people))])
        slopes.append(np.polyfit(given[chosen], read[chosen], 1)[0])
    low, high = np.quantile(slopes, [0.025, 0.975])
    return f"{np.polyfit(given, read, 1)[0]:.3f} [{low:.3f}, {high:.3f}]"


def judge_of_edits(store: SliceStore, model: ModelFolder, path: Path, steps: int) -> nn.Module:
    """A segmenter that learnt from real training slices alone, every other one with its ventricles grown."""
    torch.manual_seed(0)
    net = build_segmenter(len(store.label_names))
    if path.is_file():
        net.load_state_dict(load_tensors(path)[0])
        return net
    names, train = store.label_names, store.indices("train")
    value = names.index("ventricles") + 1
    chosen = np.random.default_rng(3).permutation(train)[:EDITED_TRAINING]
    image, label = store.read(chosen)
    shows = (label == value).sum(axis=(1, 2)) >= LEAST_PIXELS
    there = Maps(chosen[shows], label[shows], store.strata()[chosen[shows]], image[shows])
    grown = edited(there, "ventricles:grow=1..3.2", model, 5)
    plain = SliceBatches(store, train, 16, seed=11)

    def batches(step: int) -> tuple[torch.Tensor, torch.Tensor]:
        image, label = plain(step)[:2]
        at = np.random.default_rng([9, step]).integers(len(grown.label), size=8)
        return (
            torch.cat([image[:8], torch.as_tensor(grown.image[at])]),
            torch.cat([label[:8], torch.as_tensor(grown.label[at]).to(label.dtype)]),
        )

    for step, loss in train_segmenter(net, batches, steps, CPU, seed=11):
        if step % 250 == 0:
            print(f"<!-- segmenter of edits step {step}: loss {loss:.3f} -->", flush=True)
    save_tensors(path, dict(net.state_dict()), {})
    return net


def edited(base: Maps, text: str, model: ModelFolder, seed: int) -> Maps:
    """Every map with its edit; those that have no room for it are left out."""
    card, labels, images, kept = model.card(), [], [], []
    names = tuple(card["label_names"])
    request = parse_edit(text, names)
    value = names.index(request.structure) + 1
    pixel = (float(card["recipe"]["prepare"]["spacing_mm"][0]),) * 2
    for n, label in enumerate(base.label):
        rng = np.random.default_rng([seed, n])
        try:
            edit = request.edit(label, value, int(base.stratum[n]), card, pixel, rng)
            done = edit.apply(label, value, room_of(label), rng)
        except CannotReach:
            continue
        labels.append(done.label)
        assert done.deformation is not None
        images.append(carried_along(base.image[n], done.deformation))
        kept.append(n)
    return Maps(base.at[kept], np.stack(labels), base.stratum[kept], np.stack(images))


def drawn(
    maps: Maps, title: str, args: argparse.Namespace, store: SliceStore, model: ModelFolder
) -> npt.NDArray[np.float32]:
    """An image for every map, through files, as a user would; 50 at a time, so that an interrupted run goes on."""
    method = "minority" if args.guided else "ancestral"
    stem = title.replace(" ", "-") + ("-guided" if args.guided else "")
    images = []
    for first in range(0, len(maps.label), AT_ONCE):
        folder = args.work / f"maps-{stem}-{first}"
        folder.mkdir(exist_ok=True)
        for n in range(first, min(first + AT_ONCE, len(maps.label))):
            affine = np.array(store.rows[maps.at[n]].affine).reshape(4, 4)
            write_nifti(folder / f"{n:05d}.nii.gz", maps.label[n][:, :, None], affine, "label map", {})
        out = args.work / f"drawn-{stem}-{first}"
        if not (out / "manifest.json").is_file():
            request = synthesize.Request("rare", "minority", method, 1, (0.0, 1.0), args.seed + first)
            synthesize_given.run(Wish(labels=folder), request, model.recipe().sample, model, out, CPU, quiet)
        image, label = synthesize.pictures(out, read_manifest(out), AT_ONCE)
        assert np.array_equal(label, maps.label[first : first + AT_ONCE])
        images.append(image)
    return np.concatenate(images)


def largest_share(store: SliceStore, value: int) -> npt.NDArray[np.float64]:
    """The largest ventricles of a training slice, in every stratum (T,)."""
    train, strata = store.indices("train"), store.strata()
    return np.array([share(store.read(train[strata[train] == t])[1], value).max() for t in range(strata.max() + 1)])


if __name__ == "__main__":
    main()
