"""A procedural cohort of brain-like T1 volumes with labels: something to try everything on without a patient.

Nothing here is measured on anybody. A head is a set of signed distances (ellipsoids, tubes, sheets; negative inside),
evaluated in a head frame with millimetre-like axes (right, anterior, superior; origin near the anterior commissure)
and painted from the outside in: scalp, skull, fluid, folded cortex, white matter, deep grey matter, ventricles.
Because everything is a formula of the world coordinate, any voxel grid sees the same anatomy: nothing is resampled.

A *rare* subject differs in one thing: its ventricles have 2.2 to 3.5 times the typical volume. They grow by an offset
of their distance field, and the tissue around them is displaced outwards by the same offset, fading with distance.
"""

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import nibabel as nib
import numpy as np
import numpy.typing as npt

from mri_minority.core.errors import UsageError
from mri_minority.volumes.phantom_paint import CONTRASTS, LABELS, synthesise
from mri_minority.volumes.phantom_shapes import F64, Traits, Waves

__all__ = [
    "LABELS",
    "ORIENTATIONS",
    "CohortEntry",
    "PhantomSubject",
    "make_subject",
    "rare_indices",
    "write_cohort",
]

ORIENTATIONS: Final = ("RAS", "LAS", "LPS", "PSR", "oblique")
"""Storage orientations that a written cohort cycles through; the last is RAS tilted by a few degrees."""

_AXES: Final = {"R": (0, 1), "L": (0, -1), "A": (1, 1), "P": (1, -1), "S": (2, 1), "I": (2, -1)}

FIELD_OF_VIEW_MM: Final = (192.0, 224.0, 168.0)
CENTRE_MM: Final = (0.0, -16.0, 10.0)
ORDINARY_SCALES: Final = (0.62, 1.6)
RARE_SCALES: Final = (2.2, 3.5)
_NOISE_OF: Final = {"T1": 1, "FLAIR": 3}
"""Names the stream of every sequence's noise."""


@dataclass(frozen=True)
class PhantomSubject:
    """One phantom head.

    Args:
        name: ``phantom-001`` for index 1.
        rare: Whether the ventricles are enlarged.
        images: Sequence ("T1", "FLAIR") -> float32 (X, Y, Z), intensity in arbitrary scanner units, not negative.
        label: uint8 (X, Y, Z), see ``LABELS``.
        affine: float64 (4, 4), voxel index -> RAS+ world coordinate in millimetres.
        ventricle_scale: Intended ventricle volume relative to a typical one (1 = 2 % of the brain).
        ventricle_percent_brain: Volume of the ventricle label, in percent of the three labels together.
        atrophy: 0 (narrow sulci, thick cortex) to 1 (wide sulci, thin cortex).
    """

    name: str
    rare: bool
    images: dict[str, npt.NDArray[np.float32]]
    label: npt.NDArray[np.uint8]
    affine: npt.NDArray[np.float64]
    ventricle_scale: float
    ventricle_percent_brain: float
    atrophy: float

    @property
    def image(self) -> npt.NDArray[np.float32]:
        """The first sequence that was made."""
        return next(iter(self.images.values()))


@dataclass(frozen=True)
class CohortEntry:
    """One written phantom: where it is and what is known about it.

    Args:
        name: Participant id, ``phantom-001``.
        rare: Whether the ventricles are enlarged.
        orientation: One of ``ORIENTATIONS``.
        ventricle_percent_brain: Volume of the ventricle label, in percent of the three labels together.
        image_path: The NIfTI file of the first sequence.
        label_path: The label NIfTI file, same shape and affine.
    """

    name: str
    rare: bool
    orientation: str
    ventricle_percent_brain: float
    image_path: Path
    label_path: Path


def _draw_traits(seed: int, index: int, rare: bool) -> Traits:
    rng = np.random.default_rng([seed, index, 0])
    normal = np.clip(rng.standard_normal(12), -1.8, 1.8)
    size = 0.955 * (1 + 0.025 * normal[0]) * (1 + 0.018 * normal[1:4])
    x, y, z = np.deg2rad([2.5, 2.0, 2.0]) * normal[4:7]
    turn_x = np.array([[1, 0, 0], [0, np.cos(x), -np.sin(x)], [0, np.sin(x), np.cos(x)]])
    turn_y = np.array([[np.cos(y), 0, np.sin(y)], [0, 1, 0], [-np.sin(y), 0, np.cos(y)]])
    turn_z = np.array([[np.cos(z), -np.sin(z), 0], [np.sin(z), np.cos(z), 0], [0, 0, 1]])
    pose = np.eye(4)
    pose[:3, :3] = (turn_x @ turn_y @ turn_z) / size[:, None]
    pose[:3, 3] = 1.8 * normal[7:10]
    atrophy = float(rng.beta(1.6, 2.2))
    # Older-looking brains tend to have somewhat larger ventricles; the clip keeps ordinary ones ordinary.
    ordinary = float(np.clip(np.exp(0.25 * (1.2 * (atrophy - 0.42) + 0.85 * normal[10])), *ORDINARY_SCALES))
    enlarged = float(rng.uniform(*RARE_SCALES))  # drawn in any case, so that the rest does not depend on `rare`
    return Traits(
        origin_mm=rng.uniform(-12, 12, 3),
        pose=pose,
        atrophy=atrophy,
        ventricle_scale=enlarged if rare else ordinary,
        side=0.04 * float(normal[11]),
        gain=float(rng.uniform(550, 1400)),
        noise=float(rng.uniform(0.018, 0.04)),
        warps=tuple(Waves.draw(rng, 10, 70, 160) for _ in range(3)),
        bias=Waves.draw(rng, 6, 220, 420),
        texture=Waves.draw(rng, 24, 14, 40),
        folds=Waves.draw(rng, 32, 16, 25),
    )


def _build(
    seed: int, index: int, rare: bool, spacing_mm: float, tilted: bool, sequences: tuple[str, ...] = ("T1",)
) -> PhantomSubject:
    unknown = sorted(set(sequences) - set(CONTRASTS))
    if unknown or not sequences:
        raise UsageError(f"a phantom has the sequences {', '.join(CONTRASTS)}; got {', '.join(unknown) or 'none'}")
    if seed < 0 or index < 0 or not 0.5 <= spacing_mm <= 6:
        raise UsageError(
            f"a phantom needs seed >= 0, index >= 0 and a spacing of 0.5 to 6 mm; got seed {seed}, index {index}, "
            f"{spacing_mm} mm; choose values in these ranges"
        )
    traits = _draw_traits(seed, index, rare)
    shape = tuple(round(length / spacing_mm) for length in FIELD_OF_VIEW_MM)
    local = np.diag([spacing_mm, spacing_mm, spacing_mm, 1.0])
    local[:3, 3] = -spacing_mm * (np.array(shape) - 1) / 2
    if tilted:
        a, b = np.deg2rad([6.0, 4.0])
        turn = np.eye(4)
        turn[1:3, 1:3] = [[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]]
        yaw = np.eye(4)
        yaw[:2, :2] = [[np.cos(b), -np.sin(b)], [np.sin(b), np.cos(b)]]
        local = yaw @ turn @ local
    local[:3, 3] += CENTRE_MM
    images, bias = {}, 1 + np.float32(0.09) * traits.bias.on_grid(local, shape)
    for sequence in sequences:
        image, label = synthesise(traits, local, shape, sequence)
        rng = np.random.default_rng([seed, index, _NOISE_OF[sequence]])
        image *= bias
        image += np.float32(traits.noise) * rng.standard_normal(shape, dtype=np.float32)
        other = np.float32(traits.noise) * rng.standard_normal(shape, dtype=np.float32)
        images[sequence] = np.sqrt(image * image + other * other) * np.float32(traits.gain)

    affine = local.copy()
    affine[:3, 3] += traits.origin_mm
    counts = np.bincount(label.ravel(), minlength=4)
    return PhantomSubject(
        name=f"phantom-{index:03d}",
        rare=rare,
        images=images,
        label=label,
        affine=affine,
        ventricle_scale=traits.ventricle_scale,
        ventricle_percent_brain=float(100 * counts[3] / counts[1:].sum()),
        atrophy=traits.atrophy,
    )


def make_subject(seed: int, index: int, rare: bool, spacing_mm: float = 2.0) -> PhantomSubject:
    """Make one phantom head, the same for the same arguments.

    ``rare`` changes the ventricles and nothing else that is random: the common and the rare subject of one
    (seed, index) are the same head.

    Args:
        seed: The cohort's seed, not negative.
        index: The subject's number, not negative.
        rare: Whether the ventricles are enlarged.
        spacing_mm: Voxel size, the same along each axis, 0.5 to 6 mm.

    Returns:
        The subject, on RAS axes; 96 x 112 x 84 voxels at 2 mm.

    Raises:
        UsageError: An argument is out of range.
    """
    return _build(seed, index, rare, spacing_mm, tilted=False)


def _store(array: npt.NDArray[np.generic], affine: F64, orientation: str, path: Path) -> None:
    """Write an array with its axes in another order or direction; the anatomy keeps its world coordinates."""
    axes, signs = zip(*(_AXES[code] for code in ("RAS" if orientation == "oblique" else orientation)), strict=True)
    stored = np.transpose(array, axes)[tuple(slice(None, None, sign) for sign in signs)]
    to_ras = np.zeros((4, 4))  # stored index -> index on RAS axes
    to_ras[3, 3] = 1
    for column, (axis, sign) in enumerate(zip(axes, signs, strict=True)):
        to_ras[axis, column] = sign
        to_ras[axis, 3] = 0 if sign > 0 else array.shape[axis] - 1
    library: Any = nib  # its constructors carry no annotations
    nifti = library.Nifti1Image(np.ascontiguousarray(stored), affine @ to_ras)
    nifti.header.set_xyzt_units("mm", "sec")
    library.save(nifti, path)


def rare_indices(subjects: int, seed: int, rare_share: float = 0.05) -> frozenset[int]:
    """Return which of the subjects 1..n of a cohort are rare: the share rounded, at least one."""
    count = min(subjects, max(1, round(rare_share * subjects)))
    chosen = np.random.default_rng([seed, 0, 2]).choice(subjects, size=count, replace=False)
    return frozenset(int(i) + 1 for i in chosen)


def write_cohort(
    folder: Path, subjects: int, seed: int, rare_share: float = 0.05, sequences: tuple[str, ...] = ("T1",)
) -> list[CohortEntry]:
    """Write a cohort of phantoms at 2 mm: ``images/``, ``labels/`` and ``participants.tsv``.

    The files come in assorted orientations and types (int16 or float32 images), as real collections do.
    In ``participants.tsv``, ``enlarged`` is 1 for a rare subject and 0 for an ordinary one.

    Args:
        folder: Where to write; made if it does not exist.
        subjects: How many, at least 1.
        seed: The cohort's seed, not negative.
        rare_share: Share of subjects with enlarged ventricles, 0 to 1; at least one is.
        sequences: What every head is shown by, one file each; every further one is stored in the next orientation.

    Returns:
        One entry per subject, in order.

    Raises:
        UsageError: An argument is out of range.
    """
    if subjects < 1 or seed < 0 or not 0 <= rare_share <= 1:
        raise UsageError(
            f"a cohort needs at least 1 subject, seed >= 0 and a rare share of 0 to 1; got {subjects} subjects, "
            f"seed {seed}, rare share {rare_share}; choose values in these ranges"
        )
    (folder / "images").mkdir(parents=True, exist_ok=True)
    (folder / "labels").mkdir(parents=True, exist_ok=True)
    rare = rare_indices(subjects, seed, rare_share)
    entries = []
    for index in range(1, subjects + 1):
        orientation = ORIENTATIONS[(index - 1) % len(ORIENTATIONS)]
        subject = _build(seed, index, index in rare, 2.0, orientation == "oblique", sequences)
        image_path = folder / "images" / f"{subject.name}_{sequences[0]}.nii.gz"
        label_path = folder / "labels" / f"{subject.name}_seg.nii.gz"
        for number, (sequence, values) in enumerate(subject.images.items()):
            image = np.rint(values).astype(np.int16) if index % 3 == 0 else values
            stored = ORIENTATIONS[(index - 1 + number) % len(ORIENTATIONS)]
            _store(image, subject.affine, stored, folder / "images" / f"{subject.name}_{sequence}.nii.gz")
        _store(subject.label, subject.affine, orientation, label_path)
        entries.append(
            CohortEntry(
                subject.name, subject.rare, orientation, subject.ventricle_percent_brain, image_path, label_path
            )
        )
    with (folder / "participants.tsv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, delimiter="\t", lineterminator="\n")
        writer.writerow(["participant_id", "ventricle_percent_brain", "enlarged"])
        writer.writerows([e.name, f"{e.ventricle_percent_brain:.3f}", int(e.rare)] for e in entries)
    return entries
