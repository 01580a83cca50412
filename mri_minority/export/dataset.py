"""What makes a folder of slices a data set: manifest, data card, and a check that both are still true."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import nibabel as nib
import numpy as np
import numpy.typing as npt
import pydicom
from nibabel.filebasedimages import ImageFileError
from pydicom.errors import InvalidDicomError

from mri_minority import __version__
from mri_minority.core.errors import DataError
from mri_minority.export.nifti import DERIVED, DESCRIPTION, listed
from mri_minority.volumes.atomic import sha256_of, write_json_atomic, write_text_atomic

FORMAT = 1
_KNOWN = {"manifest.json", "README.md", "contact_sheet.png"}
_OF_NOBODY = "**Every image and label map in this folder was generated. None is of a person.**"
_GIVEN_MAPS = (
    "**Every image in this folder was generated. The label maps were not: each is one that was given, or an edit of "
    "it, and where that is of a person, its folds are that person's.** `manifest.json` says where each comes from."
)


@dataclass(frozen=True)
class DataCard:
    """What a reader of the data set must know.

    Args:
        slices: How many.
        label_names: Classes 1, 2, ...
        how: The request in words.
        recipe: The model's recipe.
        train_subjects: Subjects the model learnt from.
        audit: What the copy audit found, or that it was not run.
        begun_from: A sentence on the model that training began with; empty where it began from nothing.
        about: Stands in place of the sentence that nothing is of a person, where that is not true.
        derived: Whether images are derived from people's scans.
    """

    slices: int
    label_names: tuple[str, ...]
    how: str
    recipe: str
    train_subjects: int
    audit: str
    begun_from: str = ""
    about: str = _OF_NOBODY
    derived: bool = False


def write_manifest(folder: Path, header: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    """Write manifest.json: the header, and per slice its files' hashes, trace, affine and attributes."""
    write_json_atomic(folder / "manifest.json", {"format": FORMAT, **header, "slices": rows})


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read manifest.json.

    Raises:
        DataError: It is missing, damaged or of another format.
    """
    path = folder / "manifest.json"
    if not path.is_file():
        raise DataError(f"expected a synthetic data set at {folder} (a manifest.json in it), found none")
    try:
        manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{path} is damaged: {error}") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT or "slices" not in manifest:
        raise DataError(f"expected a manifest of format {FORMAT} with its slices, found something else in {path}")
    return manifest


def white_of(manifest: dict[str, Any], row: dict[str, Any]) -> npt.NDArray[np.float32]:
    """Intensity that stands for +1 in the model, in every image channel of a slice: float32 (I, 1, 1).

    A slice that is derived from a scan keeps the scan's intensities, and its row says what is white there.

    Raises:
        DataError: The set is derived, and the row does not say so: it is of an earlier version.
    """
    if manifest.get("derived") and "white" not in row:
        raise DataError(
            f"expected the scan's white in the manifest of a derived set, found none for {row['name']}: it is of an "
            "earlier version, which read its intensities wrongly; make it again"
        )
    white = np.atleast_1d(np.array(row.get("white", manifest["white"]), np.float32))
    return white[:, None, None]


def is_of_nobody(rows: list[dict[str, Any]]) -> bool:
    """Whether all of a synthetic slice was drawn: label maps that were not may be somebody's."""
    return all(row.get("trace", {}).get("label_from", "drawn") == "drawn" for row in rows if row.get("synthetic", True))


def of_whom(rows: list[dict[str, Any]]) -> str:
    """What to say of synthetic slices."""
    return _OF_NOBODY if is_of_nobody(rows) else _GIVEN_MAPS


def write_data_card(folder: Path, card: DataCard) -> None:
    """Write README.md."""
    classes = "\n".join(f"- {number}: {name}" for number, name in enumerate(("background", *card.label_names)))
    write_text_atomic(
        folder / "README.md",
        f"""# {"Derived" if card.derived else "Synthetic"} brain MRI slices

{card.about}

{card.slices} slices with label maps, made by mri-minority ({card.how}), from a model of recipe `{card.recipe}` trained
on {card.train_subjects} subjects.{f" {card.begun_from}" if card.begun_from else ""}

## Files
- `images/NAME.nii.gz`: float32, (H, W, 1), the plane's affine in RAS+ millimetres; of several image channels
  `NAME_0000.nii.gz`, `NAME_0001.nii.gz`, ...
- `labels/NAME.nii.gz`: uint8, same NAME and affine
- `manifest.json`: per slice its seed, stratum, levels, attributes and the files' SHA-256
- `contact_sheet.png`: the first slices, with labels outlined

## Classes
{classes}

## Intended use
Training data for segmentation research, added to real cases.

## Out of scope
Diagnosis; validation or testing of a model (use real cases of other subjects); any claim about a person or a
population.

## Licence
The slices derive from the training data: their licence and consent terms apply here too.

## Copy audit
{card.audit} Passing an audit is evidence, not anonymity.
""",
    )


def write_export_card(folder: Path, layout: str, usage: str, manifest: dict[str, Any], real: int) -> None:
    """Write README.md of an export.

    Args:
        folder: The data set.
        layout: Name of the layout.
        usage: How to use it, in Markdown.
        manifest: Of the source.
        real: How many slices of people were added.
    """
    classes = "\n".join(f"- {n}: {name}" for n, name in enumerate(("background", *manifest["label_names"])))
    about = of_whom(manifest["slices"])
    if real:
        drawn = "of no person" if about == _OF_NOBODY else "of no person but for their label maps, which were given"
        about = (
            f"**Files called `synth_*` were generated and are {drawn}. The {real} slices called `real_*` are of "
            "people: treat this folder like the volumes they were cut from.**"
        )
    how = ", ".join(f"{key} {manifest.get(key)}" for key in ("method", "rarity", "wanted", "seed"))
    write_text_atomic(
        folder / "README.md",
        f"""# Synthetic brain MRI slices, layout `{layout}`

{about}

{len(manifest["slices"])} synthetic slices by mri-minority ({how}). `manifest.json` says how each was made, and the
SHA-256 of every file; `mri-minority verify` checks them.

## Use
{usage}

## Classes
{classes}

## Intended use
Training data for segmentation research, added to real cases.

## Out of scope
Diagnosis; validation or testing of a model (use real cases of other subjects); any claim about a person or a
population.

## Licence
The slices derive from the training data: their licence and consent terms apply here too.

## Copy audit
{manifest.get("audit", "not run")}. Passing an audit is evidence, not anonymity.
""",
    )


def verify_dataset(folder: Path) -> list[str]:
    """Re-hash every file and re-check its format; one sentence per problem, none when all is well."""
    manifest = read_manifest(folder)
    try:
        return _verify_export(folder, manifest) if "files" in manifest else _verify_pairs(folder, manifest)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise DataError(
            f"expected a manifest that says what every file is in {folder}, found one that does not "
            f"({type(error).__name__}: {error}); it is damaged, or of another version: make the data set again"
        ) from error


def _verify_pairs(folder: Path, manifest: dict[str, Any]) -> list[str]:
    """Check what `synthesize` wrote."""
    problems: list[str] = []
    known = set(_KNOWN)
    root = folder.resolve()
    entries = [
        (row, kind, name, sha256)
        for row in manifest["slices"]
        for kind in ("image", "label")
        for name, sha256 in zip(listed(row[kind]), listed(row[f"{kind}_sha256"]), strict=True)
    ]
    for row, kind, name, sha256 in entries:
        known.add(name)
        path = folder / name
        if not path.resolve().is_relative_to(root):
            problems.append(f"{name} lies outside the data set")
        elif not path.is_file():
            problems.append(f"{name} is missing")
        elif sha256_of(path) != sha256:
            problems.append(f"{name} has changed since it was written")
        else:
            problems.extend(f"{name}: {problem}" for problem in _format_problems(path, kind, row))
    found = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}
    problems.extend(f"{name} is not in the manifest" for name in sorted(found - known))
    return problems


def _verify_export(folder: Path, manifest: dict[str, Any]) -> list[str]:
    """The same for what `export` wrote: its manifest lists every file."""
    problems: list[str] = []
    root = folder.resolve()
    rows = {_plain(row["name"]): row for row in manifest["slices"]}
    for entry in manifest["files"]:
        name, path = entry["path"], folder / entry["path"]
        if not path.resolve().is_relative_to(root):
            problems.append(f"{name} lies outside the data set")
        elif not path.is_file():
            problems.append(f"{name} is missing")
        elif sha256_of(path) != entry["sha256"]:
            problems.append(f"{name} has changed since it was written")
        elif name.endswith((".nii.gz", ".dcm")):
            problems.extend(f"{name}: {problem}" for problem in _export_problems(path, rows))
    known = {"manifest.json", *(entry["path"] for entry in manifest["files"])}
    found = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    problems.extend(f"{name} is not in the manifest" for name in sorted(found - known))
    return problems


def _plain(name: str) -> str:
    """A slice's name in the letters and digits that every layout keeps."""
    return "".join(c for c in name if c.isalnum())


def _export_problems(path: Path, rows: dict[str, dict[str, Any]]) -> list[str]:
    """What is wrong with one image or label map of an export."""
    if path.suffix == ".dcm":
        try:
            header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=["SyntheticData"])
        except (InvalidDicomError, OSError, EOFError, ValueError) as error:
            return [f"cannot be read ({type(error).__name__})"]
        return [] if header.get("SyntheticData") == "YES" else ["is not marked synthetic"]
    stem = re.split(r"_(?:ce|desc)-", path.name)[0].removeprefix("sub-").split(".")[0]
    row = rows.get(_plain(stem), rows.get(_plain(re.sub(r"_\d{4}$", "", stem))))  # a channel's number
    if row is None:
        return ["is none of the manifest's slices"]
    kind = "label" if path.parent.name.startswith("labels") or "_dseg" in path.name else "image"
    problems = _format_problems(path, kind, row)
    return [problem for problem in problems if row.get("synthetic", True) or "marked" not in problem]


def _format_problems(path: Path, kind: str, row: dict[str, Any]) -> list[str]:
    try:
        picture = cast(nib.Nifti1Image, nib.load(path))
    except (ImageFileError, OSError, EOFError, ValueError) as error:
        return [f"cannot be read ({type(error).__name__})"]
    header = picture.header
    spacing_mm = header.get_zooms()
    mark = (DERIVED if row.get("trace", {}).get("derived") else DESCRIPTION).removesuffix(__version__)
    checks = {
        "is not (H, W, 1)": len(picture.shape) == 3 and picture.shape[2] == 1,
        "has the wrong data type": picture.get_data_dtype() == (np.float32 if kind == "image" else np.uint8),
        f"is not marked {mark.split()[0].lower()}": header["descrip"].item().startswith(mark.encode()),
        "has no sform or qform": int(header["sform_code"]) > 0 and int(header["qform_code"]) > 0,
        "is thinner than its pixels are wide": spacing_mm[2] >= max(spacing_mm[:2]) - 1e-4,
        "lies elsewhere than the manifest says": np.allclose(picture.affine, row["affine"], atol=1e-3),
    }
    return [problem for problem, fine in checks.items() if not fine]
