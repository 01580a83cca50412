"""Does the minority score find enlarged ventricles? AUROC by distance and noise level, with and without strata.

    python benchmarks/minority_score.py --model MODEL --store STORE --participants participants.tsv

Subjects are "enlarged" when they are in the top tenth of `ventricle_percent_icv`. A subject's score is the mean over
its slices at ventricle level (heights 0.45 to 0.70): of the raw score, or of the score's rank inside its stratum.
"""

import argparse
import csv
import time
from pathlib import Path

import numpy as np
import torch
from scipy.stats import rankdata, spearmanr
from sklearn.metrics import roc_auc_score

from mri_minority.core.types import Batch
from mri_minority.diffusion.state import encode
from mri_minority.minority.score import channel_errors, combine, lost_parts, part_weights
from mri_minority.slices.store import SliceStore
from mri_minority.training.precision import autocast, bfloat16_pays
from mri_minority_pipelines import rarity as rarities
from mri_minority_pipelines.model_folder import ModelFolder
from mri_minority_pipelines.perceptual import shift_tolerant_lpips

HEIGHTS = (0.45, 0.70)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("model", "store", "participants"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--sigmas", type=float, nargs="+", default=[1.0, 2.5, 6.4])
    parser.add_argument("--draws", type=int, default=2)
    parser.add_argument("--every", type=int, default=1, help="use every n-th slice only")
    args = parser.parse_args()
    store, net = SliceStore(args.store), ModelFolder(args.model).denoiser()
    index = np.array([i for i, r in enumerate(store.rows) if HEIGHTS[0] <= r.height <= HEIGHTS[1]])[:: args.every]
    percent = _percentages(args.participants)
    subjects = np.array([store.rows[i].subject for i in index])
    cut = np.quantile([percent[s] for s in np.unique(subjects)], 0.9)
    stratum = torch.as_tensor(store.strata()[index])
    _, compact = torch.unique(stratum, return_inverse=True)
    share = rarities.attribute_scores("ventricles_share", store).numpy()[index]
    train = torch.as_tensor(np.array([store.rows[i].split == "train" for i in index]))
    held = {s for s in np.unique(subjects) if store.rows[index[np.flatnonzero(subjects == s)[0]]].split == "holdout"}
    lpips = shift_tolerant_lpips()
    print(
        f"{len(index)} slices, {len(np.unique(subjects))} subjects ({len(held)} held out), enlarged: above {cut:.2f} %"
    )
    columns = "sigma, distance, AUROC raw, AUROC in strata, rank stability, P95+ in rarest 10 %, held out / training"
    print(f"| {columns.replace(', ', ' | ')} |")
    print("|---|---|---|---|---|---|---|")
    for sigma in args.sigmas:
        begun = time.time()
        parts = _parts(net, store, index, stratum, sigma, args.draws, lpips)
        for kind in ("image", "labels", "both", "balanced", "perceptual"):
            if kind == "perceptual":
                each = parts[:, :, -1].double()
                score, stability = each.mean(dim=1), float(spearmanr(each[:, 0], each[:, 1]).statistic)
            else:
                some = parts[:, :, :-1]
                weights = part_weights(some[train], compact[train], int(compact.max()) + 1, kind)
                result = combine(some, weights, compact)
                score, stability = result.score, result.stability
            inside = _ranks(score.numpy(), compact.numpy())
            raw, ranked = (_auroc(v, subjects, percent, cut) for v in (score.numpy(), inside))
            held_rows = np.isin(subjects, list(held))
            ratio = score.numpy()[held_rows].mean() / score.numpy()[~held_rows].mean() if held else float("nan")
            hits = _beyond(share, compact.numpy())[inside > 0.9].mean()
            print(
                f"| {sigma:g} | {kind} | {raw:.3f} | {ranked:.3f} | {stability:.3f} | {hits:.1%} | {ratio:.3f} |",
                flush=True,
            )
        print(f"<!-- sigma {sigma:g}: {time.time() - begun:.0f} s -->", flush=True)


@torch.no_grad()
def _parts(net, store, index, stratum, sigma, draws, lpips) -> torch.Tensor:  # type: ignore[no-untyped-def]
    """Channel errors and the perceptual distance of the image channel: (N, draws, C + 1)."""

    def distance(x_0: Batch, denoised: Batch) -> torch.Tensor:
        image = lpips(x_0[:, :1], denoised[:, :1].float().clamp(-1, 1))
        return torch.cat([channel_errors(x_0, denoised), image[:, None]], dim=1)

    rows, device = [], torch.device("cpu")
    fast = bfloat16_pays(device)
    for start in range(0, len(index), 32):
        part = index[start : start + 32]
        image, label = store.read(part)
        x_0 = encode(torch.as_tensor(image), torch.as_tensor(label), len(store.label_names))
        where = stratum[start : start + 32]
        with autocast(device, fast):
            rows.append(lost_parts(net, x_0, where, sigma, part.tolist(), draws, 0, net.groups, distance).float())
    return torch.cat(rows)


def _percentages(path: Path) -> dict[str, float]:
    with path.open(encoding="utf-8") as table:
        return {e["participant_id"]: float(e["ventricle_percent_icv"]) for e in csv.DictReader(table, delimiter="\t")}


def _ranks(score: np.ndarray, stratum: np.ndarray) -> np.ndarray:
    result = np.zeros(len(score))
    for t in np.unique(stratum):
        here = stratum == t
        result[here] = rankdata(score[here]) / here.sum()
    return result


def _beyond(share: np.ndarray, stratum: np.ndarray) -> np.ndarray:
    result = np.zeros(len(share), bool)
    for t in np.unique(stratum):
        here = stratum == t
        result[here] = share[here] > np.quantile(share[here], 0.95)
    return result


def _auroc(score: np.ndarray, subjects: np.ndarray, percent: dict[str, float], cut: float) -> float:
    names = np.unique(subjects)
    return float(roc_auc_score([percent[s] > cut for s in names], [score[subjects == s].mean() for s in names]))


if __name__ == "__main__":
    main()
