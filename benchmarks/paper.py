"""The evidence of the paper, redone on brain MRI: figures, numbers, and the page that shows them.

    python benchmarks/paper.py --model embedded --store STORE --work WORK --gan GAN --equal MODEL --docs docs

Writes docs/concepts/the-paper-on-brain-mri.md and its pictures in docs/images. The prose of the page, and what it
reads out of the figures, is in paper_page.md and was written for the model in the package; every number is filled in
here. GAN is the folder of gan.py, --equal a model (of curve.py) whose networks were trained for as many minutes. Runs
can be cut short (--minutes); the same command goes on.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import gan as comparator
import numpy as np
import paper_figures as figures
import torch
from scipy.spatial.distance import cdist
from sweep import ATTRIBUTE, CPU, OutOfTime, Setting, Sweep, options, percent
from torch.nn import functional

from mri_minority.core.rng import normal_for
from mri_minority.diffusion.kernel import add_noise
from mri_minority.diffusion.state import decode, encode
from mri_minority.evaluate.attributes import measure
from mri_minority.evaluate.density import average_knn, local_outlier_factor, rarity_score
from mri_minority.evaluate.fidelity import kid, precision_recall
from mri_minority.evaluate.segmenter import segment
from mri_minority.minority.score import channel_errors, combine, lost_parts, part_weights
from mri_minority.training.precision import autocast

SIGMAS = (2.5, 6.4)
"""Of the one-shot denoising: where this model scores, and where the released settings of the paper do."""
LEVELS = ("0", "4", "9", "14", "17", "19")
WEIGHTS = (0.0, 1.0, 2.0, 4.0, 6.0, 10.0)
SCORED, DRAWS, SHOWN, CHUNK = 400, 5, 8, 32


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--gan", type=Path, required=True)
    parser.add_argument("--equal", type=Path, required=True, help="a model trained as long as the GAN")
    parser.add_argument("--docs", type=Path, required=True)
    parser.add_argument("--count-sets", type=int, default=96, help="slices of each set in figures 4 and 5")
    args = parser.parse_args()
    sweep = Sweep(args.model, args.store, args.work, args.minutes)
    equal = Sweep(str(args.equal), args.store, args.work / "equal", args.minutes)
    images = args.docs / "images"
    try:
        told = {
            **one_shot(sweep, images),
            **scores(sweep, images),
            **density(sweep, args.count, images),
            **side_by_side(sweep, equal, args.gan, args.count_sets, images),
        }
    except OutOfTime:
        raise SystemExit("not everything is drawn yet; run the same command again") from None
    page = (Path(__file__).parent / "paper_page.md").read_text(encoding="utf-8")
    (args.docs / "concepts" / "the-paper-on-brain-mri.md").write_text(page.format(**told), encoding="utf-8")


@torch.no_grad()
def one_shot(sweep: Sweep, images: Path) -> dict[str, Any]:
    """Figure 1: what one denoising step leaves of the anatomy of held-out people, common and rare."""
    store, net = sweep.store, sweep.model.denoiser()
    strata = store.strata()
    index = np.array([i for i in store.indices("holdout") if int(strata[i]) in sweep.judge.p95])
    image, label = store.read(index)
    share = measure(ATTRIBUTE, label, store.label_names, sweep.judge.pixel_mm2)
    rare = share > np.array([sweep.judge.p95[int(t)] for t in strata[index]])
    half = np.array([np.median(share[strata[index] == t]) for t in strata[index]])
    common = np.abs(share - half) < 0.15 * half
    x_0 = encode(torch.as_tensor(image), torch.as_tensor(label), len(store.label_names))
    channel = store.label_names.index(ATTRIBUTE.removesuffix("_share")) + 1
    shape, told, kept = tuple(x_0.shape[1:]), {}, {}
    for sigma in SIGMAS:
        level = torch.full((len(x_0), len(net.groups.sizes)), sigma)
        noisy = add_noise(x_0, level, normal_for(sweep.seed, index.tolist(), shape, "one shot"), net.groups)
        parts = []
        with autocast(CPU, sweep.fast):
            for first in range(0, len(noisy), CHUNK):
                rows = slice(first, first + CHUNK)
                parts.append(net(noisy[rows], level[rows], torch.as_tensor(strata[index][rows])).float())
        cleaned = torch.cat(parts)
        kept[sigma] = (noisy, cleaned)
        areas = [np.asarray((x[:, channel] + 0.5).sum(dim=(1, 2))) for x in (x_0, cleaned)]
        error = np.asarray(((cleaned - x_0) ** 2)[:, channel].mean(dim=(1, 2)))
        for name, chosen in (("rare", rare), ("common", common)):
            at = f"{sigma:g}".replace(".", "_")
            told[f"f1_{name}_{at}"] = f"{areas[1][chosen].mean() / areas[0][chosen].mean() - 1:+.0%}"
            told[f"f1_{name}_error_{at}"] = f"{1000 * error[chosen].mean():.2f}"
    told |= {"f1_rare_n": int(rare.sum()), "f1_common_n": int(common.sum())}
    rows = {}
    for name, chosen in (("common", common), ("rare", rare)):
        picked = _one_each([store.rows[i].subject for i in index], np.flatnonzero(chosen), share, name == "rare")
        rows[name] = {"real": (image[picked], None)}
        for sigma, (noisy, cleaned) in kept.items():
            if sigma == SIGMAS[0]:
                rows[name][f"noised, sigma {sigma:g}"] = (
                    decode(noisy[picked], len(store.label_names))[0].numpy(),
                    None,
                )
            rows[name][f"denoised once, from sigma {sigma:g}"] = (
                decode(cleaned[picked], len(store.label_names))[0].numpy(),
                None,
            )
    figures.grid(images / "paper-figure-1.png", {f"{n}: {k}": v for n, r in rows.items() for k, v in r.items()})
    return told


def _one_each(people: list[str], chosen: np.ndarray, value: np.ndarray, largest: bool) -> np.ndarray:
    """At most one slice of every person: the largest values, or whatever comes first."""
    order = chosen[np.argsort(-value[chosen])] if largest else chosen
    seen: set[str] = set()
    return np.array([i for i in order if not (people[i] in seen or seen.add(people[i]))][:SHOWN])  # type: ignore[func-returns-value]


@torch.no_grad()
def scores(sweep: Sweep, images: Path) -> dict[str, Any]:
    """Figure 2: real slices of the lowest, middle and highest score, ranked among all and inside strata."""
    store, file = sweep.store, sweep.work / "paper-scores.npz"
    index = np.sort(np.random.default_rng(sweep.seed).permutation(store.indices("train"))[:SCORED])
    image, label = store.read(index)
    stratum = torch.as_tensor(store.strata()[index])
    config = sweep.model.recipe().score
    if not file.is_file():
        net, parts = sweep.model.denoiser(), []
        x_0 = encode(torch.as_tensor(image), torch.as_tensor(label), len(store.label_names))
        with autocast(CPU, sweep.fast):
            for first in range(0, len(index), CHUNK):
                rows, items = slice(first, first + CHUNK), index[first : first + CHUNK].tolist()
                parts.append(
                    lost_parts(
                        net,
                        x_0[rows],
                        stratum[rows],
                        config.sigma,
                        items,
                        DRAWS,
                        config.seed,
                        net.groups,
                        channel_errors,
                    )
                )
        np.savez_compressed(file, parts=torch.cat(parts).numpy())
    parts = torch.as_tensor(np.load(file)["parts"])
    together = torch.zeros_like(stratum)
    told: dict[str, Any] = {"f2_n": len(index)}
    rows = {}
    share = measure(ATTRIBUTE, label, store.label_names, sweep.judge.pixel_mm2)
    labelled = (label > 0).mean(axis=(1, 2))
    for name, among in (("all", together), ("strata", stratum)):
        found = combine(parts, part_weights(parts, among, int(among.max()) + 1, "balanced"), among)
        told[f"f2_stability_{name}"] = f"{found.stability:.2f}"
        place = np.empty(len(index))
        for t in np.unique(among):
            here = np.flatnonzero(np.asarray(among) == t)
            place[here] = np.argsort(np.argsort(found.score[here])) / max(1, len(here) - 1)
        order = np.argsort(place, kind="stable")
        top = order[-len(order) // 20 :]
        heights = np.array([store.rows[i].height for i in index])
        edge = (heights < np.quantile(heights, 0.15)) | (heights > np.quantile(heights, 0.85))
        limit = np.array([np.quantile(share[np.asarray(stratum) == t], 0.95) for t in stratum])
        told[f"f2_edge_{name}"] = f"{edge[top].mean():.0%}"
        told[f"f2_beyond_{name}"] = f"{(share > limit)[top].mean():.0%}"
        told[f"f2_labelled_{name}"] = f"{labelled[top].mean() / labelled.mean():.2f}"
        middle = len(order) // 2
        for title, chosen in (
            ("lowest", order[:SHOWN]),
            ("middle", order[middle : middle + SHOWN]),
            ("highest", order[-SHOWN:]),
        ):
            ranked = "among all slices" if name == "all" else "inside strata"
            rows[f"{title} score, ranked {ranked}"] = (image[chosen], None)
    figures.grid(images / "paper-figure-2.png", rows)
    return told


def density(sweep: Sweep, count: int, images: Path) -> dict[str, Any]:
    """Figure 3: neighbourhood density as the wanted level and the weight change, target: the minority score."""
    sample = sweep.model.recipe().sample
    base = Setting(sample.solver, sample.steps, sample.guidance, rarity="minority")
    series = {
        "level": {level: replace(base, wanted=level) for level in LEVELS},
        "w": {f"{w:g}": replace(base, guidance=w, method="minority" if w else "ancestral") for w in WEIGHTS},
    }
    told: dict[str, Any] = {"w": f"{sample.guidance:g}", "solver": sample.solver, "steps": sample.steps, "f3_n": count}
    judge, values = sweep.judge, {}
    for name, settings in series.items():
        lines = [f"| {name} | LOF | AvgkNN | beyond the real P95 | precision |", "|---|---|---|---|---|"]
        values[name] = {}
        for label, setting in settings.items():
            of = sweep.figures(setting, count)
            found, _ = sweep.draw(setting, count)
            values[name][label] = local_outlier_factor(judge.real, judge.features(found.image))
            told[f"f3_lof_{name}_{label}"] = f"{of['lof']:.3f}"
            rate = percent(of["attribute_rate"], count)
            lines.append(f"| {label} | {of['lof']:.3f} | {of['avg_knn']:.2f} | {rate} | {of['precision']:.2f} |")
        told[f"f3_{name}_table"] = "\n".join(lines)
    figures.boxes(images / "paper-figure-3.png", values, f"{sample.guidance:g}")
    return told


def side_by_side(sweep: Sweep, equal: Sweep, folder: Path, count: int, images: Path) -> dict[str, Any]:
    """Figures 4 and 5: GAN, ancestral and minority sampling, the diffusion samplers with the same seeds.

    Twice: with a model trained as long as the GAN, and with the model of the other figures.
    """
    sample, store, judge = sweep.model.recipe().sample, sweep.store, sweep.judge
    net, notes = comparator.load(folder)
    base = Setting(sample.solver, sample.steps, sample.guidance, rarity="minority")
    all_strata = store.strata()
    held = np.array([i for i in store.indices("holdout") if int(all_strata[i]) in judge.p95])
    held = np.sort(np.random.default_rng(sweep.seed).permutation(held)[: 4 * count])
    sets = {"real, held out": store.read(held)}
    sets["GAN"] = comparator.draw(net, count, sweep.model.recipe().prepare.size, sweep.seed)
    strata = {"real, held out": all_strata[held]}
    plain = replace(base, method="ancestral", guidance=0.0)
    for name, drawing, setting in (
        ("ancestral, trained as long", equal, plain),
        ("minority, trained as long", equal, base),
        ("ancestral", sweep, plain),
        ("minority", sweep, base),
        ("minority, by ventricles_share", sweep, replace(base, rarity=Setting.rarity)),
    ):
        found, _ = drawing.draw(setting, count)
        sets[name] = (found.image, found.label)
        strata[name] = found.stratum
    train = np.array([i for i in store.indices("train") if int(all_strata[i]) in judge.p95])
    nearest = cdist(_blocks(sets["GAN"][0]), _blocks(store.read(train)[0])).argmin(axis=1)
    strata["GAN"] = all_strata[train][nearest]
    measures: dict[str, dict[str, np.ndarray]] = {"AvgkNN": {}, "LOF": {}, "Rarity Score": {}}
    lines = [
        "| set | slices | beyond, label | beyond, image | KID x 1000 | precision | recall | AvgkNN | LOF "
        "| Rarity Score (undefined) |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, (image, label) in sets.items():
        features = judge.features(image)
        found_measures = (
            average_knn(judge.real, features),
            local_outlier_factor(judge.real, features),
            rarity_score(judge.real, features),
        )
        for key, row in zip(measures, found_measures, strict=True):
            measures[key][name] = row[np.isfinite(row)]
        seen = segment(sweep.segmenter, image, CPU)
        limit = np.array([judge.p95[int(t)] for t in strata[name]])
        rates = [percent(float((_share(sweep, m) > limit).mean()), len(image)) for m in (label, seen)]
        precision, recall = precision_recall(judge.real, features)
        undefined = float((~np.isfinite(found_measures[2])).mean())
        rarity = f"{np.nanmean(found_measures[2]):.2f} ({undefined:.0%})" if undefined < 1 else "none defined"
        near = 1000 * kid(judge.real, features)
        lines.append(
            f"| {name} | {len(image)} | {rates[0]} | {rates[1]} | {near:.1f} | {precision:.2f} | {recall:.2f} | "
            f"{found_measures[0].mean():.2f} | {found_measures[1].mean():.3f} | {rarity} |"
        )
    figures.grid(
        images / "paper-figure-4.png",
        {name: (image[:SHOWN], None) for name, (image, _) in sets.items()},
    )
    figures.curves(images / "paper-figure-5.png", measures)
    return {
        "f45_table": "\n".join(lines),
        "gan_minutes": f"{notes['cpu_minutes']:.0f}",
        "gan_steps": notes["step"],
        "gan_low": notes["heights"][0],
        "gan_high": notes["heights"][1],
    }


def _blocks(image: np.ndarray) -> np.ndarray:
    """Averages of 8 x 8 pixels: what a slice looks like from afar."""
    return functional.avg_pool2d(torch.as_tensor(image), 8).flatten(1).numpy()


def _share(sweep: Sweep, label: np.ndarray) -> np.ndarray:
    return measure(ATTRIBUTE, label, sweep.store.label_names, sweep.judge.pixel_mm2)


if __name__ == "__main__":
    main()
