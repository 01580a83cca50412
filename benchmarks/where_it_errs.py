"""Extra slices where the segmenter errs: the control of real slices, and a study's Dice by region.

    python benchmarks/where_it_errs.py lend --store STORE --out CONTROL.store [--heights 0.18 0.44] [--least 80]
    python benchmarks/where_it_errs.py table --store STORE --study STUDY [--set 10 20] [--of "edited horns"]
    python benchmarks/where_it_errs.py table --store LGG --study STUDY --structure lesion --of inserted --areas 400 1000
    python benchmarks/where_it_errs.py table --store LGG --study STUDY --structure lesion --of inserted --places
    python benchmarks/where_it_errs.py table --store LGG --study STUDY --structure lesion --of inserted --scores TSV

`lend` copies a store in which only those training slices count as such that lie between the heights and show between
`--least` and `--most` mm2 of the structure: given to `augment --synthetic NAME=CONTROL.store`, the arm shows these
real slices more often.

`table` holds every arm of a study against `real`, and one arm against all others: all slices, those at the heights, the
lateral ventricles', and of each the rarest tenth. Or slices that show the structure: with `--areas` by its area in mm2,
with `--places` in thirds by how seldom training slices of that height show it there, with `--scores` (a table of
`mri-minority score`) in thirds of the minority score inside strata.
Intervals over patients and training runs, as in `augment`; p-values are not corrected.
"""

import argparse
import shutil
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy.ndimage import gaussian_filter
from skimage.filters import threshold_otsu

from mri_minority.anatomy.alike import box_of
from mri_minority.anatomy.edit import room_of
from mri_minority.evaluate.groups import means_over_patients, percentiles_within, quantile_groups
from mri_minority.evaluate.paired import paired_bootstrap
from mri_minority.slices.store import SliceStore
from mri_minority.training.checkpoint import load_tensors
from mri_minority.volumes.atomic import write_text_atomic
from mri_minority_pipelines.rarity import attribute_scores, external_scores

LATERAL = (0.44, 0.69)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["lend", "table"])
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--structure", default="ventricles")
    parser.add_argument("--heights", type=float, nargs=2, default=(0.18, 0.44))
    parser.add_argument("--out", type=Path)
    parser.add_argument("--least", type=float, default=80.0, help="mm2 of the structure")
    parser.add_argument("--most", type=float, default=np.inf, help="mm2 of the structure")
    parser.add_argument("--study", type=Path)
    parser.add_argument("--set", nargs="+", default=["all"], help="training set; runs of several are pooled")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--areas", type=float, nargs="+", help="mm2 between the groups")
    parser.add_argument("--places", action="store_true")
    parser.add_argument("--scores", type=Path)
    parser.add_argument("--of", default="edited horns")
    args = parser.parse_args()
    store = SliceStore(args.store)
    if args.what == "lend":
        print(f"{lend(store, args.structure, args.out, args.heights, args.least, args.most)} slices in {args.out}")
        return
    if args.areas:
        regions = by_area(store, args.structure, args.areas)
    elif args.places:
        regions = by_thirds(store, args.structure, "place", seldom(store, args.structure))
    elif args.scores:
        score = external_scores(f"file:{args.scores}", store).numpy()
        regions = by_thirds(store, args.structure, "score", percentiles_within(score, store.strata()))
    else:
        regions = by_height(store, args.structure, args.heights)
    column = store.label_names.index(args.structure)
    every = [runs_of(args.study / "runs" / of, args.seeds, column) for of in args.set]
    runs = {arm: [run for one in every for run in one[arm]] for arm in every[0] if all(arm in one for one in every)}
    print("\n".join(table(store, regions, runs, args.of)))


def strata_between(store: SliceStore, low: float, high: float) -> list[int]:
    """Strata whose middle lies between two heights."""
    heights, strata = store.heights(), store.strata()
    middles = [(heights[strata == t].min() + heights[strata == t].max()) / 2 for t in range(len(store.strata_names))]
    return [t for t, middle in enumerate(middles) if low <= middle <= high]


def areas(store: SliceStore, structure: str) -> npt.NDArray[np.float64]:
    """Area of the structure in every slice, mm2 (N,)."""
    return attribute_scores(f"{structure}_area_mm2", store).numpy()


def lend(store: SliceStore, structure: str, out: Path, heights: tuple[float, float], least: float, most: float) -> int:
    """Copy a store, with all other training slices set aside; how many are left."""
    shutil.copytree(store.folder, out)
    area = areas(store, structure)
    lent = np.isin(store.strata(), strata_between(store, *heights)) & (area >= least) & (area <= most)
    head, *lines = (out / "slices.tsv").read_text(encoding="utf-8").splitlines()
    split, rows = head.split("\t").index("split"), [line.split("\t") for line in lines]
    for row, kept in zip(rows, lent, strict=True):
        if row[split] == "train" and not kept:
            row[split] = "set aside"
    write_text_atomic(out / "slices.tsv", "\n".join([head, *("\t".join(row) for row in rows)]) + "\n")
    return len(SliceStore(out).indices("train"))


Regions = dict[str, npt.NDArray[np.bool_]]
"""What held-out slices are judged together, by name: (held-out slices,)."""


def by_height(store: SliceStore, structure: str, heights: tuple[float, float]) -> Regions:
    """All, those between the heights, those of the lateral ventricles, and of each the rarest tenth."""
    held = store.indices("holdout")
    strata = store.strata()[held]
    rarest = quantile_groups(attribute_scores(f"{structure}_share", store).numpy()[held], strata, 10) == 9
    here, lateral = (np.isin(strata, strata_between(store, *between)) for between in (heights, LATERAL))
    found = {"all slices": np.ones(len(held), dtype=bool), "where it errs": here, "lateral ventricles": lateral}
    return {n: m for name, mask in found.items() for n, m in ((name, mask), (f"{name}, rarest tenth", mask & rarest))}


def by_area(store: SliceStore, structure: str, limits: list[float]) -> Regions:
    """Slices that show the structure, by its area in mm2."""
    area = areas(store, structure)[store.indices("holdout")]
    edges = [0.0, *limits, np.inf]
    found = {_between(low, high): (area > 0) & (area >= low) & (area < high) for low, high in pairwise(edges)}
    return {**found, "all that show it": area > 0}


def _between(low: float, high: float) -> str:
    if not low or np.isinf(high):
        return f"under {high:g} mm2" if not low else f"over {low:g} mm2"
    return f"{low:g} to {high:g} mm2"


def by_thirds(store: SliceStore, structure: str, what: str, rarity: npt.NDArray[np.float64]) -> Regions:
    """Held-out slices that show the structure, in thirds of how rare they are; (N,) of all slices."""
    held = store.indices("holdout")
    shows = areas(store, structure)[held] > 0
    third = np.digitize(rarity[held], np.quantile(rarity[held][shows], [1 / 3, 2 / 3]))
    return {f"{name} {what}": shows & (third == t) for t, name in enumerate(("common", "middle", "rare"))}


def seldom(store: SliceStore, structure: str) -> npt.NDArray[np.float64]:
    """Minus the mean frequency, over the structure's pixels, of training slices of that height that show it there (N,).

    Places are those of the box around the head, on 24 x 24 pixels, blurred by one; -inf where it is not shown.
    """
    every = np.arange(len(store.rows))
    image, label = store.read(every)
    shown = label == store.label_names.index(structure) + 1
    placed = np.zeros((len(every), 24, 24))
    for at in np.flatnonzero(shown.any(axis=(1, 2))):
        head = room_of((image[at, 0] > threshold_otsu(image[at, 0])).astype(np.uint8))
        box, pixels = np.array(box_of(head)), np.argwhere(shown[at])
        there = 23 * (pixels - box[:, 0]) / (box[:, 1] - box[:, 0])
        np.add.at(placed[at], tuple(there.round().clip(0, 23).astype(int).T), 1)
    result, strata = np.full(len(every), -np.inf), store.strata()
    training = np.isin(every, store.indices("train"))
    for stratum in np.unique(strata):
        here = strata == stratum
        often = gaussian_filter((placed[training & here] > 0).mean(axis=0), 1)
        for at in np.flatnonzero(here & placed.any(axis=(1, 2))):
            result[at] = -float((placed[at] * often).sum() / placed[at].sum())
    return result


Runs = dict[str, list[npt.NDArray[np.float64]]]
"""Arm and ratio -> each run's Dice (held-out slices,)."""


def runs_of(folder: Path, seeds: list[int], column: int) -> Runs:
    """Arms of a training set that were run with all of these seeds."""
    arms: Runs = {}
    for arm in sorted(folder.iterdir()):
        for ratio in sorted({file.name.split("-seed-")[0] for file in arm.glob("ratio-*.safetensors")}):
            files = [arm / f"{ratio}-seed-{seed}.safetensors" for seed in seeds]
            if all(file.is_file() for file in files):
                name = f"{arm.name} {ratio.removeprefix('ratio-')}"
                arms[name] = [load_tensors(file)[0]["dice"].double().numpy()[:, column] for file in files]
    return arms


def table(store: SliceStore, regions: Regions, runs: Runs, chosen: str) -> list[str]:
    """Markdown: per region and arm, Dice and the differences."""
    who = [store.rows[i].subject for i in store.indices("holdout")]
    patients = np.unique(who, return_inverse=True)[1].astype(np.int64)
    real, mine = "real 0", next(name for name in runs if name.startswith(chosen.replace(" ", "-")))
    head = f"| region | slices | arm | Dice | against real | p | {mine} against it | p |"
    lines = [head, "|---|---|---|---|---|---|---|---|"]
    for title, members in regions.items():
        of = {n: np.stack([means_over_patients(r, patients, members) for r in each]) for n, each in runs.items()}
        for name, values in of.items():
            cells = [_difference(*pair) for pair in ((values, of[real]), (of[mine], values))]
            row = [title, str(int(members.sum())), name, f"{np.nanmean(values):.3f}", *cells]
            lines.append("| " + " | ".join(row) + " |")
    return lines


def _difference(first: npt.NDArray[np.float64], second: npt.NDArray[np.float64]) -> str:
    if first is second:
        return " | "
    found = paired_bootstrap(first, second, 0)
    return f"{found.mean:+.3f} [{found.low:+.3f}, {found.high:+.3f}] | {found.p:.2g}"


if __name__ == "__main__":
    main()
