"""export: a data set that `synthesize` wrote, in the layout of another tool."""

import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from mri_minority import __version__
from mri_minority.core.errors import AuditError, DataError, UsageError
from mri_minority.export.dataset import read_manifest, write_export_card, write_manifest
from mri_minority.export.exporter import Case, Exporter, Facts, real_cases, synthetic_cases
from mri_minority.export.layout_bids import BidsExporter
from mri_minority.export.layout_dicom import DicomExporter
from mri_minority.export.layout_monai import MonaiExporter
from mri_minority.export.layout_nifti import NiftiExporter
from mri_minority.export.layout_nnunet import NnunetExporter, dataset_folder
from mri_minority.slices.store import SliceStore
from mri_minority.volumes.atomic import sha256_of
from mri_minority.volumes.file_names import kind_of
from mri_minority_pipelines.events import Event, beside, publish_folder

LAYOUTS: dict[str, Callable[[Path], Exporter]] = {
    "nifti": lambda out: NiftiExporter(),
    "nnunet": lambda out: NnunetExporter(dataset_folder(out)),
    "monai": lambda out: MonaiExporter(),
    "bids": lambda out: BidsExporter(),
    "dicom": lambda out: DicomExporter(),
}
"""Layout -> its exporter, given where the data set will lie."""


def run(
    source: Path,
    layout: str,
    out: Path,
    tell: Callable[[Event], None],
    real: Path | None = None,
    sequence: str | None = None,
) -> dict[str, Any]:
    """Write a data set in another layout, with manifest and data card. The same source gives the same bytes.

    Args:
        source: What `synthesize` wrote.
        layout: One of `LAYOUTS`.
        out: The data set to make: a new or empty folder.
        tell: Receives progress.
        real: A slice store whose slices are added, in layouts that keep them apart from synthetic ones.
        sequence: Kind of image, for example "FLAIR", or of every channel, "T1,FLAIR"; by default what the manifest
            says, else "T1".

    Raises:
        UsageError: There is no such layout, or real slices do not fit into it.
        DataError: The source has changed, the store has other classes, or `out` holds something.
        AuditError: The slices are derived from people.
    """
    if layout not in LAYOUTS:
        raise UsageError(f"expected --to {', '.join(LAYOUTS)} or bundle, found {layout!r}")
    exporter = LAYOUTS[layout](out)
    if real is not None and not exporter.takes_real:
        able = ", ".join(name for name in LAYOUTS if LAYOUTS[name](out).takes_real)
        raise UsageError(f"real slices can be added to {able}, not to {layout}; leave --real out")
    manifest = read_manifest(source)
    if "files" in manifest:
        raise DataError(
            f"expected a data set that `synthesize` wrote, {source} is an export of one; export the original"
        )
    if manifest.get("derived"):
        raise AuditError(f"the slices in {source} are derived from people and are not exported as synthetic data")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(f"expected an empty or new folder for the export, {out} holds something")
    header = {key: value for key, value in manifest.items() if key not in ("slices", "format")}
    white = tuple(float(value) for value in np.atleast_1d(manifest["white"]))
    kinds = _sequences(manifest, sequence, len(white))
    cases, total = _cases(source, manifest, real, kinds)
    facts = Facts(tuple(manifest["label_names"]), kinds, white, header)
    building = beside(out, "building")
    if building.exists():
        shutil.rmtree(building)
    building.mkdir(parents=True)
    rows: list[dict[str, Any]] = []
    exporter.write(building, _watched(cases, total, rows, tell), facts)
    counts = Counter("synthetic" if row.get("synthetic", True) else "real" for row in rows)
    write_export_card(building, layout, exporter.usage, manifest, counts["real"])
    files = sorted(p for p in building.rglob("*") if p.is_file())
    contents = [{"path": p.relative_to(building).as_posix(), "sha256": sha256_of(p)} for p in files]
    said = {"export": layout, "exported_by": __version__, "channel_names": list(kinds), "files": contents}
    write_manifest(building, {**header, **said}, rows)
    publish_folder(building, out)
    return {"out": str(out), "layout": layout, "synthetic": counts["synthetic"], "real": counts["real"]}


def drawn_as(
    layout: str,
    out: Path,
    draw: Callable[[Path], dict[str, Any]],
    tell: Callable[[Event], None],
    derived: bool = False,
) -> dict[str, Any]:
    """Draw slices straight into a layout.

    They are drawn beside `out` first, so that an interrupted drawing goes on with what it has.

    Args:
        layout: One of `LAYOUTS`; "nifti" is what `draw` writes anyway.
        out: The data set to make.
        draw: Draws into the folder it is given, and says what came out.
        tell: Receives progress.
        derived: Whether the slices will be derived from people, which only "nifti" is for.

    Raises:
        AuditError: They are, and the layout is another one.
        DataError: `out` holds something.
    """
    if layout == "nifti":
        return draw(out)
    if derived:
        raise AuditError(
            f"slices that are derived from people are not exported as synthetic data: leave out --format {layout}"
        )
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(f"expected an empty or new folder for the slices, {out} holds something")
    drawn = beside(out, "drawn")
    if drawn.exists():  # it was drawn, and could not be exported; whether by the same request nobody knows
        shutil.rmtree(drawn)
    result = draw(drawn)
    run(drawn, layout, out, tell)
    shutil.rmtree(drawn)
    return {**result, "out": str(out), "layout": layout}


def _sequences(manifest: dict[str, Any], said: str | None, channels: int) -> tuple[str, ...]:
    """What the image channels are called in a layout.

    Raises:
        UsageError: Not as many names as channels, or unknown ones of several.
    """
    names = said.split(",") if said else manifest.get("channel_names", [manifest.get("sequence") or ""])
    kinds = tuple(kind_of(name.strip()) for name in names)
    if channels == 1:
        kinds = tuple(kind or "T1" for kind in kinds)
    if len(kinds) != channels or not all(kinds):
        found = ", ".join(kind or "unnamed" for kind in kinds)
        raise UsageError(
            f"expected names of the {channels} image channels, found {found}; say --sequence NAME,NAME in their order"
        )
    return kinds


def _cases(
    source: Path, manifest: dict[str, Any], real: Path | None, kinds: tuple[str, ...]
) -> tuple[Iterator[Case], int]:
    """The slices to write, synthetic ones first, and how many there are.

    Raises:
        DataError: The real slices have other channels, classes or another size.
    """
    cases, total = synthetic_cases(source, manifest), len(manifest["slices"])
    if real is None:
        return cases, total
    store = SliceStore(real)
    channels = len(np.atleast_1d(manifest["white"]))
    if store.channels != channels:
        raise DataError(f"expected {channels} image channels in {real}, found {store.channels}; give the model's store")
    if any(a and kind_of(a) != b for a, b in zip(store.channel_names, kinds, strict=False)):
        raise DataError(
            f"expected image channels {', '.join(kinds)} in {real}, found {', '.join(store.channel_names)}; give the "
            "store that the model was trained on"
        )
    first, size = next(cases), store.read(np.array([0]))[1].shape[1:]
    if first.image.shape[1:] != size:
        ours = " x ".join(map(str, first.image.shape[1:]))
        raise DataError(
            f"expected slices of {ours} pixels in {real}, found {size[0]} x {size[1]}; give the store that the model "
            "was trained on"
        )
    if list(store.label_names) != list(manifest["label_names"]):
        raise DataError(
            f"expected the classes of the synthetic slices ({', '.join(manifest['label_names'])}) in {real}, found "
            f"{', '.join(store.label_names) or 'none'}; give the store that the model was trained on"
        )
    return chain([first], cases, real_cases(store)), total + len(store.rows)


def _watched(
    cases: Iterator[Case], total: int, rows: list[dict[str, Any]], tell: Callable[[Event], None]
) -> Iterator[Case]:
    """Pass cases on, noting their rows and telling progress."""
    for case in cases:
        tell(Event("export", len(rows), total, {}))
        rows.append(case.row)
        yield case
    tell(Event("export", total, total, {}))
