"""Planted copies: are disguised training slices found, and real slices of other people left alone?

    python benchmarks/copy_audit.py --store STORE --audit MODEL/audit.safetensors

Slices and disguises are others than those the thresholds were set by; every held-out subject set them with other slices
(the audit file itself states the false alarms measured on subjects that did not set them).
"""

import argparse
from pathlib import Path

import numpy as np
import torch

from mri_minority.evaluate.disguise import Disguise
from mri_minority.evaluate.verdict import Numbers, auc
from mri_minority.slices.store import SliceStore
from mri_minority_pipelines.config import AuditConfig
from mri_minority_pipelines.stages import audit


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--audit", type=Path, required=True)
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--seed", type=int, default=2026)
    args = parser.parse_args()
    torch.set_num_threads(1)
    store = SliceStore(args.store)
    auditor = audit.load(args.audit, store)
    real = others(store.indices("holdout"), args.count)
    chosen = others(store.indices("train"), args.count)
    disguised = Disguise()(torch.as_tensor(store.read(chosen)[0]), torch.Generator().manual_seed(args.seed))
    # Searched once: what a verdict does not tell, the suspicion itself, is wanted too.
    found = {"held out": auditor.search(torch.as_tensor(store.read(real)[0])), "planted": auditor.search(disguised)}
    suspicion, bins = {}, {}
    for name, nearest in found.items():
        rarity = auditor.search.gallery.rarity[nearest.match].double().numpy()
        suspicion[name] = nearest.suspicion.double().numpy()
        bins[name] = np.searchsorted(np.array(auditor.thresholds.edges), rarity, side="right")
    print("| rarity bin | held out | rejected | planted | rejected | AUC | largest held out / smallest planted |")
    print("|---|---|---|---|---|---|---|")
    for b, limit in enumerate(auditor.thresholds.reject):
        stranger, copy = (suspicion[name][bins[name] == b] for name in ("held out", "planted"))
        print(row(f"{b} of {len(auditor.thresholds.reject)}", stranger, copy, limit))
    subject = np.array([item.subject for item in store.rows])
    train = store.indices("train")
    right = subject[train[found["planted"].match.numpy()]] == subject[chosen]
    print(f"\nThe match is the copied slice's own subject in {right.mean():.1%} of planted copies.")


def others(index: np.ndarray, count: int) -> np.ndarray:
    """Slices spread over all subjects, none of which set a threshold where there are enough."""
    used = index[np.linspace(0, len(index) - 1, min(len(index), AuditConfig().calibration)).astype(int)]
    left = np.setdiff1d(index, used)
    left = left if len(left) else index
    return left[np.linspace(0, len(left) - 1, min(len(left), count)).astype(int)]


def row(name: str, stranger: Numbers, copy: Numbers, limit: float) -> str:
    """A line of the table."""
    cells = [name, len(stranger), f"{(stranger >= limit).mean():.1%}", len(copy), f"{(copy >= limit).mean():.1%}"]
    if len(stranger) and len(copy):
        cells += [f"{auc(stranger, copy):.4f}"]
        cells += [f"{stranger.max():.2f} / {copy.min():.2f}"]
    return f"| {' | '.join(str(cell) for cell in cells)} |"


if __name__ == "__main__":
    main()
