"""Do folds look like folds? Held-out slices, noised to a level and drawn anew from there, against themselves.

    python benchmarks/folds.py --model MODEL --store STORE [--count 48] [--picture folds.png]

From little noise the anatomy is the slice's own and only texture is drawn; from much noise everything is. So the first
level at which a figure leaves that of the real slices is where the network goes wrong. Figures are means over slices:

    pieces        connected pieces of a tissue in the label map; islands of white matter are torn folds
    edge / area   length of a tissue's border, in pixel edges, over its area
    grain         standard deviation of pixel minus 3 x 3 mean, inside white matter (data range is 2)
    mottle        the same of a band: Gaussian of 1 minus Gaussian of 3 pixels
    contrast      mean intensity of white minus grey matter
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from rare_yield import CPU
from scipy import ndimage

from mri_minority.core.rng import normal_for
from mri_minority.diffusion.kernel import sigma_path
from mri_minority.diffusion.solvers import SOLVERS
from mri_minority.diffusion.state import decode, encode
from mri_minority.export.labels import drop_specks
from mri_minority.report.figures import contact_sheet
from mri_minority.slices.store import SliceStore
from mri_minority.training.precision import autocast, bfloat16_pays
from mri_minority_pipelines.model_folder import find_model

LEVELS = (0.1, 0.3, 0.6, 1.2, 2.5, 5.0, 20.0)
HEIGHTS, BATCH = (0.45, 0.70), 16
DIGITS = (1, 1, 3, 4, 4, 3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--count", type=int, default=48)
    parser.add_argument("--picture", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    store, model = SliceStore(args.store), find_model(args.model)
    net, config = model.denoiser(), model.recipe().sample
    grey, white = (store.label_names.index(name) + 1 for name in ("grey_matter", "white_matter"))
    held = [i for i in store.indices("holdout") if HEIGHTS[0] <= store.rows[i].height <= HEIGHTS[1]]
    chosen = np.array(held)[np.linspace(0, len(held) - 1, args.count).astype(int)]
    image, label = store.read(chosen)
    x_0 = encode(torch.as_tensor(image), torch.as_tensor(label), len(store.label_names))
    stratum, shape = torch.as_tensor(store.strata()[chosen]), tuple(x_0.shape[1:])
    print("| drawn anew from sigma | white pieces | grey pieces | white edge / area | grain | mottle | contrast |")
    print("|---|---|---|---|---|---|---|")
    print(row("real", image, label, grey, white))
    rows = [("real", image, label)]
    whole = sigma_path(config.sigma_max, config.sigma_min, config.steps, len(net.groups.sizes))
    for sigma in LEVELS:
        steps = int((whole[:-1, 0] < sigma).sum()) + 1
        path = sigma_path(sigma, config.sigma_min, max(steps, 2), len(net.groups.sizes))
        parts = []
        for first in range(0, args.count, BATCH):
            items = list(range(first, min(first + BATCH, args.count)))
            x = x_0[items] + sigma * normal_for(5, items, shape, "start")
            with torch.no_grad(), autocast(CPU, bfloat16_pays(CPU)):
                noise = lambda step, items=items: normal_for(5, items, shape, "step", step)  # noqa: E731
                x = SOLVERS[config.solver].run(net, x, path, stratum[items], net.groups, noise)
            parts.append(x)
        pixels, masks = decode(torch.cat(parts), len(store.label_names))
        drawn = np.stack([drop_specks(mask) for mask in masks.numpy()])
        print(row(f"{sigma:g}", pixels.numpy(), drawn, grey, white), flush=True)
        rows.append((f"drawn anew from sigma {sigma:g}", pixels.numpy(), drawn))
    if args.picture:
        few = np.linspace(0, args.count - 1, 8).astype(int)
        contact_sheet(args.picture, [(title, pixels[few], masks[few]) for title, pixels, masks in rows])


def row(title: str, image: np.ndarray, label: np.ndarray, grey: int, white: int) -> str:
    """A line of the table, of images (N, 1, H, W) and label maps (N, H, W)."""
    figures = np.array([of_slice(x[0], m, grey, white) for x, m in zip(image, label, strict=True)])
    cells = [f"{value:.{digits}f}" for value, digits in zip(np.nanmean(figures, axis=0), DIGITS, strict=True)]
    return f"| {title} | {' | '.join(cells)} |"


def of_slice(x: np.ndarray, label: np.ndarray, grey: int, white: int) -> list[float]:
    """The six figures of one slice; NaN where there is too little white or grey matter."""
    is_grey, is_white = label == grey, label == white
    pieces = [float(ndimage.label(mask)[1]) for mask in (is_white, is_grey)]
    inside = ndimage.binary_erosion(is_white, np.ones((3, 3)))
    if inside.sum() < 20 or is_grey.sum() < 20:
        return [*pieces, *[float("nan")] * 4]
    edge = sum(np.abs(np.diff(is_white.astype(int), axis=axis)).sum() for axis in (0, 1)) / is_white.sum()
    grain = (x - ndimage.uniform_filter(x, 3))[inside].std()
    weight = inside.astype(float)
    fine, rough = (
        ndimage.gaussian_filter(x * weight, s) / np.maximum(ndimage.gaussian_filter(weight, s), 1e-3) for s in (1, 3)
    )
    return [
        *pieces,
        edge,
        float(grain),
        float((fine - rough)[inside].std()),
        float(x[is_white].mean() - x[is_grey].mean()),
    ]


if __name__ == "__main__":
    main()
