"""Find images and their labels in the layouts that labs have, without configuration."""

import re
from dataclasses import dataclass
from pathlib import Path

from mri_minority.core.errors import DataError
from mri_minority.volumes.atomic import write_text_atomic

_NIFTI = (".nii.gz", ".nii")
_PAIRS = (("images", "labels"), ("imagesTr", "labelsTr"))
_TAIL = re.compile(
    r"[_.-](T1w?|T1ce|T1Gd|T2w?|FLAIR|PD|MPRAGE|T1c|dseg|seg|mask|label|labels|lesion|DLMUSE|00\d\d)$", re.IGNORECASE
)
_DATE = re.compile(r"[_-](19|20)\d{6}$")


@dataclass(frozen=True)
class Found:
    """One image that was discovered.

    Args:
        image: The image file.
        label: Its label map, or None.
        subject: Key by which data are split: sessions of one person share it.
        series: The image's name without ending.
        problem: Why it cannot be used, or None.
    """

    image: Path
    label: Path | None
    subject: str
    series: str
    problem: str | None = None


def discover(sources: list[Path]) -> list[Found]:
    """List the images below the given files and folders, in a stable order.

    Understands a flat folder, `images/` + `labels/`, nnU-Net raw (`imagesTr/` + `labelsTr/`) and BIDS.

    Raises:
        DataError: A source is missing, or nothing was found in it.
    """
    found: list[Found] = []
    for source in sources:
        if not source.exists():
            raise DataError(f"expected a folder of NIfTI files, {source} does not exist")
        if source.is_file():
            if not source.name.endswith(_NIFTI):
                raise DataError(f"expected a .nii or .nii.gz file or a folder, found {source}")
            found.append(_found(source, []))
            continue
        here = _in_folder(source)
        if not here:
            raise DataError(f"expected NIfTI files (.nii, .nii.gz) in {source}, found none")
        found.extend(here)
    return found


def stem_of(path: Path) -> str:
    """File name without .nii or .nii.gz."""
    for ending in _NIFTI:
        if path.name.endswith(ending):
            return path.name[: -len(ending)]
    return path.stem


def subject_of(path: Path) -> str:
    """Key of the subject: the BIDS `sub-` entity, else the name without sequence and date endings."""
    stem = stem_of(path)
    entity = re.match(r"sub-[A-Za-z0-9]+", stem)
    if entity:
        return entity.group(0)
    shorter = _TAIL.sub("", stem)
    while shorter != stem:
        stem, shorter = shorter, _TAIL.sub("", shorter)
    return _DATE.sub("", stem)


def write_quarantine(path: Path, rows: list[tuple[str, str]]) -> None:
    """Write which files were refused, and why (tab separated; tabs and line ends in names are escaped)."""
    lines = ["file\treason", *("\t".join(_escape(cell) for cell in row) for row in rows)]
    write_text_atomic(path, "".join(line + "\n" for line in lines))


def _in_folder(folder: Path) -> list[Found]:
    for images, labels in _PAIRS:
        if (folder / images).is_dir():
            candidates = _niftis(folder / labels) if (folder / labels).is_dir() else []
            return [_found(image, candidates) for image in _niftis(folder / images)]
    bids = [p for p in _niftis(folder, deep=True) if p.parent.name == "anat" and stem_of(p).startswith("sub-")]
    if bids:
        return [_found(p, [q for q in bids if _is_label(q)]) for p in bids if not _is_label(p)]
    flat = _niftis(folder)
    return [_found(p, [q for q in flat if _is_label(q)]) for p in flat if not _is_label(p)]


def _niftis(folder: Path, deep: bool = False) -> list[Path]:
    entries = folder.rglob("*") if deep else folder.iterdir()
    return sorted(p for p in entries if p.name.endswith(_NIFTI) and not p.name.startswith(".") and p.is_file())


def _is_label(path: Path) -> bool:
    return re.search(r"[_.-](dseg|seg|mask|label|labels|lesion|DLMUSE)$", stem_of(path), re.IGNORECASE) is not None


def _core(path: Path) -> str:
    """The part of the name that image and label share."""
    stem, shorter = stem_of(path), _TAIL.sub("", stem_of(path))
    while shorter != stem:
        stem, shorter = shorter, _TAIL.sub("", shorter)
    return stem


def _found(image: Path, candidates: list[Path]) -> Found:
    matches = [c for c in candidates if _core(c) == _core(image)]
    problem = None
    if len(matches) > 1:
        problem = f"expected one label map, found {len(matches)}: {', '.join(m.name for m in matches)}"
    return Found(image, matches[0] if len(matches) == 1 else None, subject_of(image), stem_of(image), problem)


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\t", "\\t").replace("\n", "\\n").replace("\r", "\\r")
