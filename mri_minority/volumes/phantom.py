"""A procedural cohort of brain-like T1 volumes with labels: something to try everything on without a patient.

Nothing here is measured on anybody. A head is a set of signed distances (ellipsoids, tubes, sheets; negative inside),
evaluated in a head frame with millimetre-like axes (right, anterior, superior; origin near the anterior commissure)
and painted from the outside in: scalp, skull, fluid, folded cortex, white matter, deep grey matter, ventricles.
Because everything is a formula of the world coordinate, any voxel grid sees the same anatomy: nothing is resampled.

A *rare* subject differs in one thing: its ventricles have 2.2 to 3.5 times the typical volume. They grow by an offset
of their distance field, and the tissue around them is displaced outwards by the same offset, fading with distance.
"""

import csv
import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import nibabel as nib
import numpy as np
import numpy.typing as npt

from mri_minority.core.errors import UsageError

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
Fields = tuple[F32, F32, F32]

LABELS: Final = {"grey_matter": 1, "white_matter": 2, "ventricles": 3}
"""Label values of the phantom's label maps; 0 is everything else (fluid around the brain, skull, scalp, air)."""

ORIENTATIONS: Final = ("RAS", "LAS", "LPS", "PSR", "oblique")
"""Storage orientations that a written cohort cycles through; the last is RAS tilted by a few degrees."""

_AXES: Final = {"R": (0, 1), "L": (0, -1), "A": (1, 1), "P": (1, -1), "S": (2, 1), "I": (2, -1)}

FIELD_OF_VIEW_MM: Final = (192.0, 224.0, 168.0)
CENTRE_MM: Final = (0.0, -16.0, 10.0)
TYPICAL_SHARE: Final = 0.02
"""Ventricle volume as a share of the brain (grey + white + ventricles) where ``ventricle_scale`` is 1."""

ORDINARY_SCALES: Final = (0.62, 1.6)
RARE_SCALES: Final = (2.2, 3.5)
PUSH_REACH_MM: Final = 28.0

FOLD_STEP_MM: Final = 2.5
FOLD_START_MM: Final = (-85.0, -125.0, -65.0)
FOLD_SHAPE: Final = (69, 86, 66)
"""A grid in the head frame that holds every brain; the field of the folds is tabulated on it."""

# T1 intensities, white matter = 1.
AIR, SKULL, MARROW, FAT, MUSCLE, FLUID, GREY, WHITE = 0.015, 0.07, 0.34, 1.08, 0.50, 0.17, 0.62, 1.0

# One lateral ventricle, |x| side: chains of (x, y, z, radius) in the head frame.
LATERAL_CHAINS: Final = (
    # frontal horn, body, atrium, occipital horn
    (
        (18, 32, 1, 2.6), (12, 24, 7, 4.4), (7.5, 8, 14, 4.2), (9.5, -10, 20, 4.0), (15, -26, 21, 4.6),
        (24, -40, 13, 6.0), (26, -54, 7, 4.2), (23, -69, 4, 2.6),
    ),
    # inferior horn
    ((24, -40, 13, 5.0), (34, -35, -2, 2.8), (36, -22, -13, 2.4), (32, -8, -20, 2.0)),
)  # fmt: skip

# Deep grey matter, |x| side: ellipsoids (centre, half axes, intensity), and the caudate and hippocampus as chains.
DEEP_NUCLEI: Final = (
    ((11.5, -18.0, 7.0), (9.0, 15.0, 9.5), 0.76),  # thalamus
    ((27.0, 3.0, 3.0), (6.0, 18.0, 11.5), 0.68),  # putamen
    ((19.5, -3.0, 0.0), (4.5, 9.5, 6.5), 0.84),  # pallidum
    ((24.0, -3.0, -20.0), (7.0, 7.5, 7.0), 0.62),  # amygdala
)
CAUDATE: Final = ((11, 19, -2, 4.5), (15, 18, 8, 5.0), (17, 3, 17, 3.6), (19, -14, 21, 2.6), (23, -24, 19, 1.6))
HIPPOCAMPUS: Final = ((26, -10, -19, 4.0), (29, -22, -14, 3.8), (25, -36, -3, 2.6))
BRAINSTEM: Final = ((0, -20, -6, 14.0), (0, -24, -31, 14.0), (0, -40, -66, 7.5))


@dataclass(frozen=True)
class PhantomSubject:
    """One phantom head.

    Args:
        name: ``phantom-001`` for index 1.
        rare: Whether the ventricles are enlarged.
        image: float32 (X, Y, Z), T1-like intensity in arbitrary scanner units, not negative.
        label: uint8 (X, Y, Z), see ``LABELS``.
        affine: float64 (4, 4), voxel index -> RAS+ world coordinate in millimetres.
        ventricle_scale: Intended ventricle volume relative to a typical one (1 = 2 % of the brain).
        ventricle_percent_brain: Volume of the ventricle label, in percent of the three labels together.
        atrophy: 0 (narrow sulci, thick cortex) to 1 (wide sulci, thin cortex).
    """

    name: str
    rare: bool
    image: npt.NDArray[np.float32]
    label: npt.NDArray[np.uint8]
    affine: npt.NDArray[np.float64]
    ventricle_scale: float
    ventricle_percent_brain: float
    atrophy: float


@dataclass(frozen=True)
class CohortEntry:
    """One written phantom: where it is and what is known about it.

    Args:
        name: Participant id, ``phantom-001``.
        rare: Whether the ventricles are enlarged.
        orientation: One of ``ORIENTATIONS``.
        ventricle_percent_brain: Volume of the ventricle label, in percent of the three labels together.
        image_path: The T1 NIfTI file.
        label_path: The label NIfTI file, same shape and affine.
    """

    name: str
    rare: bool
    orientation: str
    ventricle_percent_brain: float
    image_path: Path
    label_path: Path


@dataclass(frozen=True)
class _Waves:
    """A smooth random field of unit variance: a sum of plane waves, so it can be evaluated on any grid.

    Args:
        vectors: float64 (N, 3), radians per millimetre.
        phases: float64 (N,), radians.
    """

    vectors: F64
    phases: F64

    @staticmethod
    def draw(rng: np.random.Generator, count: int, shortest_mm: float, longest_mm: float) -> "_Waves":
        """Draw `count` waves of random direction, with wavelengths (mm) between the two given."""
        direction = rng.standard_normal((count, 3))
        direction /= np.linalg.norm(direction, axis=1, keepdims=True)
        wavelength = rng.uniform(shortest_mm, longest_mm, (count, 1))
        return _Waves(direction * (2 * np.pi / wavelength), rng.uniform(0, 2 * np.pi, count))

    def on_grid(self, affine: F64, shape: tuple[int, ...]) -> F32:
        """Evaluate on a voxel grid; a plane wave is a product over the axes of any grid, so two matrix products do.

        Args:
            affine: (4, 4), voxel index -> millimetres.
            shape: (X, Y, Z).

        Returns:
            float32 (X, Y, Z).
        """
        per_voxel = self.vectors @ affine[:3, :3]
        start = self.phases + self.vectors @ affine[:3, 3]
        x, y, z = (np.exp(1j * per_voxel[:, [a]] * np.arange(shape[a])) for a in range(3))
        plane = ((x * np.exp(1j * start)[:, None])[:, :, None] * y[:, None, :]).reshape(len(start), -1)
        # In float64, so that the order of summation (it depends on the threads) does not reach a float32 result.
        field = np.concatenate([plane.real, -plane.imag]).T @ np.concatenate([z.real, z.imag])
        unit_variance: F32 = (field * np.sqrt(2 / len(start))).astype(np.float32)
        return unit_variance.reshape(shape)

    def sheet_distance(self, points: F32) -> F32:
        """Return the approximate distance to the field's zero set, |n| / |grad n|: curved sheets, like sulci.

        Args:
            points: float32 (P, 3), millimetres.

        Returns:
            float32 (P,), millimetres.
        """
        affine = np.diag([FOLD_STEP_MM, FOLD_STEP_MM, FOLD_STEP_MM, 1.0])
        affine[:3, 3] = FOLD_START_MM
        field = self.on_grid(affine, FOLD_SHAPE)
        slopes = np.gradient(field, np.float32(FOLD_STEP_MM))
        # Where the field is flat the quotient would explode; a floor keeps the sheets apart there.
        floor = np.float32(0.3 * np.mean(np.sum(self.vectors**2, axis=1)))
        signed = field / np.sqrt(slopes[0] ** 2 + slopes[1] ** 2 + slopes[2] ** 2 + floor)
        return np.abs(_interpolate(signed, (points - np.array(FOLD_START_MM, np.float32)) / np.float32(FOLD_STEP_MM)))


@dataclass(frozen=True)
class _Traits:
    """What distinguishes one head from another, drawn once per (seed, index)."""

    origin_mm: F64  # (3,) where the scanner put the world origin, relative to the grid
    pose: F64  # (4, 4) grid-centred millimetres -> head frame
    atrophy: float
    ventricle_scale: float
    side: float  # left-right difference of the ventricles, within +-0.08
    gain: float  # scanner units per white matter
    noise: float  # noise sigma, white matter = 1
    warps: tuple[_Waves, ...]  # displacements along x, y, z
    bias: _Waves
    texture: _Waves
    folds: _Waves


def _draw_traits(seed: int, index: int, rare: bool) -> _Traits:
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
    return _Traits(
        origin_mm=rng.uniform(-12, 12, 3),
        pose=pose,
        atrophy=atrophy,
        ventricle_scale=enlarged if rare else ordinary,
        side=0.04 * float(normal[11]),
        gain=float(rng.uniform(550, 1400)),
        noise=float(rng.uniform(0.018, 0.04)),
        warps=tuple(_Waves.draw(rng, 10, 70, 160) for _ in range(3)),
        bias=_Waves.draw(rng, 6, 220, 420),
        texture=_Waves.draw(rng, 24, 14, 40),
        folds=_Waves.draw(rng, 32, 16, 25),
    )


def _interpolate(field: F32, at: F32) -> F32:
    """Trilinear interpolation.

    Args:
        field: float32 (X, Y, Z).
        at: float32 (P, 3), voxel coordinates; outside the grid the nearest cell is continued.

    Returns:
        float32 (P,).
    """
    base = np.clip(at, 0, np.array(field.shape, np.float32) - 2).astype(np.int32)
    x, y, z = (at - base.astype(np.float32)).T
    row, plane = field.shape[2], field.shape[1] * field.shape[2]
    first = base[:, 0] * plane + base[:, 1] * row + base[:, 2]
    flat = field.ravel()

    def along_z(start: npt.NDArray[np.int32]) -> F32:
        near = flat.take(start)
        mixed: F32 = near + z * (flat.take(start + 1) - near)
        return mixed

    def along_y(start: npt.NDArray[np.int32]) -> F32:
        near = along_z(start)
        mixed: F32 = near + y * (along_z(start + row) - near)
        return mixed

    front = along_y(first)
    result: F32 = front + x * (along_y(first + plane) - front)
    return result


def _soft_min(a: F32, b: F32, width: float) -> F32:
    """Union of two shapes (signed distances), rounded over `width` millimetres where they meet."""
    overlap = np.maximum(width - np.abs(a - b), 0)
    rounded: F32 = np.minimum(a, b) - overlap * overlap * np.float32(0.25 / width)
    return rounded


def _ellipsoid(
    p: Fields, centre: tuple[float, float, float], axes: tuple[float, float, float], below: float | None = None
) -> F32:
    """Approximate signed distance to an ellipsoid, k(k - 1) / |grad k|; `below` is the half axis under the centre."""
    u, v, w = ((c - np.float32(m)) / np.float32(r) for c, m, r in zip(p, centre, axes, strict=True))
    inverse_z: F32 | np.float32 = np.float32(1 / axes[2])
    if below is not None:
        w = np.where(w < 0, w * np.float32(axes[2] / below), w)
        inverse_z = np.where(w < 0, np.float32(1 / below), inverse_z)
    uu, vv, ww = u * u, v * v, w * w
    k = np.sqrt(uu + vv + ww)
    slope = np.sqrt(uu * np.float32(axes[0] ** -2) + vv * np.float32(axes[1] ** -2) + ww * (inverse_z * inverse_z))
    distance: F32 = k * (k - 1) / (slope + np.float32(1e-4))
    return distance


def _chain(
    p: Fields, nodes: tuple[tuple[float, float, float, float], ...], width: float = 2.0, tall: float = 1.0
) -> F32:
    """Signed distance to a chain of tapering tubes.

    Args:
        p: Coordinates, millimetres.
        nodes: (x, y, z, radius) of every joint, millimetres.
        width: Rounding between neighbours, millimetres.
        tall: Cross-sections are this many times as high (z) as they are wide.

    Returns:
        float32 like the coordinates, millimetres.
    """
    x, y, z = p[0], p[1], p[2] / np.float32(tall)
    total: F32 | None = None
    for (x0, y0, z0, r0), (x1, y1, z1, r1) in itertools.pairwise(nodes):
        ax, ay, az = x1 - x0, y1 - y0, (z1 - z0) / tall
        dx, dy, dz = x - np.float32(x0), y - np.float32(y0), z - np.float32(z0 / tall)
        length2 = ax * ax + ay * ay + az * az
        t = np.clip(dx * np.float32(ax / length2) + dy * np.float32(ay / length2) + dz * np.float32(az / length2), 0, 1)
        dx, dy, dz = dx - t * np.float32(ax), dy - t * np.float32(ay), dz - t * np.float32(az)
        tube: F32 = np.sqrt(dx * dx + dy * dy + dz * dz) - (np.float32(r0) + t * np.float32(r1 - r0))
        total = tube if total is None else _soft_min(total, tube, width)
    assert total is not None
    return total


def _coordinates(affine: F64, shape: tuple[int, ...], traits: _Traits) -> Fields:
    """Head-frame coordinates (mm) of every voxel: the subject's pose and size, then a smooth deformation."""
    to_head = traits.pose @ affine
    i, j, k = (np.arange(n, dtype=np.float32) for n in shape)
    fields = []
    for row, warp in zip(to_head[:3].astype(np.float32), traits.warps, strict=True):
        field = warp.on_grid(affine, shape)
        field *= np.float32(1.5)
        field += (row[0] * i + row[3])[:, None, None] + (row[1] * j)[:, None] + row[2] * k
        fields.append(field)
    return fields[0], fields[1], fields[2]


@dataclass(frozen=True)
class _Ventricles:
    """The ventricles and the displacement of the tissue around them, on a box of the grid.

    Args:
        box: Slices of the full grid.
        distance: float32, signed distance to the ventricles' wall, millimetres.
        pushed: Coordinates at which the tissue around the ventricles is to be looked up.
    """

    box: tuple[slice, slice, slice]
    distance: F32
    pushed: Fields


def _grow_ventricles(p: Fields, brain: F32, to_head: F64, traits: _Traits) -> _Ventricles:
    """Give the ventricles their volume, and move the tissue around them out of the way.

    With d the distance to the undilated wall, the wall moves to d = t, where t is the order statistic of d that
    gives the intended volume. Tissue now at d came from d - t (R - d) / (R - t), with R the reach of the push.

    Args:
        p: Head coordinates (X, Y, Z), millimetres.
        brain: float32 (X, Y, Z), signed distance to the brain's outer surface, millimetres.
        to_head: (4, 4), voxel index -> head frame.
        traits: The subject.

    Returns:
        The ventricles.
    """
    near = (np.abs(p[0]) < 60) & (p[1] > -94) & (p[1] < 56) & (p[2] > -56) & (p[2] < 50)
    spans = [np.flatnonzero(near.any(axis=tuple(b for b in range(3) if b != a))) for a in range(3)]
    box = (
        slice(int(spans[0][0]), int(spans[0][-1]) + 1),
        slice(int(spans[1][0]), int(spans[1][-1]) + 1),
        slice(int(spans[2][0]), int(spans[2][-1]) + 1),
    )
    x, y, z = p[0][box], p[1][box], p[2][box]
    half: Fields = (np.abs(x), y, z)
    lateral = _soft_min(_chain(half, LATERAL_CHAINS[0], tall=1.25), _chain(half, LATERAL_CHAINS[1]), 3.0)
    lateral += np.float32(8 * traits.side) * np.tanh(x / 8)  # one side a little larger
    third = _ellipsoid((x, y, z), (0, -12, 0), (1.7, 13, 10))
    fourth = _ellipsoid((x, y, z), (0, -44, -32), (6, 4, 9))
    wall = np.minimum(lateral, np.minimum(third + 0.3, fourth + 0.5))
    septum = np.where(lateral < third, 1.1 - np.abs(x), -9).astype(np.float32)

    volume = TYPICAL_SHARE * traits.ventricle_scale * (0.945 - 0.165 * traits.atrophy) * np.count_nonzero(brain < 0)
    candidates = wall[septum < 0]
    t = float(np.partition(candidates, int(volume))[int(volume)])

    index_slopes = np.gradient(wall)
    to_index = np.linalg.inv(to_head[:3, :3]).T.astype(np.float32)
    slopes = [sum(to_index[a, b] * index_slopes[b] for b in range(3)) for a in range(3)]
    norm = np.sqrt(slopes[0] ** 2 + slopes[1] ** 2 + slopes[2] ** 2) + np.float32(1e-3)
    shift = t * np.clip((PUSH_REACH_MM - wall) / (PUSH_REACH_MM - t), 0, 1) / norm
    pushed = (x - shift * slopes[0], y - shift * slopes[1], z - shift * slopes[2])
    return _Ventricles(box, np.maximum(wall - np.float32(t), septum), pushed)


def _folding(p: Fields, hull: F32, traits: _Traits, lobe: F32) -> F32:
    """Signed distance to the pial surface: the hull, cut by the fissures and by sulci.

    Sulci are the zero sheets of a random field taken at each point's projection onto the hull, so they stand
    perpendicular to the surface; they end at a depth that varies over the brain.

    Args:
        p: Head coordinates (P,) each, millimetres.
        hull: float32 (P,), signed distance to the smooth hull of the cerebrum, millimetres.
        traits: The subject.
        lobe: float32 (P,), a smooth field of unit variance that varies the depth of the sulci.

    Returns:
        float32 (P,), millimetres, negative in the tissue.
    """
    x, y, z = p
    side = np.abs(x)
    # Interhemispheric fissure: the plane x = 0 outside the callosum's outline in the sagittal plane.
    core = np.sqrt(((y + 4) / 39) ** 2 + ((z - 5) / np.where(z > 5, 25, 26).astype(np.float32)) ** 2)
    into_core = np.maximum(1 - core, 0) * np.float32(60)
    fissure = np.sqrt(x * x + into_core * into_core)
    # Sylvian fissure: a slanted sheet from the side, ending in the wall over the insula.
    dz = (z + 12 + 0.56 * (y - 20)) * np.float32(0.87) + 1.5 * lobe
    ends = np.maximum(y - 24, 0) ** 2 + np.maximum(-38 - y, 0) ** 2
    opening = np.sqrt(dz * dz + np.maximum(39 - side, 0) ** 2 + ends)
    insula = np.sqrt((side - 40) ** 2 + np.maximum(np.abs(dz) - 10, 0) ** 2 + np.maximum(-18 - y, 0) ** 2 + ends)
    sylvian = np.minimum(opening, insula)

    depth = np.minimum(-hull, fissure)
    deepest = 14.5 + 2.5 * lobe
    shell = np.flatnonzero((depth < deepest + 5) & (hull < 4))
    sx, sy, sz, sside = x[shell], y[shell], z[shell], side[shell]
    temporal = (sz + 12 + 0.56 * (sy - 20) < 0) & (sy > -48) & (sside > 18)
    ox = sx - np.sign(sx) * np.where(temporal, 44, 24).astype(np.float32)
    oy = sy - np.where(temporal, np.clip(sy, -45, 8), np.clip(sy, -66, 32)).astype(np.float32)
    oz = sz - np.where(temporal, -22, 18).astype(np.float32)
    outward = np.maximum(depth[shell], 0) / np.sqrt(ox * ox + oy * oy + oz * oz + 1)
    surface = np.stack([sx + outward * ox, sy + outward * oy, sz + outward * oz], axis=1)
    sheet = traits.folds.sheet_distance(surface)
    beyond = np.maximum(depth[shell] - deepest[shell], 0)
    sulcus = np.full_like(hull, 99)
    sulcus[shell] = np.sqrt(sheet * sheet + beyond * beyond)

    a = np.float32(traits.atrophy)
    cut = np.minimum(sulcus - (0.25 + 1.0 * a), fissure - (0.6 + 0.7 * a))
    cut = np.minimum(cut, sylvian - (0.5 + 1.5 * a))
    pial: F32 = np.maximum(hull, -cut)
    return pial


def _ramp(distance: F32, width: float) -> F32:
    """Partial volume: 1 inside, 0 outside, linear over `width` millimetres across the surface."""
    share: F32 = np.clip(np.float32(0.5) - distance * np.float32(1 / width), 0, 1)
    return share


def _paint(image: F32, share: F32, value: float | F32) -> None:
    """Mix `value` into `image`, in place."""
    image += share * (value - image)


def _slab(z: F32, limit: float) -> tuple[slice, slice, slice]:
    """The lower part of the grid, up to the last layer with a voxel under `limit` (mm)."""
    layers = max(1, int(np.count_nonzero(z.min(axis=(0, 1)) < limit)))
    return slice(None), slice(None), slice(layers)


def _paint_head(p: Fields, skull: F32, texture: F32, blur: float) -> F32:
    """Paint everything outside the brain: air, scalp, muscle and fat, eyes, skull with marrow, fluid.

    Args:
        p: Head coordinates (X, Y, Z), millimetres.
        skull: float32 (X, Y, Z), signed distance to the inside of the skull, millimetres.
        texture: float32 (X, Y, Z), a smooth random field of unit variance.
        blur: Width of partial volume, millimetres.

    Returns:
        float32 (X, Y, Z), white matter = 1.
    """
    thick = np.float32(6.0) + np.float32(0.5) * texture
    low = _slab(p[2], 20)
    x, y, z = (field[low] for field in p)
    side = np.abs(x)
    skin = skull - thick - np.float32(5.5)
    face = _ellipsoid((x, y - 4, np.minimum(z + 12, 0) * np.float32(0.35)), (0, -8, 0), (68, 92, 60))
    skin[low] = _soft_min(skin[low], face + np.maximum(z + 12, 0), 16.0)
    image = np.full(skull.shape, AIR, np.float32)
    _paint(image, _ramp(skin, blur), FAT * 0.93)
    _paint(image, _ramp(skin + 2.0, blur), FAT)
    # Below the skull base: muscle with fat between; the temporal muscle; orbits with eyes; the nasal cavity.
    _paint(image[low], _ramp(z + 8, 8) * _ramp(skin[low] + 5.5, 3.0), MUSCLE + 0.12 * texture[low])
    temporal_muscle = _ellipsoid((side, y, z), (72, 8, -12), (8, 26, 30))
    _paint(image[low], _ramp(temporal_muscle, 3.0) * _ramp(skin[low] + 3.5, 2.0), MUSCLE)
    _paint(image, _ramp(skull - thick, blur), SKULL)
    marrow = np.clip(1 - np.abs(skull - 0.5 * thick) / 1.6, 0, 1) * np.clip(0.7 + 0.5 * texture, 0, 1)
    _paint(image, marrow, MARROW)
    front = (slice(None), slice(int(np.flatnonzero((y > 30).any(axis=(0, 2)))[0]), None), _slab(p[2], -8)[2])
    x, y, z = (field[front] for field in p)
    side = np.abs(x)
    orbit = np.maximum(_ellipsoid((side, y, z), (31, 56, -33), (17, 26, 16)), 2.0 - skull[front])
    _paint(image[front], _ramp(orbit, blur), FAT * 0.95)
    _paint(image[front], _ramp(_ellipsoid((side, y, z), (31, 67, -34), (12, 12, 12)), blur), 0.22)
    _paint(image[front], _ramp(_ellipsoid((x, y, z), (0, 62, -42), (13, 22, 17)), blur), AIR)
    _paint(image, _ramp(skull, blur), FLUID)
    return image


def _synthesise(traits: _Traits, affine: F64, shape: tuple[int, ...]) -> tuple[F32, npt.NDArray[np.uint8]]:
    """Evaluate one head on one grid.

    Args:
        traits: The subject.
        affine: float64 (4, 4), voxel index -> grid-centred millimetres.
        shape: (X, Y, Z).

    Returns:
        Noise-free image float32 (X, Y, Z), white matter = 1, and label uint8 (X, Y, Z).
    """
    blur = max(1.6, float(np.cbrt(abs(np.linalg.det(affine[:3, :3])))))
    p = _coordinates(affine, shape, traits)
    texture = traits.texture.on_grid(affine, shape)
    low = _slab(p[2], 18)
    half: Fields = (np.abs(p[0][low]), p[1][low], p[2][low])
    cerebrum = _ellipsoid(p, (0, -17, 12), (67, 87, 64), below=38)
    cerebrum[low] = _soft_min(cerebrum[low], _ellipsoid(half, (43, -13, -19), (22, 37, 21)), 5.0)
    cerebellum, stem = np.full(shape, 99, np.float32), np.full(shape, 99, np.float32)
    cerebellum[low] = _ellipsoid(half, (21, -66, -36), (30, 27, 22))
    stem[low] = _chain(half, BRAINSTEM)
    skull = cerebrum - np.float32(1.2 + 2.2 * traits.atrophy)
    skull[low] += _soft_min(cerebrum[low], cerebellum[low], 30.0) - cerebrum[low]
    image = _paint_head(p, skull, texture, blur)

    ventricles = _grow_ventricles(p, np.minimum(cerebrum, cerebellum), traits.pose @ affine, traits)
    wall = np.full(shape, 99, np.float32)
    wall[ventricles.box] = ventricles.distance
    for field, pushed in zip(p, ventricles.pushed, strict=True):
        field[ventricles.box] = pushed

    inside = np.flatnonzero(np.minimum(skull, stem) < 1)
    at = [field.ravel()[inside] for field in (*p, cerebrum, cerebellum, stem, wall, texture)]
    tissue, brain_label = _brain(
        (at[0], at[1], at[2]), at[3], at[4], at[5], at[6], at[7], image.ravel()[inside], traits, blur
    )
    image.ravel()[inside] = tissue
    label = np.zeros(shape, np.uint8)
    label.ravel()[inside] = brain_label
    _line_ventricles(label)
    return image, label


def _brain(
    p: Fields,
    cerebrum: F32,
    cerebellum: F32,
    stem: F32,
    wall: F32,
    texture: F32,
    image: F32,
    traits: _Traits,
    blur: float,
) -> tuple[F32, npt.NDArray[np.uint8]]:
    """Paint and label the tissue inside the skull.

    Args:
        p: Head coordinates (P,) each, after the push of the ventricles, millimetres.
        cerebrum: float32 (P,), signed distance to the hull of the cerebrum, millimetres; so the next three.
        cerebellum: The cerebellum.
        stem: The brainstem.
        wall: The ventricles.
        texture: float32 (P,), a smooth random field of unit variance.
        image: float32 (P,), what is painted so far.
        traits: The subject.
        blur: Width of partial volume, millimetres.

    Returns:
        Image float32 (P,) and label uint8 (P,).
    """
    half: Fields = (np.abs(p[0]), p[1], p[2])
    ribbon = np.float32(3.3 - 0.5 * traits.atrophy)
    pial = _folding(p, cerebrum, traits, texture)
    pial = np.where(wall < 5, np.minimum(pial, wall - 5 - ribbon), pial)  # white matter between ventricles and sulci
    white = np.maximum(pial + ribbon, cerebrum + 2)

    # Cerebellum: below the tentorium, with folia across and a branching white core.
    below = np.maximum(cerebellum, 2.0 - cerebrum)
    angle = np.arctan2(p[2] + 34, -(p[1] + 42)) * np.float32(26)
    folia = np.abs(np.sin((angle + 2.5 * texture) * np.float32(np.pi / 7))) * np.float32(7 / np.pi)
    branches = np.maximum(below + 4.5, 1.5 - folia)
    cerebellar_white = np.minimum(np.maximum(below + 11, 0.3 - folia), branches)
    cerebellar_grey = np.maximum(below, np.float32(0.2 + 0.5 * traits.atrophy) - folia - np.maximum(-below - 4, 0))

    grey, value = np.minimum(pial, cerebellar_grey), np.full_like(image, GREY)
    white = np.minimum(white, np.minimum(cerebellar_white, stem))
    _paint(image, _ramp(grey, blur), value + 0.02 * texture)
    _paint(image, _ramp(white, blur), WHITE + 0.025 * texture)

    deep = np.full_like(image, 99)
    shapes = [(_ellipsoid(half, centre, axes), level) for centre, axes, level in DEEP_NUCLEI]
    shapes += [(_chain(half, CAUDATE), 0.66), (_chain(half, HIPPOCAMPUS), GREY)]
    for distance, level in shapes:
        _paint(image, _ramp(distance, blur * 1.2), level + 0.015 * texture)
        deep = np.minimum(deep, distance)
    _paint(image, _ramp(wall, blur), FLUID * 0.9)

    label = np.where(grey < 0, 1, 0).astype(np.uint8)
    label[white < 0] = 2
    label[deep < 0] = 1
    label[wall < 0] = 3
    return image, label


def _line_ventricles(label: npt.NDArray[np.uint8]) -> None:
    """Make background voxels that touch a ventricle white matter, in place: ventricles are lined by brain."""
    inside = label == LABELS["ventricles"]
    touched = np.zeros_like(inside)
    for axis in range(3):
        ahead = tuple(slice(1, None) if a == axis else slice(None) for a in range(3))
        behind = tuple(slice(None, -1) if a == axis else slice(None) for a in range(3))
        touched[ahead] |= inside[behind]
        touched[behind] |= inside[ahead]
    label[touched & (label == 0)] = LABELS["white_matter"]


def _build(seed: int, index: int, rare: bool, spacing_mm: float, tilted: bool) -> PhantomSubject:
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
    image, label = _synthesise(traits, local, shape)

    rng = np.random.default_rng([seed, index, 1])
    image *= 1 + np.float32(0.09) * traits.bias.on_grid(local, shape)
    image += np.float32(traits.noise) * rng.standard_normal(shape, dtype=np.float32)
    other = np.float32(traits.noise) * rng.standard_normal(shape, dtype=np.float32)
    image = np.sqrt(image * image + other * other) * np.float32(traits.gain)

    affine = local.copy()
    affine[:3, 3] += traits.origin_mm
    counts = np.bincount(label.ravel(), minlength=4)
    return PhantomSubject(
        name=f"phantom-{index:03d}",
        rare=rare,
        image=image,
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


def write_cohort(folder: Path, subjects: int, seed: int, rare_share: float = 0.05) -> list[CohortEntry]:
    """Write a cohort of phantoms at 2 mm: ``images/``, ``labels/`` and ``participants.tsv``.

    The files come in assorted orientations and types (int16 or float32 images), as real collections do.
    In ``participants.tsv``, ``enlarged`` is 1 for a rare subject and 0 for an ordinary one.

    Args:
        folder: Where to write; made if it does not exist.
        subjects: How many, at least 1.
        seed: The cohort's seed, not negative.
        rare_share: Share of subjects with enlarged ventricles, 0 to 1; at least one is.

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
        subject = _build(seed, index, index in rare, 2.0, tilted=orientation == "oblique")
        image_path = folder / "images" / f"{subject.name}_T1.nii.gz"
        label_path = folder / "labels" / f"{subject.name}_seg.nii.gz"
        image = np.rint(subject.image).astype(np.int16) if index % 3 == 0 else subject.image
        _store(image, subject.affine, orientation, image_path)
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
