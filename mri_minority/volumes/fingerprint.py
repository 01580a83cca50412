"""What a list of images is known by, so that a store is not taken for one of other images."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

from mri_minority.volumes.discover import Found

_PIECES = 4
_PIECE_BYTES = 16 * 1024


def fingerprint(found: list[Found], sites: frozenset[str]) -> str:
    """Hash (hex) of who and what is in a list of images, whatever its order and wherever the folders lie.

    Of every file the size and a few pieces count, the last bytes among them (of a .nii.gz they are the checksum of its
    content): a whole study is looked at in seconds. What was only moved or touched is the same.

    Args:
        found: The images. A file that cannot be read counts as empty.
        sites: Which of their sites are noted.
    """
    lines = sorted(json.dumps(_said(item, sites)) for item in found)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _said(item: Found, sites: frozenset[str]) -> list[object]:
    # The series of a file that was refused may be its path, which says where the folder lies.
    name = item.image.name if item.problem else item.series
    site = item.site if item.site in sites else ""
    pixels = [[image.channel, image.sequence, *map(_glimpse, _files(image))] for image in item.images]
    return [item.subject, name, site, item.sequence, bool(item.problem), pixels]


def _files(image: Found) -> Iterator[Path]:
    """The files of one image: its frames, or image and label map."""
    if image.dicom is not None:
        yield from sorted({frame.file for frame in image.dicom.frames})
        return
    yield image.image
    if image.label is not None:
        yield image.label


def _glimpse(path: Path) -> str:
    """Size and pieces of a file, hashed; "" if it cannot be read."""
    try:
        size = path.stat().st_size
        digest = hashlib.sha256(str(size).encode())
        with path.open("rb") as file:
            for n in range(1, _PIECES + 1):
                file.seek(max(0, size * n // _PIECES - _PIECE_BYTES))
                digest.update(file.read(_PIECE_BYTES))
    except OSError:
        return ""
    return digest.hexdigest()
