"""The slice store: one folder with Zarr v3 arrays, a table of rows, and how they were made."""

import csv
import hashlib
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr
from zarr.codecs import ZstdCodec

from mri_minority.core.errors import DataError
from mri_minority.slices.select import CutSlices
from mri_minority.slices.strata import UNKNOWN, Kind
from mri_minority.volumes.atomic import sha256_of, write_json_atomic, write_text_atomic

FORMAT = 2
_READABLE = (1, 2)
"""Format 1 knew one image channel, and neither sequence nor site of a slice."""

_CHUNK = 8
_TABLE = "slices.tsv"
_COLUMNS = ("subject", "series", "sha256", "index", "height", "stratum", "split", "sequence", "site", "scale", "affine")
_NEW_COLUMNS = ("sequence", "site")


@dataclass(frozen=True)
class Row:
    """What is known of one slice.

    Args:
        subject: Key of the subject it is of.
        series: Acquisition it was cut from.
        sha256: Hash of the source file.
        index: Position along the slicing axis of the resampled volume.
        height: Normalised height within the foreground, 0 to 1.
        stratum: Index of its stratum; -1 until the strata are known.
        split: "train" or "holdout".
        sequence: Kind of image, for example "T1"; "" where the source does not say, or for several channels.
        site: Where it was acquired, as far as the source says; never who is shown.
        scale: Foreground's 99.5th percentile of every image channel, in source units.
        affine: 16 numbers, row by row: pixel (i, j, 0) -> RAS+ millimetres.
    """

    subject: str
    series: str
    sha256: str
    index: int
    height: float
    stratum: int
    split: str
    sequence: str
    site: str
    scale: tuple[float, ...]
    affine: tuple[float, ...]


class StoreWriter:
    """Appends volumes to a store under construction; a volume is either wholly in it or not at all."""

    def __init__(self, folder: Path, size: tuple[int, int], channels: int = 1) -> None:
        """Open a store under construction, or begin it.

        Args:
            folder: Where it is built.
            size: In-plane size (H, W).
            channels: Image channels of every slice.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._journal = folder / "rows.jsonl"
        if not self._journal.exists():
            for name, each, dtype in (("image", (channels, *size), "float16"), ("label", size, "uint8")):
                zarr.create_array(
                    folder / f"{name}.zarr",
                    shape=(0, *each),
                    chunks=(_CHUNK, *each),
                    dtype=dtype,
                    compressors=ZstdCodec(level=0, checksum=True),  # a changed byte is noticed when it is read
                    overwrite=True,
                )
            self._journal.touch()
        self.rows = self._complete_rows()
        self._arrays = [zarr.open_array(folder / f"{name}.zarr", mode="r+") for name in ("image", "label")]
        for array in self._arrays:
            array.resize((len(self.rows), *array.shape[1:]))

    def _complete_rows(self) -> list[Row]:
        """Rows of the volumes whose line was wholly written; a torn last line is dropped."""
        lines = self._journal.read_text(encoding="utf-8").split("\n")
        if lines[-1]:
            write_text_atomic(self._journal, "".join(line + "\n" for line in lines[:-1]))
        return [_row(entry) for line in lines[:-1] for entry in json.loads(line)]

    def done(self) -> frozenset[tuple[str, str]]:
        """Series and hashes of the source files that are in."""
        return frozenset((row.series, row.sha256) for row in self.rows)

    def append(self, cut: CutSlices, subject: str, series: str, sha256: str, split: str, kind: Kind = UNKNOWN) -> None:
        """Append one volume: arrays first, then one journal line that makes them count."""
        rows = [
            Row(subject, series, sha256, int(i), float(h), -1, split, *kind, cut.scale, tuple(map(float, a.ravel())))
            for i, h, a in zip(cut.index, cut.height, cut.affine, strict=True)
        ]
        news: tuple[npt.NDArray[Any], ...] = (cut.image.astype(np.float16), cut.label)
        for array, new in zip(self._arrays, news, strict=True):
            array.resize((len(self.rows) + len(rows), *new.shape[1:]))
            array[len(self.rows) :] = new
        with self._journal.open("a", encoding="utf-8") as journal:
            journal.write(json.dumps([row.__dict__ for row in rows]) + "\n")
        self.rows.extend(rows)

    def finish(self, strata: Sequence[int], header: dict[str, Any]) -> None:
        """Write the table and the header; from then on the folder is a store.

        Args:
            strata: Stratum of every row.
            header: What to remember: settings, strata, channel and label names, counts.
        """
        text = io.StringIO()
        writer = csv.writer(text, delimiter="\t", lineterminator="\n")
        writer.writerow(_COLUMNS)
        for row, stratum in zip(self.rows, strata, strict=True):
            affine = " ".join(repr(value) for value in row.affine)
            writer.writerow(
                [
                    row.subject,
                    row.series,
                    row.sha256,
                    row.index,
                    repr(row.height),
                    stratum,
                    row.split,
                    row.sequence,
                    row.site,
                    " ".join(repr(value) for value in row.scale),
                    affine,
                ]
            )
        write_text_atomic(self.folder / _TABLE, text.getvalue())
        labels = _hash_of(self._arrays[1])
        write_json_atomic(self.folder / "store.json", {"format": FORMAT, **header, "labels_sha256": labels})
        self._journal.unlink()


class SliceStore:
    """A finished store, read lazily: slices are decompressed when asked for."""

    def __init__(self, folder: Path) -> None:
        """Open a store.

        Raises:
            DataError: The folder is missing, unfinished or of another format.
        """
        self.folder = folder
        path = folder / "store.json"
        if not path.is_file():
            raise DataError(
                f"expected a finished slice store at {folder} (a store.json in it), found none; run `prepare` first"
            )
        self.header: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if self.header.get("format") not in _READABLE:
            raise DataError(
                f"expected store format {FORMAT} or older, found {self.header.get('format')} in {path}; prepare it anew"
            )
        with (folder / _TABLE).open(encoding="utf-8", newline="") as table:
            self.rows = [_row(entry) for entry in csv.DictReader(table, delimiter="\t")]
        self._image = zarr.open_array(folder / "image.zarr", mode="r")
        self._label = zarr.open_array(folder / "label.zarr", mode="r")
        if not len(self.rows) == self._image.shape[0] == self._label.shape[0]:
            raise DataError(
                f"expected as many slices as rows in {folder}, found {self._image.shape[0]} and {len(self.rows)}; "
                "prepare it anew"
            )

    @property
    def sha256(self) -> str:
        """What the slices are known by: a hash of their table and their label maps."""
        labels = self.header.get("labels_sha256")  # stores of earlier versions do not say it
        table = sha256_of(self.folder / _TABLE)
        return table if labels is None else hashlib.sha256(f"{table} {labels}".encode()).hexdigest()

    def is_known_as(self, sha256: str) -> bool:
        """Whether a model or an audit that noted this hash means these slices.

        Earlier versions noted the table's hash alone, and tables of the first format had no columns for sequence and
        site: the same slices, prepared again, are the same.
        """
        if sha256 in (self.sha256, sha256_of(self.folder / _TABLE)):
            return True
        with (self.folder / _TABLE).open(encoding="utf-8", newline="") as table:
            rows = list(csv.reader(table, delimiter="\t"))
        kept = [n for n, name in enumerate(rows[0]) if name not in _NEW_COLUMNS]
        older = io.StringIO()
        csv.writer(older, delimiter="\t", lineterminator="\n").writerows([row[n] for n in kept] for row in rows)
        return sha256 == hashlib.sha256(older.getvalue().encode()).hexdigest()

    @property
    def label_names(self) -> tuple[str, ...]:
        """Names of the classes 1, 2, ..."""
        return tuple(self.header["label_names"])

    @property
    def channel_names(self) -> tuple[str, ...]:
        """Names of the image channels, for example ("T1", "FLAIR"); "" where nothing says what it is."""
        return tuple(self.header.get("channel_names", [self.header["settings"].get("sequence", "")]))

    @property
    def channels(self) -> int:
        """Image channels of every slice."""
        return int(self._image.shape[1]) if self._image.ndim == 4 else 1

    @property
    def strata_names(self) -> tuple[str, ...]:
        """Names of the strata 0, 1, ..."""
        return tuple(self.header["strata"]["names"])

    def indices(self, split: str) -> npt.NDArray[np.int64]:
        """Positions of the slices of one split."""
        return np.array([i for i, row in enumerate(self.rows) if row.split == split], dtype=np.int64)

    def strata(self) -> npt.NDArray[np.int64]:
        """Stratum of every slice (N,)."""
        return np.array([row.stratum for row in self.rows], dtype=np.int64)

    def heights(self) -> npt.NDArray[np.float64]:
        """Normalised height of every slice (N,)."""
        return np.array([row.height for row in self.rows])

    def kinds(self) -> list[Kind]:
        """Sequence and site of every slice."""
        return [(row.sequence, row.site) for row in self.rows]

    def read(self, index: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8]]:
        """Images (n, I, H, W) float32 in [-1, 1] and labels (n, H, W) of the given positions.

        Raises:
            DataError: A chunk is missing, damaged or cannot be read.
        """
        try:
            image, label = self._image.oindex[index], self._label.oindex[index]
        except (RuntimeError, ValueError, OSError) as error:
            raise DataError(
                f"expected whole slices in {self.folder}, found a damaged chunk ({error}); prepare the store anew"
            ) from error
        planes = np.asarray(image).astype(np.float32)
        planes = planes.reshape(len(planes), self.channels, *planes.shape[-2:])
        return planes, np.asarray(label).astype(np.uint8)


def _hash_of(labels: zarr.Array[Any]) -> str:
    """Hash of label maps (N, H, W), a piece at a time."""
    found = hashlib.sha256()
    for first in range(0, labels.shape[0], 512):
        found.update(np.ascontiguousarray(labels[first : first + 512]).tobytes())
    return found.hexdigest()


def _row(entry: dict[str, Any]) -> Row:
    return Row(
        subject=entry["subject"],
        series=entry["series"],
        sha256=entry["sha256"],
        index=int(entry["index"]),
        height=float(entry["height"]),
        stratum=int(entry["stratum"]),
        split=entry["split"],
        sequence=entry.get("sequence", ""),
        site=entry.get("site", ""),
        scale=_numbers(entry["scale"]),
        affine=_numbers(entry["affine"]),
    )


def _numbers(said: str | list[float]) -> tuple[float, ...]:
    """Numbers of a cell of the table, or of the journal."""
    return tuple(float(number) for number in (said.split() if isinstance(said, str) else said))
