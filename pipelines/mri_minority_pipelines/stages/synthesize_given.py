"""synthesize with something given: images for label maps, drawn or edited; lesions inserted; real slices steered."""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from mri_minority.backbones.experts import Network
from mri_minority.core.errors import AuditError, DataError, UsageError
from mri_minority.diffusion.kernel import sigma_path
from mri_minority.diffusion.state import decode
from mri_minority.evaluate.attributes import attribute_names, measure
from mri_minority.export.dataset import DataCard, of_whom, white_of, write_data_card, write_manifest
from mri_minority.export.labels import drop_specks
from mri_minority.export.nifti import export_slice
from mri_minority.report.figures import contact_sheet
from mri_minority.slices.store import SliceStore
from mri_minority.training.precision import wants_bfloat16
from mri_minority.volumes.atomic import write_json_atomic
from mri_minority_pipelines import given as drawing
from mri_minority_pipelines import grain
from mri_minority_pipelines.begin_from import in_words
from mri_minority_pipelines.config import SampleConfig
from mri_minority_pipelines.edits import parse_edit
from mri_minority_pipelines.events import Event, beside, publish_folder
from mri_minority_pipelines.given import Given
from mri_minority_pipelines.given_sources import Base, Requested, StoreBases, edited, rng_for
from mri_minority_pipelines.insertions import Inserted, donors_in, parse_insertion
from mri_minority_pipelines.label_maps import allowed_strata, read_label_maps
from mri_minority_pipelines.model_folder import ModelFolder
from mri_minority_pipelines.pieces import Piece, work_through
from mri_minority_pipelines.samplers import Sampler, build_sampler
from mri_minority_pipelines.stages import synthesize
from mri_minority_pipelines.stages.synthesize import Request

_SHOWN = 32
_DERIVED = (
    "**These slices are DERIVED from people: parts of each are a person's scan. They must not leave the institution as "
    "synthetic data; treat this folder like the scans themselves.** The manifest names each source series by its hash."
)


@dataclass(frozen=True)
class Wish:
    """What is given: one of labels, edit, insert and strength, or edit and strength.

    Args:
        labels: Folder of label maps; `Request.count` images for each.
        edit: "ventricles:grow=1.5..3".
        insert: "lesion", or with its area "lesion=30..200" (mm2); needs `into`.
        strength: Share of the noise path that real slices of `into` are sent back to, in (0, 1]; None: no. With `edit`
            they are deformed as their maps are before.
        store: Real slices whose label maps `edit` changes (None: the model draws maps), or whose structures lend
            `insert` their shapes (None: those of `into`).
        into: Real slices to derive from, for `insert` and `strength`.
        allow_derived: Whether slices that are derived from people may be made.
    """

    labels: Path | None = None
    edit: str | None = None
    insert: str | None = None
    strength: float | None = None
    store: Path | None = None
    into: Path | None = None
    allow_derived: bool = False

    @property
    def derived(self) -> bool:
        """Whether what comes out is derived from people."""
        return self.insert is not None or self.strength is not None


def wish_of(
    labels: Path | None,
    edit: str | None,
    store: Path | None,
    insert: str | None,
    into: Path | None,
    start: Path | None,
    strength: float | None,
    allow_derived: bool,
) -> Wish | None:
    """What was said on the command line; None where nothing is given.

    Raises:
        UsageError: Two things are given, or one without what belongs to it.
    """
    if (insert is None) != (into is None):
        raise UsageError("--insert NAME and --into STORE belong together, found one of them")
    if (start is None) != (strength is None):
        raise UsageError("--from STORE and --strength S belong together, found one of them")
    if store is not None and edit is None and insert is None:
        raise UsageError("--store says whose label maps --edit changes or --insert takes shapes from, found neither")
    if all(one is None for one in (labels, edit, insert, start)):
        if allow_derived:
            raise UsageError("--allow-derived goes with --insert or --from, found neither")
        return None
    wish = Wish(labels, edit, insert, strength, store, into or start, allow_derived)
    check(wish)
    return wish


def check(wish: Wish) -> None:
    """Refuse a wish that cannot be meant.

    Raises:
        UsageError: Not exactly one thing is given, or the store or the strength does not go with it.
        AuditError: The result would be derived from people and that was not allowed.
    """
    said = [one is not None for one in (wish.labels, wish.edit, wish.insert, wish.strength)]
    if sum(said) != 1 and said != [False, True, False, True]:
        raise UsageError(
            "expected one of --labels, --edit, --insert with --into, and --from with --strength, or --edit with --from"
        )
    if wish.edit is not None and wish.strength is not None and wish.store is not None:
        raise UsageError("--from says whose slices --edit changes, image and label map; leave out --store")
    if wish.derived and wish.into is None:
        raise UsageError("expected a slice store with --insert (--into STORE) or --strength (--from STORE), found none")
    if wish.labels is not None and wish.store is not None:
        raise UsageError("--labels takes its maps from a folder; leave the store out")
    if wish.strength is not None and not 0 < wish.strength <= 1:
        raise UsageError(f"expected --strength above 0 and at most 1, found {wish.strength:g}")
    if wish.derived and not wish.allow_derived:
        raise AuditError(
            "these slices would be derived from people's scans and must not leave the institution as synthetic data; "
            "say --allow-derived to make them all the same"
        )


def run(
    wish: Wish,
    request: Request,
    config: SampleConfig,
    model: ModelFolder,
    out: Path,
    device: torch.device,
    tell: Callable[[Event], None],
) -> dict[str, Any]:
    """Draw slices of which something is given, and write them as `synthesize` does.

    Interrupting is safe: the same command goes on. Guidance towards rare levels applies to what is drawn.

    Returns:
        As `synthesize.run`.

    Raises:
        UsageError: The wish, the method or the classes do not exist in this model.
        DataError: What is given is not usable, or `out` holds something. Nothing is written then.
        AuditError: See :func:`check`.
    """
    check(wish)
    card = model.card()
    if not card["label_names"]:
        raise UsageError("expected a model with label maps, this one draws images alone")
    sampler = build_sampler(request.method, request.wanted, request.rarity, config, model, device)
    if "boost-and-skip" in sampler.methods:
        raise UsageError("boost-and-skip changes where sampling starts and cannot be combined with something given")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(f"expected an empty or new folder for the slices, {out} holds something")
    building = beside(out, "building")
    begun = synthesize.begun_in_bfloat16(building) if config.precision == "auto" else None
    fast = wants_bfloat16(config.precision, device) if begun is None else begun
    if not request.batch:
        request = replace(request, batch=synthesize.batch_that_fits(model, device))
    net = model.denoiser().to(device)
    given = _given(wish, request, config, model, net, device, fast)
    header = _header(wish, request, sampler, config, model, fast)
    header["given_sha256"] = drawing.fingerprint(given)  # an interrupted run goes on only with the same
    synthesize.begin(building, header)
    grain.warn(model, tell)
    pieces = _pieces(given, request, sampler, net, device, header, card, building)
    tell(Event("synthesize", 0, len(given), {}))
    work_through(pieces, lambda n: tell(Event("synthesize", min(n * request.batch, len(given)), len(given), {})))
    written = [json.loads(piece.result.read_text(encoding="utf-8")) for piece in pieces]
    rows = [row for block in written for row in block["rows"]]
    _finish(rows, header, card, building)
    publish_folder(building, out)
    return {
        "out": str(out),
        "slices": len(rows),
        **{k: header[k] for k in ("method", "rarity", "wanted", "seed", "given", "derived")},
        "beyond_real_p95": synthesize.beyond_real_p95(rows, card),
        "seconds": round(sum(block["seconds"] for block in written), 3),
        "denoiser_calls": written[0]["denoiser"],
        "guidance_calls": written[0]["guidance"],
    }


def _given(
    wish: Wish,
    request: Request,
    config: SampleConfig,
    model: ModelFolder,
    net: Network,
    device: torch.device,
    fast: bool,
) -> list[Given]:
    card = model.card()
    if wish.labels is not None:
        found = read_label_maps(wish.labels, model, request.heights)
        return [g for g in found for _ in range(request.count)]
    allowed, count, seed = allowed_strata(card, request.heights), request.count, request.seed
    if wish.edit is not None:
        asked = parse_edit(wish.edit, tuple(card["label_names"]))
        value = list(card["label_names"]).index(asked.structure) + 1

        def shows(label: npt.NDArray[np.uint8]) -> bool:
            return int((label == value).sum()) >= asked.least_pixels

        change = Requested(asked, card)
        if wish.strength is not None:
            why = f"training slices that show {asked.structure}"
            people = StoreBases(SliceStore(wish.into or Path()), card, allowed, shows, "person", why)
            carried = edited(change, asked.structure, people, count, seed, card, keep="carried")
            return [_sent_back(g, config, wish.strength) for g in carried]
        if wish.store is None:
            pool = [b for b in _drawn(request, config, model, net, device, fast) if shows(b.label)]
            if not pool:
                raise DataError(f"none of {count} drawn maps shows {asked.structure}; raise --count or give a --store")
            return list(edited(change, asked.structure, lambda i, k, s: pool[(i + k) % len(pool)], count, seed, card))
        why = f"training slices that show {asked.structure}"
        bases = StoreBases(SliceStore(wish.store), card, allowed, shows, "training map", why)
        return list(edited(change, asked.structure, bases, count, seed, card))
    if wish.insert is not None:
        into = SliceStore(wish.into or Path())
        insertion = parse_insertion(wish.insert, tuple(card["label_names"]))
        value = list(card["label_names"]).index(insertion.structure) + 1
        why = f"healthy slices (without {insertion.structure})"
        bases = StoreBases(into, card, allowed, lambda m: not (m == value).any(), "person", why)
        shapes = into if wish.store is None else SliceStore(wish.store)
        donors = donors_in(shapes, card, insertion.structure, needed=wish.store is not None)
        put = Inserted(insertion, donors, card)
        return list(edited(put, insertion.structure, bases, count, seed, card, keep="outside"))
    store = SliceStore(wish.into or Path())
    bases = StoreBases(store, card, allowed, lambda m: True, "person", "slices")
    chosen = (bases(i, 0, seed) for i in range(count))
    slices = (Given(b.label, b.stratum, b.affine, b.trace, b.image, exact=False, white=b.white) for b in chosen)
    return [_sent_back(g, config, float(wish.strength or 1)) for g in slices]


def _sent_back(given: Given, config: SampleConfig, strength: float) -> Given:
    """A slice of a person that starts at a share of the noise path."""
    path = sigma_path(config.sigma_max, config.sigma_min, config.steps, 1)[:, 0]
    start = float(path[min(config.steps - 1, round((1 - strength) * config.steps))])
    trace = {**given.trace, "derived": True, "strength": strength, "start_sigma": round(start, 4)}
    return replace(given, trace=trace, start=start)


def _drawn(
    request: Request, config: SampleConfig, model: ModelFolder, net: Network, device: torch.device, fast: bool
) -> Iterator[Base]:
    """Label maps from the model itself, unguided."""
    card = model.card()
    plain = build_sampler("ancestral", request.wanted, request.rarity, config, model, device)
    allowed = allowed_strata(card, request.heights)
    share = np.array([card["stratum_slices"][t] for t in allowed], dtype=float)
    for first in range(0, request.count, request.batch):
        items = list(range(first, min(first + request.batch, request.count)))
        strata = [int(rng_for(request.seed, "stratum", i).choice(allowed, p=share / share.sum())) for i in items]
        size = model.recipe().prepare.size
        states, _ = plain.draw(net, size, items, torch.tensor(strata), request.seed, device, fast)
        image, label = (part.numpy() for part in decode(states, len(card["label_names"])))
        for n, t in enumerate(strata):
            trace = {"label_from": "drawn", "label_item": items[n]}
            yield Base(image[n], drop_specks(label[n]), t, trace, np.array(card["planes"][t]))


def _header(
    wish: Wish, request: Request, sampler: Sampler, config: SampleConfig, model: ModelFolder, fast: bool
) -> dict[str, Any]:
    given = {
        k: v for k, v in asdict(wish).items() if v is not None and k not in ("labels", "store", "into", "allow_derived")
    }
    return {
        **synthesize.header_of(request, sampler, config, model, fast),
        "synthetic": not wish.derived,
        "derived": wish.derived,
        "given": given or {"labels": "folder"},
    }


def _pieces(
    given: list[Given],
    request: Request,
    sampler: Sampler,
    net: Network,
    device: torch.device,
    header: dict[str, Any],
    card: dict[str, Any],
    building: Path,
) -> list[Piece]:
    def block(first: int, result: Path) -> None:
        part = given[first : first + request.batch]
        items = list(range(first, first + len(part)))
        begun = time.monotonic()
        states, calls = drawing.draw(sampler, net, part, items, request.seed, device, header["bfloat16"])
        cost = {"seconds": time.monotonic() - begun, **asdict(calls)}
        rows = [_write(states[n : n + 1], item, part[n], header, card, building) for n, item in enumerate(items)]
        write_json_atomic(result, {**cost, "rows": rows})

    firsts = range(0, len(given), request.batch)
    # A run that goes on may take other blocks, as its memory has room for: then they are drawn anew.
    ends = [min(first + request.batch, len(given)) - 1 for first in firsts]
    results = [building / f"block-{first:07d}-{last:07d}.json" for first, last in zip(firsts, ends, strict=True)]
    return [Piece(result, partial(block, first, result)) for first, result in zip(firsts, results, strict=True)]


def _write(
    state: torch.Tensor, item: int, given: Given, header: dict[str, Any], card: dict[str, Any], folder: Path
) -> dict[str, Any]:
    """Export one slice; its manifest row."""
    image, label = (part.numpy()[0] for part in decode(state, len(card["label_names"])))
    mask = given.label if given.exact else drop_specks(label)
    if given.region is not None and given.image is not None:
        image = drawing.joined(image, given.image, given.region)
    names, affine = card["label_names"], given.affine
    area_mm2 = float(np.linalg.norm(np.cross(affine[:3, 0], affine[:3, 1])))
    values = {a: float(measure(a, mask[None], names, area_mm2)[0]) for a in attribute_names(names)}
    trace = {
        **given.trace,
        "item": item,
        "stratum": given.stratum,
        "stratum_name": card["strata"]["names"][given.stratum],
        **{k: header[k] for k in ("seed", "method", "rarity", "levels", "sample", "model_sha256", "version")},
    }
    own = {} if given.white is None else {"white": list(given.white)}
    pixels = ((image + 1) / 2 * white_of({"white": header["white"]}, own)).astype(np.float32)
    return {
        **export_slice(folder, f"synth_{item:05d}", pixels, mask, affine, trace),
        **own,
        "item": item,
        "stratum": given.stratum,
        "attributes": {name: round(value, 6) for name, value in values.items()},
    }


def _finish(rows: list[dict[str, Any]], header: dict[str, Any], card: dict[str, Any], building: Path) -> None:
    """Manifest, contact sheet and data card; the working files go."""
    said = ", ".join(f"{key} {value}" for key, value in header["given"].items())
    title = f"{said}; {header['method']} {header['rarity'] or ''} seed {header['seed']}"
    shown = synthesize.pictures(building, {**header, "slices": rows}, _SHOWN)
    contact_sheet(building / "contact_sheet.png", [(title, *shown)])
    plain = DataCard(
        slices=len(rows),
        label_names=tuple(card["label_names"]),
        how=f"given {said}; method {header['method']}, rarity {header['rarity']}, seed {header['seed']}",
        recipe=card["recipe"]["name"],
        train_subjects=card["train_subjects"],
        begun_from=in_words(card),
        audit="Not run: these slices were not compared with the training slices. Do that before sharing them.",
        about=of_whom(rows),
    )
    if header["derived"]:
        plain = replace(plain, about=_DERIVED, derived=True)
    write_data_card(building, plain)
    synthesize.clear(building, rows)
    write_manifest(building, header, rows)
