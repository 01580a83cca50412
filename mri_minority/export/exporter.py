"""What every exporter is given and gives back; adding a layout is one new file that satisfies `Exporter`."""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from mri_minority import __version__
from mri_minority.core.errors import DataError
from mri_minority.export.nifti import DESCRIPTION, listed, read_plane
from mri_minority.slices.store import SliceStore
from mri_minority.volumes.atomic import sha256_of, write_bytes_atomic
from mri_minority.volumes.geometry import lift_thickness, squared
from mri_minority.volumes.nifti import nifti_bytes

FOLDS = 5
"""Folds of the real subjects, where there are as many; synthetic slices are in none of them."""


@dataclass(frozen=True)
class Case:
    """One slice on its way into a data set.

    Args:
        name: `synth_00007`, or `real_0003_012`: a number that stands for the subject, and the slice's.
        image: float32 (I, H, W), source units.
        label: uint8 (H, W), or None.
        affine: (4, 4), pixel (i, j, 0) -> RAS+ millimetres; its third column may be lifted.
        thickness_mm: True distance between neighbouring planes.
        synthetic: Whether it was drawn; if not, it is of a person.
        fold: Of a real training slice: the fold that validates on its subject. None for a synthetic one, which is in
            no validation set, and for a subject that was held out, which is for testing.
        row: What the manifest says of it.
    """

    name: str
    image: npt.NDArray[np.float32]
    label: npt.NDArray[np.uint8] | None
    affine: npt.NDArray[np.float64]
    thickness_mm: float
    synthetic: bool
    fold: int | None
    row: dict[str, Any]

    @property
    def held_out(self) -> bool:
        """Whether it is of a real subject kept for testing."""
        return not self.synthetic and self.fold is None

    def of_whom(self) -> str:
        """Whether a synthetic slice is of anybody, in words: a label map that was given may be."""
        drawn = self.row.get("trace", {}).get("label_from", "drawn") == "drawn"
        return "of no person" if drawn else "label map given, perhaps a person's"

    def content_sha256(self) -> str:
        """Hash of image, label map and place."""
        parts = [self.image, self.affine] if self.label is None else [self.image, self.affine, self.label]
        return hashlib.sha256(b"".join(np.ascontiguousarray(part).tobytes() for part in parts)).hexdigest()

    def image_bytes(self) -> list[bytes]:
        """The image channels as .nii.gz."""
        return [self._encoded(plane) for plane in self.image]

    def label_bytes(self) -> bytes:
        """The label map as .nii.gz.

        Raises:
            DataError: There is none.
        """
        if self.label is None:
            raise DataError(f"expected a label map for {self.name}, this model draws none; choose --to nifti or bids")
        return self._encoded(self.label)

    def _encoded(self, plane: npt.NDArray[Any]) -> bytes:
        says = DESCRIPTION if self.synthetic else f"REAL slice, cut by mri-minority {__version__}"
        trace = self.row["trace"] if self.synthetic else None
        return nifti_bytes(plane[:, :, None], self.affine, says, trace)


@dataclass(frozen=True)
class Facts:
    """What is true of all cases together.

    Args:
        label_names: Classes 1, 2, ...
        sequences: What every image channel is, for example ("T1", "FLAIR").
        white: Intensity that stands for +1 in the model, for every channel.
        header: The source's manifest without its rows.
    """

    label_names: tuple[str, ...]
    sequences: tuple[str, ...]
    white: tuple[float, ...]
    header: dict[str, Any]


@runtime_checkable
class Exporter(Protocol):
    """Writes a data set in one layout.

    `takes_real` says whether real slices may be added; `usage` is what the data card says on how to use it.
    """

    takes_real: bool
    usage: str

    def write(self, folder: Path, cases: Iterable[Case], facts: Facts) -> None:
        """Write every file of the layout but manifest and data card.

        Cases are read as they come, so that a large data set never lies in memory. The same cases give the same bytes.

        Args:
            folder: An empty folder.
            cases: The slices, synthetic ones first.
            facts: What is true of all of them.

        Raises:
            DataError: A case cannot be written in this layout.
        """
        ...


def synthetic_cases(folder: Path, manifest: dict[str, Any]) -> Iterator[Case]:
    """Read the slices of a data set that `synthesize` wrote, checking every file's hash.

    Raises:
        DataError: A file is missing or is not what the manifest says.
    """
    for row in manifest["slices"]:
        labels = _planes(folder, row, "label")
        yield Case(
            name=str(row["name"]),
            image=np.stack(_planes(folder, row, "image")).astype(np.float32),
            label=labels[0].astype(np.uint8) if labels else None,
            affine=np.array(row["affine"], np.float64),
            thickness_mm=float(row["true_thickness_mm"]),
            synthetic=True,
            fold=None,
            row={key: value for key, value in row.items() if not key.startswith(("image", "label"))},
        )


def real_cases(store: SliceStore) -> Iterator[Case]:
    """The slices of a store, to train beside synthetic ones: subjects under numbers, held-out ones for testing.

    The numbers follow a hash of the subject's key, so that their order says nothing of the alphabet's.
    """
    order = sorted({row.subject for row in store.rows}, key=lambda s: hashlib.sha256(f"export/{s}".encode()).digest())
    number = {subject: n for n, subject in enumerate(order)}
    trained = [s for s in order if any(row.subject == s and row.split == "train" for row in store.rows)]
    fold = {subject: n % min(FOLDS, len(trained)) for n, subject in enumerate(trained)}
    count: dict[str, int] = {}
    ceiling = float(store.header["settings"]["ceiling"])
    for position, row in enumerate(store.rows):
        image, label = store.read(np.array([position]))
        count[row.subject] = count.get(row.subject, -1) + 1
        affine, thickness_mm = lift_thickness(squared(np.array(row.affine).reshape(4, 4)))
        name = f"real_{number[row.subject]:04d}_{count[row.subject]:03d}"
        yield Case(
            name=name,
            image=((image[0] + 1) / 2 * (ceiling * np.array(row.scale, np.float32))[:, None, None]).astype(np.float32),
            label=label[0] if store.label_names else None,
            affine=affine,
            thickness_mm=thickness_mm,
            synthetic=False,
            fold=fold[row.subject] if row.split == "train" else None,
            row={"name": name, "synthetic": False, "stratum": row.stratum, "affine": affine.tolist()},
        )


def write_case_file(path: Path, data: bytes) -> None:
    """Write one file atomically."""
    write_bytes_atomic(path, data)


def _planes(folder: Path, row: dict[str, Any], kind: str) -> list[npt.NDArray[Any]]:
    """The files of a row that are of a kind, checked and read."""
    planes = []
    for name, sha256 in zip(listed(row[kind]), listed(row[f"{kind}_sha256"]), strict=True):
        path = folder / name
        if not path.resolve().is_relative_to(folder.resolve()):
            raise DataError(f"expected files inside {folder}, the manifest lists {name}; make the data set again")
        if sha256_of(path) != sha256:
            raise DataError(f"expected {name} as it was written, it has changed; run `mri-minority verify` on it")
        planes.append(read_plane(path))
    return planes
