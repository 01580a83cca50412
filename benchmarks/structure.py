"""Does the denoiser know how large a structure is, and does sampling keep it?

    python benchmarks/structure.py --model MODEL --store STORE [--label ventricles] [--count 192]

First table: for real slices under noise, the regression of the label's true area on the denoised one, about the
stratum's mean. A posterior mean has slope 1 and no bias; a slope above 1 means that it moves too little. R2 is the
share of the area's variance that the denoised slice explains. "start" is the Gaussian start alone.

Second table: plain samples at the height where the label is largest, against real slices there. "Soft" area sums the
label channel, "hard" area counts the pixels of the decoded label: undecided pixels make the two differ.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from scipy.stats import skew

from mri_minority.core.rng import normal_for
from mri_minority.core.types import Batch, Sigmas, Strata
from mri_minority.diffusion.denoiser import Denoiser
from mri_minority.diffusion.kernel import add_noise, sigma_path
from mri_minority.diffusion.sampling import draw_slices
from mri_minority.diffusion.solvers import SOLVERS
from mri_minority.diffusion.state import decode, encode
from mri_minority.slices.store import SliceStore
from mri_minority.training.precision import autocast, bfloat16_pays
from mri_minority_pipelines.model_folder import find_model

SIGMAS = (20.0, 10.0, 6.0, 3.5, 2.0, 1.0, 0.5, 0.2)
CPU, BATCH = torch.device("cpu"), 32


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--label", default="ventricles")
    parser.add_argument("--count", type=int, default=192)
    parser.add_argument("--solver", default="ancestral")
    parser.add_argument("--steps", type=int, default=40)
    args = parser.parse_args()
    store, model = SliceStore(args.store), find_model(args.model)
    net, channel = model.denoiser(), store.label_names.index(args.label) + 1
    strata, train = store.strata(), store.indices("train")
    area = hard_area(store.read(train)[1], channel)
    means = [area[strata[train] == t].mean() for t in range(len(store.strata_names))]
    print("| subjects | sigma | slope | bias | R2 | slope, start | bias, start | R2, start |")
    print("|---|---|---|---|---|---|---|---|")
    largest = np.argsort(means)[-3:]
    for split in ("train", "holdout"):
        index = np.array([i for i in store.indices(split) if strata[i] in largest])
        index = np.sort(np.random.default_rng(0).permutation(index)[: 2 * args.count])
        for sigma in SIGMAS:
            found = [regression(d, store, index, sigma, channel, net.groups) for d in (net, net.gaussian)]
            cells = " | ".join(f"{s:.2f} | {b:+.1f} | {r:.2f}" for s, b, r in found)
            print(f"| {split} | {sigma:g} | {cells} |", flush=True)
    chain(store, net, int(largest[-1]), channel, args)


def regression(
    denoiser: Denoiser, store: SliceStore, index: np.ndarray, sigma: float, channel: int, groups: object
) -> tuple[float, float, float]:
    """Slope, bias and R2 of the true area given the denoised one."""
    image, label = store.read(index)
    x_0 = encode(torch.as_tensor(image), torch.as_tensor(label), len(store.label_names))
    stratum = torch.as_tensor(store.strata()[index])
    about = np.zeros(len(index))
    noise = normal_for(0, index.tolist(), tuple(x_0.shape[1:]), "structure")
    level = torch.full((len(x_0), 2), sigma)
    denoised = in_batches(denoiser, add_noise(x_0, level, noise, groups), level, stratum)  # type: ignore[arg-type]
    truth, guess = soft_area(x_0, channel), soft_area(denoised, channel)
    for t in stratum.unique():
        about[stratum == t] = truth[stratum == t].mean()
    truth, guess = truth - about, guess - about
    slope = float(np.polyfit(guess, truth, 1)[0])
    return slope, float((guess - truth).mean()), 1 - float(((truth - guess) ** 2).mean() / truth.var())


def chain(store: SliceStore, net: Denoiser, stratum: int, channel: int, args: argparse.Namespace) -> None:
    """Plain samples of one stratum against its real slices."""
    rows = [i for i in store.indices("train") if store.strata()[i] == stratum]
    real = hard_area(store.read(np.array(rows))[1], channel)
    path = sigma_path(20.0, 0.02, args.steps, 2)
    height, width = store.header["settings"]["size"]
    states = []
    for first in range(0, args.count, BATCH):
        items = list(range(first, min(first + BATCH, args.count)))
        chosen = torch.full((len(items),), stratum)
        shape = (1 + len(store.label_names), height, width)
        groups = net.groups  # type: ignore[attr-defined]
        with autocast(CPU, bfloat16_pays(CPU)):
            states.append(draw_slices(net, SOLVERS[args.solver], path, items, chosen, shape, 0, groups, CPU))
    x = torch.cat(states)
    drawn = {"soft": soft_area(x, channel), "hard": hard_area(decode(x, x.shape[1] - 1)[1].numpy(), channel)}
    print(
        f"\n| {args.label} area, {store.strata_names[stratum]} | mean | sd | skew | 95th percentile | over real P95 |"
    )
    print("|---|---|---|---|---|---|")
    for title, values in {"real": real, **drawn}.items():
        over = (values > np.quantile(real, 0.95)).mean()
        numbers = f"{values.mean():.0f} | {values.std():.0f} | {skew(values):.2f} | {np.quantile(values, 0.95):.0f}"
        print(f"| {title} ({len(values)}) | {numbers} | {over:.1%} |")


def in_batches(denoiser: Denoiser, x: Batch, sigma: Sigmas, stratum: Strata) -> Batch:
    """Denoise a large batch in pieces."""
    parts = []
    with autocast(CPU, bfloat16_pays(CPU)):
        for first in range(0, len(x), BATCH):
            rows = slice(first, first + BATCH)
            parts.append(denoiser(x[rows], sigma[rows], stratum[rows]))
    return torch.cat(parts)


def soft_area(x: Batch, channel: int) -> np.ndarray:
    """Sum of a label channel over the pixels, 1 inside and 0 outside."""
    return np.asarray((x[:, channel].float() + 0.5).sum(dim=(1, 2)))


def hard_area(label: np.ndarray, channel: int) -> np.ndarray:
    """Pixels of a class."""
    return np.asarray((label == channel).sum(axis=(1, 2)))


if __name__ == "__main__":
    main()
