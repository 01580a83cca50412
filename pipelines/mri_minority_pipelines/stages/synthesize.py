"""synthesize: guided sampling of images with their labels, exported as a data set."""

import json
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mri_minority import __version__
from mri_minority.core.errors import DataError, UsageError
from mri_minority.core.rng import generator_for
from mri_minority.diffusion.state import decode
from mri_minority.evaluate.attributes import attribute_names, measure
from mri_minority.export.dataset import DataCard, white_of, write_data_card, write_manifest
from mri_minority.export.labels import drop_specks
from mri_minority.export.nifti import export_slice, listed, read_plane
from mri_minority.report.figures import contact_sheet
from mri_minority.slices.strata import Strata
from mri_minority.training.memory import free_bytes, saved_bytes
from mri_minority.training.precision import wants_bfloat16
from mri_minority.volumes.atomic import write_json_atomic, write_text_atomic
from mri_minority_pipelines import audited, grain
from mri_minority_pipelines import rarity as rarities
from mri_minority_pipelines.begin_from import in_words
from mri_minority_pipelines.config import SampleConfig
from mri_minority_pipelines.events import Event, beside, publish_folder
from mri_minority_pipelines.model_folder import ModelFolder, channel_names
from mri_minority_pipelines.pieces import Piece, forget_locks, work_through
from mri_minority_pipelines.samplers import Sampler, build_sampler
from mri_minority_pipelines.stages.audit import FILE as AUDIT_FILE
from mri_minority_pipelines.stages.audit import load as load_audit

_SHOWN = 32
_MOST_AT_ONCE = {"cpu": 16, "cuda": 256}
"""On a CPU larger batches gain nothing."""
_UNAUDITED = "Not run: these slices were not compared with the training slices. Do that before sharing them."


@dataclass(frozen=True)
class Request:
    """What is wanted.

    Args:
        wanted: "rare", "common", a level, "rarest:5%", "50%-60%".
        rarity: Which of the model's classifiers guides.
        method: "ancestral" (no guidance), "minority", "low-density", "self-guided", "boost-and-skip", or several of
            the last four joined by +.
        count: How many slices.
        heights: Only strata whose middle lies between these normalised heights.
        seed: Of the whole set; item i depends on (seed, i) alone.
        batch: Slices computed at once; 0 for as many as fit into half of the free memory, at most 16 (256 on a GPU).
    """

    wanted: str
    rarity: str
    method: str
    count: int
    heights: tuple[float, float]
    seed: int
    batch: int = 0


def run(
    request: Request,
    config: SampleConfig,
    model: ModelFolder,
    out: Path,
    device: torch.device,
    tell: Callable[[Event], None],
    workers: int = 1,
    audit: bool = True,
) -> dict[str, Any]:
    """Draw slices and write them as NIfTI pairs with manifest, data card and contact sheet.

    Interrupting is safe: slices are gathered under a temporary name and the same command goes on with them. They are
    drawn in blocks of `request.batch`, always the same ones, so the number of workers changes the time, and the slices
    by no more than rounding.

    A run that goes on does so in the arithmetic in which it began.

    With `audit`, and an audit file in the model folder, copies of training slices are replaced.

    Returns:
        Where the set is, the request, and the cost: `seconds` of sampling over all blocks and processes, and the
        `denoiser_calls` and `guidance_calls` that each slice took, and :func:`beyond_real_p95`.

    Raises:
        UsageError: The method, wanted class, rarity or heights do not exist in this model.
        DataError: `out` holds something, or the model folder is not one.
        AuditError: Most slices are copies of training slices.
    """
    card = model.card()
    sampler = build_sampler(request.method, request.wanted, request.rarity, config, model, device)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(f"expected an empty or new folder for the slices, {out} holds something")
    building = beside(out, "building")
    begun_in = begun_in_bfloat16(building) if config.precision == "auto" else None
    fast = wants_bfloat16(config.precision, device) if begun_in is None else begun_in
    if not request.batch:
        request = replace(request, batch=batch_that_fits(model, device))
    header = header_of(request, sampler, config, model, fast)
    begin(building, header)
    grain.warn(model, tell)
    first = Draw(request, config, model, header, building)

    def do(draw: Draw) -> None:
        with _helpers(draw, device, min(workers, len(draw.blocks()))):
            draw.work(device, lambda done: tell(Event("synthesize", done, request.count, {})))

    def look(rows: list[dict[str, Any]]) -> np.ndarray:
        return pictures(building, {**header, "slices": rows}, len(rows))[0]

    costs: dict[str, Any]
    if audit and (model.path / AUDIT_FILE).is_file():
        auditor = load_audit(model.path / AUDIT_FILE)
        rows, rejected, rounds = audited.until_enough(first, do, look, auditor)
        found = audited.found(auditor, rows, len(rejected), look(rows))
        costs = {**first.costs(), "seconds": round(sum(r.costs()["seconds"] for r in rounds), 3), "audit": found}
        header = {**header, "audit": audited.sentence(found), "audit_found": found}
        audited.remove(building, rejected)
    else:
        do(first)
        rows, costs = first.rows(), {**first.costs()}
    _finish(request, rows, header, card, building)
    publish_folder(building, out)
    return {
        "out": str(out),
        "slices": len(rows),
        **{k: header[k] for k in ("method", "rarity", "wanted", "seed")},
        "beyond_real_p95": beyond_real_p95(rows, card),
        **costs,
    }


def beyond_real_p95(rows: list[dict[str, Any]], card: dict[str, Any]) -> dict[str, float]:
    """Per attribute, the share of slices over the 95th percentile of the model's training slices in their stratum.

    About 0.05 for slices like the real ones. Strata whose percentile is 0 (the structure is hardly ever there) do not
    count.
    """
    shares = {}
    for name, real in card["real_attributes"].items():
        limits = [real[row["stratum"]][1] for row in rows]
        over = [row["attributes"][name] > limit for row, limit in zip(rows, limits, strict=True) if limit > 0]
        if over:
            shares[name] = round(float(np.mean(over)), 4)
    return shares


def batch_that_fits(model: ModelFolder, device: torch.device) -> int:
    """Slices that half of the free memory has room for, counting what a gradient through the denoiser would keep."""
    net = model.denoiser().to(device)
    height, width = model.recipe().prepare.size
    x = torch.zeros(1, net.groups.channels, height, width, device=device, requires_grad=True)
    sigma, stratum = (
        torch.ones(1, len(net.groups.sizes), device=device),
        torch.zeros(1, dtype=torch.long, device=device),
    )
    each = saved_bytes(net, lambda: net(x, sigma, stratum))
    return max(1, min(_MOST_AT_ONCE[device.type], free_bytes(device) // 2 // each))


@dataclass(frozen=True)
class Draw:
    """The drawing itself, which any number of processes share.

    Args:
        request: What is wanted.
        config: How it is sampled.
        model: The model folder.
        header: The manifest's header.
        building: Where the slices are gathered.
        first: Number of the first item; the last one is `request.count` - 1.
    """

    request: Request
    config: SampleConfig
    model: ModelFolder
    header: dict[str, Any]
    building: Path
    first: int = 0

    def blocks(self) -> list[list[int]]:
        """Item numbers, block by block."""
        size, count = self.request.batch, self.request.count
        return [list(range(first, min(first + size, count))) for first in range(self.first, count, size)]

    def work(self, device: torch.device, told: Callable[[int], None]) -> None:
        """Draw and write whatever blocks are missing; return when all are there."""
        card = self.model.card()
        request = self.request
        sampler = build_sampler(request.method, request.wanted, request.rarity, self.config, self.model, device)
        strata, size = strata_of_items(self.request, card), self.model.recipe().prepare.size
        net = self.model.denoiser().to(device)

        def block(items: list[int], result: Path) -> None:
            stratum = strata[torch.as_tensor(items)]
            begun = time.monotonic()
            states, calls = sampler.draw(net, size, items, stratum, request.seed, device, self.header["bfloat16"])
            cost = {"seconds": time.monotonic() - begun, **asdict(calls)}
            write_json_atomic(_cost_beside(result), cost)
            write_json_atomic(result, list(_export(states, items, stratum, self.header, card, self.building)))

        pieces = [Piece(r, partial(block, i, r)) for i, r in zip(self.blocks(), self._results(), strict=True)]
        told(0)
        work_through(pieces, lambda done: told(min(done * self.request.batch, self.request.count)))

    def rows(self) -> list[dict[str, Any]]:
        """The manifest's rows, in the order of their items."""
        return [row for result in self._results() for row in json.loads(result.read_text(encoding="utf-8"))]

    def costs(self) -> dict[str, float | int]:
        """Seconds of sampling over all blocks, whoever drew them, and network calls per slice."""
        found = [json.loads(_cost_beside(result).read_text(encoding="utf-8")) for result in self._results()]
        return {
            "seconds": round(sum(cost["seconds"] for cost in found), 3),
            "denoiser_calls": found[0]["denoiser"],
            "guidance_calls": found[0]["guidance"],
        }

    def _results(self) -> list[Path]:
        return [self.building / f"block-{items[0]:07d}-{items[-1]:07d}.json" for items in self.blocks()]


def _cost_beside(result: Path) -> Path:
    return result.with_name(f"cost-{result.name}")


@contextmanager
def _helpers(draw: Draw, device: torch.device, workers: int) -> Iterator[None]:
    """Within the block, workers - 1 processes help; all share the cores that this one had."""
    threads = torch.get_num_threads()
    each = max(1, threads // workers)
    start = get_context("spawn").Process
    helpers = [start(target=_help, args=(draw, device, each), daemon=True) for _ in range(workers - 1)]
    for helper in helpers:
        helper.start()
    torch.set_num_threads(each)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        for helper in helpers:
            helper.terminate()
            helper.join()


def _help(draw: Draw, device: torch.device, threads: int) -> None:
    torch.set_num_threads(threads)
    draw.work(device, lambda done: None)


def header_of(
    request: Request, sampler: Sampler, config: SampleConfig, model: ModelFolder, fast: bool
) -> dict[str, Any]:
    """What the manifest says of the whole set."""
    card = model.card()
    return {
        "synthetic": True,
        "version": __version__,
        "model_sha256": model.fingerprint(),
        **sampler.used,
        "method": sampler.name,
        "rarity": rarities.without_folders(request.rarity) if sampler.used["classifier_sha256"] else None,
        "wanted": request.wanted if sampler.levels else None,
        "levels": sampler.levels,
        "heights": list(request.heights),
        "seed": request.seed,
        "sample": config.model_dump(mode="json"),
        "label_names": card["label_names"],
        "channel_names": channel_names(card),
        "white": [card["recipe"]["prepare"]["ceiling"] * s for s in np.atleast_1d(card["intensity_scale"]).tolist()],
        "bfloat16": fast,
        "audit": audited.NOT_RUN,
    }


def _export(
    states: torch.Tensor,
    items: list[int],
    stratum: torch.Tensor,
    header: dict[str, Any],
    card: dict[str, Any],
    folder: Path,
) -> Iterator[dict[str, Any]]:
    """Write the slices of a batch; yield their manifest rows."""
    image, label = (part.numpy() for part in decode(states, len(card["label_names"])))
    white = np.array(header["white"], np.float32)[:, None, None]
    for number, item in enumerate(items):
        t = int(stratum[number])
        affine = np.array(card["planes"][t])
        area_mm2 = float(np.linalg.norm(np.cross(affine[:3, 0], affine[:3, 1])))
        mask = drop_specks(label[number])
        names = card["label_names"]
        values = {a: float(measure(a, mask[None], names, area_mm2)[0]) for a in attribute_names(names)}
        trace = {
            "item": item,
            "stratum": t,
            "stratum_name": card["strata"]["names"][t],
            **{k: header[k] for k in ("seed", "method", "rarity", "levels", "sample", "model_sha256", "version")},
        }
        pixels = ((image[number] + 1) / 2 * white).astype(np.float32)
        yield {
            **export_slice(folder, f"synth_{item:05d}", pixels, mask if names else None, affine, trace),
            "item": item,
            "stratum": t,
            "attributes": {name: round(value, 6) for name, value in values.items()},
        }


def _finish(
    request: Request, rows: list[dict[str, Any]], header: dict[str, Any], card: dict[str, Any], building: Path
) -> None:
    """Manifest, contact sheet and data card; the working files go."""
    title = (
        f"{request.method} {request.wanted if header['levels'] else ''} {header['rarity'] or ''} seed {request.seed}"
    )
    contact_sheet(building / "contact_sheet.png", [(title, *pictures(building, {**header, "slices": rows}, _SHOWN))])
    write_data_card(
        building,
        DataCard(
            slices=len(rows),
            label_names=tuple(card["label_names"]),
            how=f"method {request.method}, rarity {header['rarity']}, class {header['wanted']}, seed {request.seed}",
            recipe=card["recipe"]["name"],
            train_subjects=card["train_subjects"],
            begun_from=in_words(card),
            audit=header["audit"] if header["audit"] != audited.NOT_RUN else _UNAUDITED,
        ),
    )
    clear(building, rows)
    write_manifest(building, header, rows)


def clear(building: Path, rows: list[dict[str, Any]]) -> None:
    """Remove what is not of the data set: working files, and slices of an interrupted run that asked for more."""
    forget_locks(building)
    for working in (building / "header.json", *building.glob("block-*.json"), *building.glob("cost-*.json")):
        working.unlink(missing_ok=True)
    kept = {path for row in rows for kind in ("image", "label") for path in listed(row[kind])}
    for file in (*building.glob("images/*"), *building.glob("labels/*")):
        if file.relative_to(building).as_posix() not in kept:
            file.unlink()


def pictures(folder: Path, manifest: dict[str, Any], most: int) -> tuple[np.ndarray, np.ndarray]:
    """First slices of a data set as shown: images (n, I, H, W) in [-1, 1] and labels (n, H, W)."""
    images, labels = [], []
    for row in manifest["slices"][:most]:
        image = np.stack([read_plane(folder / path) for path in listed(row["image"])]).astype(np.float32)
        images.append((image / (white_of(manifest, row) / 2) - 1).astype(np.float32))
        label = read_plane(folder / row["label"]) if row["label"] else np.zeros(image.shape[1:])
        labels.append(label.astype(np.uint8))
    return np.stack(images), np.stack(labels)


def begun_in_bfloat16(building: Path) -> bool | None:
    """The arithmetic of an interrupted run: measured again it could differ, and two halves would not match."""
    said = building / "header.json"
    if not said.is_file():
        return None
    try:
        return bool(json.loads(said.read_text(encoding="utf-8"))["bfloat16"])
    except (ValueError, KeyError):  # torn or of another version: the run is thrown away below
        return None


def begin(building: Path, header: dict[str, Any]) -> None:
    """Make the working folder; slices of an interrupted run stay if they were drawn in the same way."""
    said = building / "header.json"
    text = json.dumps(header, sort_keys=True)
    if building.exists() and (not said.is_file() or said.read_text(encoding="utf-8") != text):
        shutil.rmtree(building)
    building.mkdir(parents=True, exist_ok=True)
    if not said.is_file():
        write_text_atomic(said, text)


def strata_of_items(request: Request, card: dict[str, Any]) -> torch.Tensor:
    """Stratum of every item, drawn in proportion to the training slices; the same for every method."""
    middle = Strata.from_json(card["strata"]).middles(card["recipe"]["prepare"]["heights"][0])
    share = np.array(card["stratum_slices"], dtype=float)
    share[(middle < request.heights[0]) | (middle > request.heights[1])] = 0
    if share.sum() == 0:
        raise UsageError(f"no stratum lies between heights {request.heights}; the model has {card['strata']['names']}")
    cumulative = torch.as_tensor(np.cumsum(share / share.sum()))
    draws = [
        torch.rand(1, generator=generator_for(request.seed, "stratum", i), dtype=torch.float64)
        for i in range(request.count)
    ]
    return torch.searchsorted(cumulative, torch.cat(draws), right=True).clamp(max=int(np.flatnonzero(share)[-1]))
