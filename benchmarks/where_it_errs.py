"""Extra slices where the segmenter errs: the control of real slices, and a study's Dice by region.

    python benchmarks/where_it_errs.py lend --store STORE --out CONTROL.store [--heights 0.18 0.44] [--least 20]
    python benchmarks/where_it_errs.py table --store STORE --study STUDY [--seeds 0 1 2] [--of "edited horns"]

`lend` copies a store in which only those training slices count as such that lie between the heights and show the
structure: given to `augment --synthetic NAME=CONTROL.store`, the arm shows these real slices more often.

`table` holds every arm of a study against `real`, and one arm against all others: all slices, those at the heights, the
lateral ventricles', and of each the rarest tenth. Intervals over patients and training runs, as in `augment`; p-values
are not corrected.
"""

import argparse
import shutil
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mri_minority.evaluate.groups import means_over_patients, quantile_groups
from mri_minority.evaluate.paired import paired_bootstrap
from mri_minority.slices.store import SliceStore
from mri_minority.training.checkpoint import load_tensors
from mri_minority.volumes.atomic import write_text_atomic
from mri_minority_pipelines.rarity import attribute_scores

STRUCTURE, LATERAL = "ventricles", (0.44, 0.69)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["lend", "table"])
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--heights", type=float, nargs=2, default=(0.18, 0.44))
    parser.add_argument("--out", type=Path)
    parser.add_argument("--least", type=int, default=20, help="pixels of the structure")
    parser.add_argument("--study", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--of", default="edited horns")
    args = parser.parse_args()
    if args.what == "lend":
        print(f"{lend(args.store, args.out, args.heights, args.least)} slices in {args.out}")
    else:
        print("\n".join(table(SliceStore(args.store), args.study, args.seeds, args.of, args.heights)))


def strata_between(store: SliceStore, low: float, high: float) -> list[int]:
    """Strata whose middle lies between two heights."""
    heights, strata = store.heights(), store.strata()
    middles = [(heights[strata == t].min() + heights[strata == t].max()) / 2 for t in range(len(store.strata_names))]
    return [t for t, middle in enumerate(middles) if low <= middle <= high]


def lend(folder: Path, out: Path, heights: tuple[float, float], least: int) -> int:
    """Copy a store, with all other training slices set aside; how many are left."""
    store = SliceStore(folder)
    shutil.copytree(folder, out)
    area = (store.read(np.arange(len(store.rows)))[1] == store.label_names.index(STRUCTURE) + 1).sum(axis=(1, 2))
    lent = np.isin(store.strata(), strata_between(store, *heights)) & (area >= least)
    head, *lines = (folder / "slices.tsv").read_text(encoding="utf-8").splitlines()
    split, rows = head.split("\t").index("split"), [line.split("\t") for line in lines]
    for row, kept in zip(rows, lent, strict=True):
        if row[split] == "train" and not kept:
            row[split] = "set aside"
    write_text_atomic(out / "slices.tsv", "\n".join([head, *("\t".join(row) for row in rows)]) + "\n")
    return len(SliceStore(out).indices("train"))


def table(store: SliceStore, study: Path, seeds: list[int], chosen: str, heights: tuple[float, float]) -> list[str]:
    """Markdown: per region and arm, Dice and the differences."""
    held = store.indices("holdout")
    strata = store.strata()[held]
    patients = np.unique([store.rows[i].subject for i in held], return_inverse=True)[1].astype(np.int64)
    rarest = quantile_groups(attribute_scores(f"{STRUCTURE}_share", store).numpy()[held], strata, 10) == 9
    here, lateral = (np.isin(strata, strata_between(store, *between)) for between in (heights, LATERAL))
    regions = {"all slices": np.ones(len(held), dtype=bool), "where it errs": here, "lateral ventricles": lateral}
    column = store.label_names.index(STRUCTURE)
    arms: dict[str, list[npt.NDArray[np.float64]]] = {}
    for folder in sorted((study / "runs" / "all").iterdir()):
        for ratio in sorted({file.name.split("-seed-")[0] for file in folder.glob("ratio-*.safetensors")}):
            files = [folder / f"{ratio}-seed-{seed}.safetensors" for seed in seeds]
            if all(file.is_file() for file in files):
                name = f"{folder.name} {ratio.removeprefix('ratio-')}"
                arms[name] = [load_tensors(file)[0]["dice"].double().numpy()[:, column] for file in files]
    real, mine = "real 0", next(name for name in arms if name.startswith(chosen.replace(" ", "-")))
    lines = [f"| region | arm | Dice | against real | p | {mine} against it | p |", "|---|---|---|---|---|---|---|"]
    for region, inside in regions.items():
        for title, members in ((region, inside), (f"{region}, rarest tenth", inside & rarest)):
            of = {n: np.stack([means_over_patients(r, patients, members) for r in runs]) for n, runs in arms.items()}
            for name, values in of.items():
                cells = [_difference(*pair) for pair in ((values, of[real]), (of[mine], values))]
                lines.append(f"| {title} | {name} | {np.nanmean(values):.3f} | {cells[0]} | {cells[1]} |")
    return lines


def _difference(first: npt.NDArray[np.float64], second: npt.NDArray[np.float64]) -> str:
    if first is second:
        return " | "
    found = paired_bootstrap(first, second, 0)
    return f"{found.mean:+.3f} [{found.low:+.3f}, {found.high:+.3f}] | {found.p:.2g}"


if __name__ == "__main__":
    main()
