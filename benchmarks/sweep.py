"""Many ways of drawing, the same slices: what steps.py, guidance.py and paper.py share.

Slice i has the same stratum and noise in every setting. Blocks that are drawn stay on disk, so a run can stop
after some minutes and go on later, and a set can be made larger.
"""

import argparse
import hashlib
import json
import time
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rare_yield import HEIGHTS
from rare_yield import judge as segmenter_of

from mri_minority.diffusion.state import decode
from mri_minority.evaluate.attributes import measure
from mri_minority.evaluate.segmenter import segment
from mri_minority.export.labels import drop_specks
from mri_minority.slices.store import SliceStore
from mri_minority.training.precision import bfloat16_pays
from mri_minority.volumes.atomic import write_json_atomic
from mri_minority_pipelines.measures import Judge, SliceSet, build_judge
from mri_minority_pipelines.model_folder import find_model
from mri_minority_pipelines.samplers import build_sampler
from mri_minority_pipelines.stages.synthesize import Request, strata_of_items

CPU, BLOCK = torch.device("cpu"), 16
ATTRIBUTE = "ventricles_share"


@dataclass(frozen=True)
class Setting:
    """One way of drawing; the fields are those of the command line and the recipe."""

    solver: str = "ancestral"
    steps: int = 40
    guidance: float = 6.0
    wanted: str = "rare"
    rarity: str = f"attribute:{ATTRIBUTE}"
    method: str = "minority"
    window: tuple[float, float] = (0.0, 1e9)
    others: tuple[tuple[str, float], ...] = ()

    def folder(self) -> str:
        """A name of its own."""
        said = {k: v for k, v in asdict(self).items() if k != "others" or v}
        told = hashlib.sha256(json.dumps(said).encode()).hexdigest()[:8]
        return f"{self.method}-{self.solver}-{self.steps}-w{self.guidance:g}-{told}"


class OutOfTime(Exception):
    """The minutes of this run are over; the same command goes on."""


class Sweep:
    """Draws settings with one model and judges them.

    Args:
        model: Folder or "embedded".
        store: The slices it was trained on.
        work: Where drawn slices are kept.
        minutes: Of this run.
        seed: Of all sets.
        heights: Only strata whose middle lies between these.
    """

    def __init__(
        self,
        model: str,
        store: Path,
        work: Path,
        minutes: float = 1e9,
        seed: int = 11,
        heights: tuple[float, float] = HEIGHTS,
    ) -> None:
        """Fix the arithmetic at the first run, so that later ones draw the same."""
        torch.set_num_threads(1)
        self.model, self.store, self.work, self.seed, self.heights = (
            find_model(model),
            SliceStore(store),
            work,
            seed,
            heights,
        )
        self.until = time.monotonic() + 60 * minutes
        work.mkdir(parents=True, exist_ok=True)
        header = {"model_sha256": self.model.fingerprint(), "seed": seed, "heights": list(heights)}
        file = work / "sweep.json"
        if not file.is_file():
            write_json_atomic(file, {**header, "bfloat16": bfloat16_pays(CPU)})
        said = json.loads(file.read_text(encoding="utf-8"))
        self.fast = bool(said.pop("bfloat16"))
        if said != header:
            raise SystemExit(f"{work} was begun with another model, seed or heights; choose another --work")

    @cached_property
    def judge(self) -> Judge:
        """Real training slices of the same strata."""
        strata = strata_of_items(Request("rare", "", "", 4096, self.heights, self.seed), self.model.card())
        return build_judge(self.store, ATTRIBUTE, np.unique(strata.numpy()), self.seed)

    @cached_property
    def segmenter(self) -> torch.nn.Module:
        """Trained on real slices only."""
        return segmenter_of(self.store, self.work / "segmenter.safetensors", 1500)

    @cached_property
    def _net(self) -> Any:
        return self.model.denoiser()

    def draw(self, setting: Setting, count: int) -> tuple[SliceSet, dict[str, float]]:
        """A set of slices, and what one of them costs: calls, and CPU seconds of one core."""
        changed = {k: getattr(setting, k) for k in ("solver", "steps", "guidance", "window")}
        config = self.model.recipe().sample.model_copy(update={**changed, **dict(setting.others)})
        sampler = build_sampler(setting.method, setting.wanted, setting.rarity, config, self.model, CPU)
        request = Request(setting.wanted, setting.rarity, setting.method, count, self.heights, self.seed)
        strata = strata_of_items(request, self.model.card())
        size = self.model.recipe().prepare.size
        images, labels, costs = [], [], []
        for first in range(0, count, BLOCK):
            items = list(range(first, min(first + BLOCK, count)))
            file = self.work / setting.folder() / f"{items[0]:04d}-{items[-1]:04d}.npz"
            if not file.is_file():
                if time.monotonic() > self.until:
                    raise OutOfTime
                begun = time.process_time()
                states, calls = sampler.draw(self._net, size, items, strata[items], self.seed, CPU, self.fast)
                seconds = (time.process_time() - begun) / len(items)
                image, label = (part.numpy() for part in decode(states.float(), len(self.store.label_names)))
                label = np.stack([drop_specks(plane) for plane in label])
                file.parent.mkdir(exist_ok=True)
                partial = file.with_suffix(".partial")
                with partial.open("wb") as stream:
                    cost = np.array([calls.denoiser, calls.guidance, seconds])
                    np.savez_compressed(stream, image=image.astype(np.float16), label=label, cost=cost)
                partial.replace(file)
            with np.load(file) as saved:
                images.append(saved["image"].astype(np.float32))
                labels.append(saved["label"])
                costs.append(saved["cost"])
        found = SliceSet(np.concatenate(images), np.concatenate(labels), strata.numpy())
        return found, dict(zip(("calls", "guidance_calls", "seconds"), np.mean(costs, axis=0), strict=True))

    def figures(self, setting: Setting, count: int) -> dict[str, Any]:
        """Draw, judge, and remember the judgement."""
        file = self.work / setting.folder() / f"figures-{count}.json"
        if not file.is_file():
            found, cost = self.draw(setting, count)
            write_json_atomic(file, {"setting": asdict(setting), **self.judged(found), **cost})
        return dict(json.loads(file.read_text(encoding="utf-8")))

    def judged(self, found: SliceSet) -> dict[str, Any]:
        """The figures of :meth:`Judge.of`, and the attribute's rate as the segmenter sees it in the image."""
        seen = segment(self.segmenter, found.image, CPU)
        values = measure(ATTRIBUTE, seen, self.store.label_names, self.judge.pixel_mm2)
        limit = np.array([self.judge.p95[int(t)] for t in found.stratum])
        return {**self.judge.of(found), "attribute_rate_image": float((values > limit).mean())}


def wilson(rate: float, count: int) -> tuple[float, float]:
    """95 % interval of a binomial rate (Wilson 1927)."""
    z = 1.959964
    middle, scale = rate + z * z / (2 * count), 1 + z * z / count
    half = z * (rate * (1 - rate) / count + z * z / (4 * count * count)) ** 0.5
    return (middle - half) / scale, (middle + half) / scale


def percent(rate: float, count: int) -> str:
    """A rate with its interval."""
    low, high = wilson(rate, count)
    return f"{rate:.0%} [{max(0.0, low):.0%}, {high:.0%}]"


def fill(page: Path, name: str, lines: list[str]) -> None:
    """Put a table into a page, between `<!-- NAME -->` and `<!-- end of NAME -->`."""
    text = page.read_text(encoding="utf-8")
    before, begin, rest = text.partition(f"<!-- {name} -->\n")
    _, end, after = rest.partition(f"<!-- end of {name} -->")
    if not end:
        raise SystemExit(f"expected the marks of {name} in {page}, found none")
    page.write_text(before + begin + "\n".join(["", *lines, "", end]) + after, encoding="utf-8")


def options(about: str | None) -> argparse.ArgumentParser:
    """Options that all sweeps have."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--count", type=int, default=64)
    parser.add_argument("--page", type=Path, help="the page whose table is replaced")
    parser.add_argument(
        "--minutes", type=float, default=1e9, help="stop drawing after so many; the same command goes on"
    )
    return parser
