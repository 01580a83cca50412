"""Lists of images in JSON: MONAI's and the Medical Segmentation Decathlon's `dataset.json`, nnU-Net's channel names."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from mri_minority.core.errors import DataError
from mri_minority.volumes.atomic import shown
from mri_minority.volumes.sites import plain_site

_MAX_BYTES = 64 * 1024**2


class Entry(NamedTuple):
    """A listed case: its image, or several where its channels are separate files; its label map; its site."""

    images: tuple[Path, ...]
    label: Path | None
    site: str


@dataclass(frozen=True)
class Datalist:
    """What a dataset.json says.

    Args:
        entries: Every listed training and validation case.
        channels: Channel number -> name, as far as the file tells.
        lists: Whether the file lists images at all (nnU-Net's does not).
    """

    entries: tuple[Entry, ...]
    channels: dict[int, str]
    lists: bool


def read_datalist(path: Path) -> Datalist:
    """Read a dataset.json; paths in it are relative to its folder.

    Raises:
        DataError: It is no JSON object, too large, or an entry of its lists is not an image with its label.
    """
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise DataError(f"expected a list of at most {_MAX_BYTES} bytes, {shown(path)} is larger; split it")
        content: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"expected JSON in {shown(path)}, found {type(error).__name__}; mend or remove it") from error
    if not isinstance(content, dict):
        raise DataError(f"expected a JSON object in {shown(path)}, found {type(content).__name__}; mend or remove it")
    found: list[Entry] = []
    lists = [content[key] for key in ("training", "validation") if isinstance(content.get(key), list)]
    for number, entry in enumerate(item for entries in lists for item in entries):
        found.append(_entry(path, number, entry))
    named = content.get("channel_names", content.get("modality"))
    channels: dict[int, str] = {}
    if isinstance(named, dict):
        channels = {int(k): str(v) for k, v in named.items() if str(k).isdecimal() and len(str(k)) < 5}
    return Datalist(tuple(found), channels, bool(lists))


def _entry(path: Path, number: int, entry: Any) -> Entry:
    images = entry.get("image") if isinstance(entry, dict) else entry
    label = entry.get("label") if isinstance(entry, dict) else None
    several = images if isinstance(images, list) else [images]
    if not several or not all(isinstance(p, str) and p for p in several) or not isinstance(label, str | None):
        raise DataError(
            f'expected {{"image": path, "label": path}} as entry {number} in {shown(path)}, found {str(entry)[:80]!a}; '
            "mend it"
        )
    site = plain_site(entry.get("site", "")) if isinstance(entry, dict) else ""
    images = tuple(_inside(path, str(image)) for image in several)
    return Entry(images, _inside(path, str(label)) if label else None, site)


def _inside(path: Path, entry: str) -> Path:
    return path.parent / entry.removeprefix("./")
