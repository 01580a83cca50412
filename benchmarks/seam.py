"""Can the border of a redrawn region be seen? A small network looks at a ring around it, real against redrawn.

    python benchmarks/seam.py --model MODEL --store STORE --work FOLDER [--structure ventricles] [--count 480]

In slices of held-out subjects that show the structure, it and 3 pixels about it are drawn anew by the inserting code,
given the label map and everything outside. The judge sees the pixels up to 3 inside and 3 outside the border of the
region, of redrawn and of the same real slices, the rest is black; it learns on two thirds of the subjects and is tested
on the others (best of its epochs by a third split would need more subjects; the last epoch is reported). 0.5 is blind.

`--healthy` inserts the structure into slices without it instead, in shapes and places of training subjects, and the
judge compares with the real structure in other slices. Then it can also use what the structure does to what lies
around it, which an insertion leaves as it is. So the judge is also asked about each half of the ring: what it tells
apart in the outer half is in pixels that the insertion did not touch. And it is asked about insertions that were
blurred on purpose, since a judge that learnt from a dozen people may be blind. With `--learn N` it learns from N real
and N redrawn slices of training people instead, and is asked about all held-out ones.
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from rare_yield import CPU
from scipy.ndimage import binary_dilation, distance_transform_edt, gaussian_filter
from torch import Tensor, nn

from mri_minority.core.rng import generator_for
from mri_minority.diffusion.state import decode
from mri_minority.evaluate.verdict import auc
from mri_minority.report.figures import contact_sheet
from mri_minority.slices.store import SliceStore
from mri_minority.training.precision import wants_bfloat16
from mri_minority_pipelines import given as drawing
from mri_minority_pipelines.given import MARGIN, Given, joined
from mri_minority_pipelines.given_sources import StoreBases, edited
from mri_minority_pipelines.insertions import Inserted, donors_in, parse_insertion
from mri_minority_pipelines.model_folder import ModelFolder, find_model
from mri_minority_pipelines.samplers import build_sampler

RING = 3
BATCH = 32
LEAST_PIXELS = 20
POOL = 6
"""Maps that are made for every one that is drawn."""
BLUR = 1.0
"""Pixels of the Gaussian that spoils an insertion on purpose: a judge that cannot tell that is blind."""
WINDOW = 80
"""Pixels about a region that the judge is shown."""


@dataclass(frozen=True)
class Slices:
    """Slices with a region each.

    Args:
        image: float32 (N, H, W).
        region: bool (N, H, W).
        people: Number of whose they are (N,).
    """

    image: npt.NDArray[np.float32]
    region: npt.NDArray[np.bool_]
    people: npt.NDArray[np.int64]

    def of(self, chosen: npt.NDArray[np.int64], rest: bool = False) -> "Slices":
        """Those of some people, or all others."""
        here = np.isin(self.people, chosen) != rest
        return Slices(self.image[here], self.region[here], self.people[here])

    def blurred(self, sigma: float) -> "Slices":
        """With their regions blurred."""
        soft = np.stack([gaussian_filter(picture, sigma) for picture in self.image])
        return replace(self, image=np.where(self.region, soft, self.image))


Both = tuple[Slices, Slices]
"""Real ones, and those that were redrawn or inserted."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=Path("embedded"))
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--structure", default="ventricles")
    parser.add_argument("--count", type=int, default=480)
    parser.add_argument("--learn", type=int, default=0, help="pairs of training people that the judge learns from")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--solver", default=None)
    parser.add_argument("--healthy", action="store_true")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    store, model = SliceStore(args.store), find_model(args.model)
    tested = slices_of("holdout", args.count, store, model, args)
    learnt = slices_of("train", args.learn, store, model, args) if args.learn else None
    questions: list[tuple[str, tuple[str, ...], float]] = [
        ("the ring", ("in", "out"), 0),
        ("its inner half", ("in",), 0),
        ("its outer half", ("out",), 0),
        ("the ring, insertions blurred on purpose", ("in", "out"), BLUR),
    ]
    for said, sides, blur in questions:
        spoilt = [(real, drawn.blurred(blur) if blur else drawn) for real, drawn in (tested, learnt or tested)]
        scores = list(judged(spoilt[0], spoilt[1] if learnt else None, args.epochs, sides))
        each = ", ".join(f"{score:.3f}" for score in scores)
        runs = "runs of a judge that learnt from training people" if learnt else "folds of subjects"
        print(f"AUC of {said}: mean {np.mean(scores):.3f}, {runs} {each}", flush=True)


def slices_of(split: str, count: int, store: SliceStore, model: ModelFolder, args: argparse.Namespace) -> Both:
    """Real slices, and redrawn or inserted ones, of one split; writes a contact sheet of the latter."""
    value = store.label_names.index(args.structure) + 1
    real, people = with_structure(store, model, value, count, split)
    if args.healthy:
        asked, whose = inserted(store, model, args.structure, value, [g.stratum for g in real], split)
    else:
        asked, whose = real, people
    image = redrawn(asked, model, split, args)
    source = np.stack([np.asarray(g.image)[0] for g in asked])
    outside = ~regions(asked)
    print(f"{split}: pixels outside that differ: {int((image != source)[outside].sum())} of {int(outside.sum())}")
    print(f"{split}: mean absolute difference inside: {np.abs(image - source)[~outside].mean():.3f}")
    show = np.random.default_rng(1).permutation(len(asked))[:16]
    labels = np.stack([g.label for g in asked])
    pairs = ((f"source ({args.structure})", source), ("inserted" if args.healthy else "redrawn", image))
    sheet = [(said, pixels[show][:, None], labels[show]) for said, pixels in pairs]
    contact_sheet(args.work / f"seam-{split}.png", sheet)
    own = np.stack([np.asarray(g.image)[0] for g in real])
    return Slices(own, regions(real), people), Slices(image, regions(asked), whose)


def with_structure(
    store: SliceStore, model: ModelFolder, value: int, count: int, split: str
) -> tuple[list[Given], npt.NDArray[np.int64]]:
    """Real slices of a split's subjects that show the structure, and whose they are."""

    def fits(label: npt.NDArray[np.uint8]) -> bool:
        return int((label == value).sum()) >= LEAST_PIXELS

    bases = slices_in(split, store, model, fits)
    found, people = [], []
    for at in np.random.default_rng(0).permutation(bases.rows)[:count]:
        image, label = store.read(np.array([at]))
        region = np.asarray(binary_dilation(label[0] == value, iterations=MARGIN), dtype=bool)
        affine = np.array(store.rows[at].affine).reshape(4, 4)
        found.append(Given(label[0], int(bases.stratum[at]), affine, image=image[0], region=region))
        people.append(store.rows[at].subject)
    return found, numbered(store, people)


def inserted(
    store: SliceStore, model: ModelFolder, structure: str, value: int, strata: list[int], split: str
) -> tuple[list[Given], npt.NDArray[np.int64]]:
    """A split's slices without the structure, with one added to their maps; one for each of the given strata."""
    bases = slices_in(split, store, model, lambda label: not (label == value).any())
    card = model.card()
    asked = parse_insertion(structure, tuple(card["label_names"]))
    put = Inserted(asked, donors_in(store, card, structure, needed=True), card)
    pool = list(edited(put, structure, bases, POOL * len(strata), 5, card, insert=True))
    found = []
    for stratum in strata:  # heights as in the real slices, so that they do not tell the two apart
        nearest = min(pool, key=lambda g: abs(g.stratum - stratum))
        pool = [g for g in pool if g is not nearest]
        found.append(nearest)
    off = np.mean([g.stratum != stratum for g, stratum in zip(found, strata, strict=True)])
    print(f"inserted slices whose stratum is not the real one's: {off:.0%}")
    subject = {(row.sha256, row.index): row.subject for row in store.rows}
    people = [subject[g.trace["source_series_sha256"], g.trace["source_index"]] for g in found]
    return found, numbered(store, people)


def slices_in(split: str, store: SliceStore, model: ModelFolder, fits: object) -> StoreBases:
    card = model.card()
    every = list(range(len(card["strata"]["names"])))
    return StoreBases(store, card, every, fits, "person", f"slices of {split}", split)  # type: ignore[arg-type]


def numbered(store: SliceStore, people: list[str]) -> npt.NDArray[np.int64]:
    """A number for every subject."""
    known = sorted({row.subject for row in store.rows})
    return np.array([known.index(person) for person in people])


def regions(given: list[Given]) -> npt.NDArray[np.bool_]:
    return np.stack([np.asarray(g.region) for g in given])


def redrawn(given: list[Given], model: ModelFolder, split: str, args: argparse.Namespace) -> npt.NDArray[np.float32]:
    """Images of the slices with their regions drawn anew; kept block by block, so that an interrupted run goes on."""
    config = model.recipe().sample
    if args.solver:
        config = config.model_copy(update={"solver": args.solver})
    sampler = build_sampler("ancestral", "rare", "minority", config, model, CPU)
    net, images, fast = model.denoiser(), [], wants_bfloat16(config.precision, CPU)
    for first in range(0, len(given), BATCH):
        kept = args.work / f"block-{split}-{'healthy-' if args.healthy else ''}{config.solver}-{first:05d}.npy"
        part = given[first : first + BATCH]
        if not kept.is_file():
            states, _ = drawing.draw(sampler, net, part, list(range(first, first + len(part))), 3, CPU, fast)
            image = decode(states, len(model.card()["label_names"]))[0].numpy()
            pairs = zip(image, part, strict=True)
            np.save(kept, np.stack([joined(i, np.asarray(g.image), np.asarray(g.region))[0] for i, g in pairs]))
        images.append(np.load(kept))
    return np.concatenate(images).astype(np.float32)


def rings(image: npt.NDArray[np.float32], region: npt.NDArray[np.bool_], sides: tuple[str, ...]) -> Tensor:
    """What the judge sees (N, 2, H, W): pixels near the region's border, on some of its sides, and which those are."""
    near = np.zeros(region.shape, dtype=bool)
    for shown, m in zip(near, region, strict=True):
        for side, there in (("in", m), ("out", ~m)):
            if side in sides:
                shown |= there & (distance_transform_edt(there) <= RING)
    planes = np.pad(np.stack([np.where(near, image, 0), near], axis=1), ((0, 0), (0, 0), *[(WINDOW // 2,) * 2] * 2))
    centres = [np.argwhere(m).mean(axis=0).round().astype(int) for m in region]
    windows = [p[:, i : i + WINDOW, j : j + WINDOW] for p, (i, j) in zip(planes, centres, strict=True)]
    return torch.as_tensor(np.stack(windows)).float()


def judged(tested: Both, learnt: Both | None, epochs: int, sides: tuple[str, ...]) -> Iterator[float]:
    """AUC of three judges: each learnt from the other two thirds of the people, or from people of its own."""
    people = np.unique(np.concatenate([one.people for one in tested]))
    for run in range(3):
        if learnt is None:
            apart = people[run::3]
            teach, ask = ([one.of(apart, rest) for one in tested] for rest in (True, False))
        else:
            teach, ask = list(learnt), list(tested)
        net = taught(teach, epochs, run, sides)
        with torch.no_grad():
            real, drawn = (
                torch.cat([net(part)[:, 0] for part in rings(one.image, one.region, sides).split(BATCH)])
                .double()
                .numpy()
                for one in ask
            )
        yield auc(real, drawn)


def taught(teach: list[Slices], epochs: int, seed: int, sides: tuple[str, ...]) -> nn.Module:
    """A small network that has learnt to tell the second slices from the first."""
    x = torch.cat([rings(one.image, one.region, sides) for one in teach])
    y = torch.cat([torch.full((len(one.image),), float(n)) for n, one in enumerate(teach)])
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for before, after in ((2, 16), (16, 32), (32, 32)):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU(), nn.MaxPool2d(2)]
    net = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.3), nn.Linear(32, 1))
    optimiser = torch.optim.AdamW(net.parameters(), lr=2e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 4e-3, total_steps=epochs * (1 + len(x) // BATCH))
    for epoch in range(epochs):
        order = torch.randperm(len(x), generator=generator_for(seed, "ring", epoch))
        for part in order.split(BATCH):
            flipped = x[part].flip(2) if epoch % 2 else x[part]  # the first axis points right
            loss = nn.functional.binary_cross_entropy_with_logits(net(flipped)[:, 0], y[part])
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            schedule.step()
    return net.eval()


if __name__ == "__main__":
    main()
