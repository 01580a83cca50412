"""The shapes of a phantom head: signed distances (millimetres, negative inside), ventricles that grow, a folded cortex.

All of them are formulas of the head coordinate (right, anterior, superior; origin near the anterior commissure).
"""

import itertools
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
Fields = tuple[F32, F32, F32]

TYPICAL_SHARE: Final = 0.02
"""Ventricle volume as a share of the brain (grey + white + ventricles) where ``ventricle_scale`` is 1."""

PUSH_REACH_MM: Final = 28.0

FOLD_STEP_MM: Final = 2.5
FOLD_START_MM: Final = (-85.0, -125.0, -65.0)
FOLD_SHAPE: Final = (69, 86, 66)
"""A grid in the head frame that holds every brain; the field of the folds is tabulated on it."""

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


@dataclass(frozen=True)
class Waves:
    """A smooth random field of unit variance: a sum of plane waves, so it can be evaluated on any grid.

    Args:
        vectors: float64 (N, 3), radians per millimetre.
        phases: float64 (N,), radians.
    """

    vectors: F64
    phases: F64

    @staticmethod
    def draw(rng: np.random.Generator, count: int, shortest_mm: float, longest_mm: float) -> "Waves":
        """Draw `count` waves of random direction, with wavelengths (mm) between the two given."""
        direction = rng.standard_normal((count, 3))
        direction /= np.linalg.norm(direction, axis=1, keepdims=True)
        wavelength = rng.uniform(shortest_mm, longest_mm, (count, 1))
        return Waves(direction * (2 * np.pi / wavelength), rng.uniform(0, 2 * np.pi, count))

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
class Traits:
    """What distinguishes one head from another, drawn once per (seed, index)."""

    origin_mm: F64  # (3,) where the scanner put the world origin, relative to the grid
    pose: F64  # (4, 4) grid-centred millimetres -> head frame
    atrophy: float
    ventricle_scale: float
    side: float  # left-right difference of the ventricles, within +-0.08
    gain: float  # scanner units per white matter
    noise: float  # noise sigma, white matter = 1
    warps: tuple[Waves, ...]  # displacements along x, y, z
    bias: Waves
    texture: Waves
    folds: Waves


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


def soft_min(a: F32, b: F32, width: float) -> F32:
    """Union of two shapes (signed distances), rounded over `width` millimetres where they meet."""
    overlap = np.maximum(width - np.abs(a - b), 0)
    rounded: F32 = np.minimum(a, b) - overlap * overlap * np.float32(0.25 / width)
    return rounded


def ellipsoid(
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


def chain(
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
        total = tube if total is None else soft_min(total, tube, width)
    assert total is not None
    return total


@dataclass(frozen=True)
class Ventricles:
    """The ventricles and the displacement of the tissue around them, on a box of the grid.

    Args:
        box: Slices of the full grid.
        distance: float32, signed distance to the ventricles' wall, millimetres.
        pushed: Coordinates at which the tissue around the ventricles is to be looked up.
    """

    box: tuple[slice, slice, slice]
    distance: F32
    pushed: Fields


def grow_ventricles(p: Fields, brain: F32, to_head: F64, traits: Traits) -> Ventricles:
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
    lateral = soft_min(chain(half, LATERAL_CHAINS[0], tall=1.25), chain(half, LATERAL_CHAINS[1]), 3.0)
    lateral += np.float32(8 * traits.side) * np.tanh(x / 8)  # one side a little larger
    third = ellipsoid((x, y, z), (0, -12, 0), (1.7, 13, 10))
    fourth = ellipsoid((x, y, z), (0, -44, -32), (6, 4, 9))
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
    return Ventricles(box, np.maximum(wall - np.float32(t), septum), pushed)


def folding(p: Fields, hull: F32, traits: Traits, lobe: F32) -> F32:
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
