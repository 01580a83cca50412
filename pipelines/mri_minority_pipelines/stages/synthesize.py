"""synthesize: guided sampling of images with their labels, exported as a data set."""

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import nibabel as nib
import numpy as np
import torch

from mri_minority import __version__
from mri_minority.backbones.monai_unet import UNetDenoiser
from mri_minority.core.errors import DataError, UsageError
from mri_minority.core.rng import generator_for
from mri_minority.core.types import Batch, Sigmas, Strata
from mri_minority.diffusion.denoiser import Denoiser
from mri_minority.diffusion.guidance import Guided
from mri_minority.diffusion.kernel import sigma_path
from mri_minority.diffusion.sampling import draw_slices
from mri_minority.diffusion.solvers import SOLVERS
from mri_minority.diffusion.state import decode
from mri_minority.evaluate.attributes import attribute_names, measure
from mri_minority.export.dataset import DataCard, write_data_card, write_manifest
from mri_minority.export.labels import drop_specks
from mri_minority.export.nifti import export_slice
from mri_minority.minority.heads import log_probabilities, log_probability_of
from mri_minority.minority.target import wanted_levels
from mri_minority.report.figures import contact_sheet
from mri_minority.training.checkpoint import load_tensors
from mri_minority.training.precision import autocast, bfloat16_pays
from mri_minority.volumes.atomic import sha256_of
from mri_minority_pipelines import rarity as rarities
from mri_minority_pipelines.config import ClassifierConfig, SampleConfig
from mri_minority_pipelines.events import Event, publish_folder
from mri_minority_pipelines.model_folder import ModelFolder, load_world
from mri_minority_pipelines.stages.train_classifier import build_classifier

_SHOWN = 32


@dataclass(frozen=True)
class Request:
    """What is wanted.

    Args:
        wanted: "rare", "common", a level, "rarest:5%", "50%-60%".
        rarity: Which of the model's classifiers guides.
        method: "minority" or "ancestral" (no guidance).
        count: How many slices.
        heights: Only strata whose middle lies between these normalised heights.
        seed: Of the whole set; item i depends on (seed, i) alone.
        batch: Slices computed at once.
    """

    wanted: str
    rarity: str
    method: str
    count: int
    heights: tuple[float, float]
    seed: int
    batch: int = 16


def run(
    request: Request,
    config: SampleConfig,
    model: ModelFolder,
    out: Path,
    device: torch.device,
    tell: Callable[[Event], None],
) -> dict[str, Any]:
    """Draw slices and write them as NIfTI pairs with manifest, data card and contact sheet.

    Interrupting is safe: slices are gathered under a temporary name and the same command goes on with them.

    Raises:
        UsageError: The wanted class, rarity or heights do not exist in this model.
        DataError: `out` holds something, or the model folder is not one.
    """
    card = model.card()
    levels, log_p = _condition(request, card, model, device)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(f"expected an empty or new folder for the slices, {out} holds something")
    fast = bfloat16_pays(device)
    header = {
        "synthetic": True,
        "version": __version__,
        "model_sha256": sha256_of(model.path / "denoiser.safetensors"),
        "classifier_sha256": card["classifiers"][rarities.slug(request.rarity)]["sha256"] if levels else None,
        "method": request.method,
        "rarity": rarities.without_folders(request.rarity) if levels else None,
        "wanted": request.wanted if levels else None,
        "levels": levels,
        "heights": list(request.heights),
        "seed": request.seed,
        "sample": config.model_dump(mode="json"),
        "label_names": card["label_names"],
        "sequence": card["recipe"]["prepare"].get("sequence") or None,
        "white": card["recipe"]["prepare"]["ceiling"] * card["intensity_scale"],
        "bfloat16": fast,
        "audit": "not run",
    }
    building = out.with_name(f".{out.name}.building")
    journal = building / "journal.jsonl"
    rows = _resume(building, journal, header)
    strata = _strata_of_items(request, card)
    net, size = model.denoiser().to(device), model.recipe().prepare.size
    done = {row["item"] for row in rows}
    todo = [item for item in range(request.count) if item not in done]
    for start in range(0, len(todo), request.batch):
        tell(Event("synthesize", len(rows), request.count, {}))
        items = todo[start : start + request.batch]
        stratum = strata[torch.as_tensor(items)]
        states = _sample(request, config, size, net, log_p, items, stratum, device, fast)
        fresh = list(_export(states, items, stratum, header, card, building))
        with journal.open("a", encoding="utf-8") as file:
            file.write(json.dumps(fresh) + "\n")
        rows.extend(fresh)
    tell(Event("synthesize", request.count, request.count, {}))
    rows = sorted((row for row in rows if row["item"] < request.count), key=lambda row: row["item"])
    _finish(request, rows, header, card, building)
    publish_folder(building, out)
    return {"out": str(out), "slices": len(rows), **{k: header[k] for k in ("method", "rarity", "wanted", "seed")}}


def _condition(
    request: Request, card: dict[str, Any], model: ModelFolder, device: torch.device
) -> tuple[list[int] | None, Callable[[Batch, Sigmas, Strata], torch.Tensor] | None]:
    """The wanted levels and log p(wanted levels | x_sigma), or nothing for unguided sampling."""
    if request.method == "ancestral":
        return None, None
    if request.method != "minority":
        raise UsageError(f"expected --method minority or ancestral, found {request.method!r}")
    name = rarities.slug(request.rarity)
    entry = card["classifiers"].get(name)
    if entry is None:
        have = ", ".join(e["rarity"] for e in card["classifiers"].values()) or "none"
        raise UsageError(
            f"this model has no classifier for {request.rarity!r} (it has: {have}); run `mri-minority train` with "
            f"--rarity {request.rarity} and the same --out"
        )
    wanted = wanted_levels(request.wanted, entry["levels"]).to(device)
    config = ClassifierConfig.model_validate(entry["config"])
    world = load_world(model.path / "world.safetensors", len(card["label_names"]))
    net = build_classifier(world, config, entry["levels"])
    net.load_state_dict(load_tensors(model.path / f"classifier-{name}.safetensors")[0])
    net = net.to(device).eval().requires_grad_(False)

    def log_p(x: Batch, sigma: Sigmas, stratum: Strata) -> torch.Tensor:
        outputs = net(x, sigma, stratum)
        every = log_probabilities(config.head, outputs, entry["levels"])
        return log_probability_of(every, wanted.expand(len(x), -1))

    return [int(i) for i in wanted.nonzero().ravel()], log_p


def _sample(
    request: Request,
    config: SampleConfig,
    size: tuple[int, int],
    net: UNetDenoiser,
    log_p: Callable[[Batch, Sigmas, Strata], torch.Tensor] | None,
    items: list[int],
    stratum: torch.Tensor,
    device: torch.device,
    fast: bool,
) -> torch.Tensor:
    """States (B, C, H, W) of some items."""
    denoiser: Denoiser = net if log_p is None else Guided(net, log_p, config.guidance, net.groups, config.window)
    path = sigma_path(config.sigma_max, config.sigma_min, config.steps, len(net.groups.sizes))
    shape = (net.groups.channels, *size)
    with autocast(device, fast):
        return draw_slices(
            denoiser, SOLVERS[config.solver], path, items, stratum, shape, request.seed, net.groups, device
        ).cpu()


def _export(
    states: torch.Tensor,
    items: list[int],
    stratum: torch.Tensor,
    header: dict[str, Any],
    card: dict[str, Any],
    folder: Path,
) -> Iterator[dict[str, Any]]:
    """Write the slices of a batch; yield their manifest rows."""
    image, label = (part.numpy() for part in decode(states))
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
        pixels = ((image[number] + 1) / 2 * header["white"]).astype(np.float32)
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
            audit="Not run: these slices were not compared with the training slices. Do that before sharing them.",
        ),
    )
    for name in ("journal.jsonl", "header.json"):
        (building / name).unlink(missing_ok=True)
    write_manifest(building, header, rows)


def pictures(folder: Path, manifest: dict[str, Any], most: int) -> tuple[np.ndarray, np.ndarray]:
    """First slices of a data set as shown: images (n, H, W) in [-1, 1] and labels (n, H, W)."""
    images, labels = [], []
    for row in manifest["slices"][:most]:
        image = _plane(folder / row["image"]).astype(np.float32)
        images.append(image / (manifest["white"] / 2) - 1)
        label = _plane(folder / row["label"]) if row["label"] else np.zeros(image.shape)
        labels.append(label.astype(np.uint8))
    return np.stack(images), np.stack(labels)


def _plane(path: Path) -> np.ndarray:
    """The single plane of an exported file (H, W)."""
    return np.asarray(cast(nib.Nifti1Image, nib.load(path)).dataobj)[:, :, 0]


def _resume(building: Path, journal: Path, header: dict[str, Any]) -> list[dict[str, Any]]:
    """Rows of an interrupted run with the same header; a run with another header is thrown away."""
    said = building / "header.json"
    text = json.dumps(header, sort_keys=True)
    if building.exists() and (not said.is_file() or said.read_text(encoding="utf-8") != text):
        shutil.rmtree(building)
    building.mkdir(parents=True, exist_ok=True)
    said.write_text(text, encoding="utf-8")
    if not journal.is_file():
        return []
    lines = journal.read_text(encoding="utf-8").split("\n")
    return [row for line in lines[:-1] for row in json.loads(line)]


def _strata_of_items(request: Request, card: dict[str, Any]) -> torch.Tensor:
    """Stratum of every item, drawn in proportion to the training slices; the same for every method."""
    edges = np.array([card["recipe"]["prepare"]["heights"][0], *card["strata"]["edges"]])
    middle = (edges[:-1] + edges[1:]) / 2
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
