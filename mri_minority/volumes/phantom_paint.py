"""The tissue of a phantom head, painted from the outside in: scalp, skull, fluid, cortex, white matter, deep nuclei."""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from mri_minority.volumes.phantom_shapes import (
    F32,
    F64,
    Fields,
    Traits,
    chain,
    ellipsoid,
    folding,
    grow_ventricles,
    soft_min,
)

LABELS: Final = {"grey_matter": 1, "white_matter": 2, "ventricles": 3}
"""Label values of the phantom's label maps; 0 is everything else (fluid around the brain, skull, scalp, air)."""


@dataclass(frozen=True)
class Contrast:
    """How bright tissue is in a sequence, white matter = 1; `deep` in the order of the nuclei, caudate, hippocampus."""

    air: float
    skull: float
    marrow: float
    fat: float
    muscle: float
    eye: float
    fluid: float
    grey: float
    white: float
    deep: tuple[float, float, float, float, float, float]


CONTRASTS: Final = {
    "T1": Contrast(0.015, 0.07, 0.34, 1.08, 0.50, 0.22, 0.17, 0.62, 1.0, (0.76, 0.68, 0.84, 0.62, 0.66, 0.62)),
    "FLAIR": Contrast(0.015, 0.06, 0.30, 0.95, 0.48, 0.16, 0.13, 1.28, 1.0, (1.15, 1.18, 0.82, 1.34, 1.22, 1.36)),
}
"""Sequence -> its contrast."""

# Deep grey matter, |x| side: ellipsoids (centre, half axes), and the caudate and hippocampus as chains.
DEEP_NUCLEI: Final = (
    ((11.5, -18.0, 7.0), (9.0, 15.0, 9.5)),  # thalamus
    ((27.0, 3.0, 3.0), (6.0, 18.0, 11.5)),  # putamen
    ((19.5, -3.0, 0.0), (4.5, 9.5, 6.5)),  # pallidum
    ((24.0, -3.0, -20.0), (7.0, 7.5, 7.0)),  # amygdala
)
CAUDATE: Final = ((11, 19, -2, 4.5), (15, 18, 8, 5.0), (17, 3, 17, 3.6), (19, -14, 21, 2.6), (23, -24, 19, 1.6))
HIPPOCAMPUS: Final = ((26, -10, -19, 4.0), (29, -22, -14, 3.8), (25, -36, -3, 2.6))
BRAINSTEM: Final = ((0, -20, -6, 14.0), (0, -24, -31, 14.0), (0, -40, -66, 7.5))


def _coordinates(affine: F64, shape: tuple[int, ...], traits: Traits) -> Fields:
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


def _paint_head(p: Fields, skull: F32, texture: F32, blur: float, tone: Contrast) -> F32:
    """Paint everything outside the brain: air, scalp, muscle and fat, eyes, skull with marrow, fluid.

    Args:
        p: Head coordinates (X, Y, Z), millimetres.
        skull: float32 (X, Y, Z), signed distance to the inside of the skull, millimetres.
        texture: float32 (X, Y, Z), a smooth random field of unit variance.
        blur: Width of partial volume, millimetres.
        tone: Of the sequence.

    Returns:
        float32 (X, Y, Z), white matter = 1.
    """
    thick = np.float32(6.0) + np.float32(0.5) * texture
    low = _slab(p[2], 20)
    x, y, z = (field[low] for field in p)
    side = np.abs(x)
    skin = skull - thick - np.float32(5.5)
    face = ellipsoid((x, y - 4, np.minimum(z + 12, 0) * np.float32(0.35)), (0, -8, 0), (68, 92, 60))
    skin[low] = soft_min(skin[low], face + np.maximum(z + 12, 0), 16.0)
    image = np.full(skull.shape, tone.air, np.float32)
    _paint(image, _ramp(skin, blur), tone.fat * 0.93)
    _paint(image, _ramp(skin + 2.0, blur), tone.fat)
    # Below the skull base: muscle with fat between; the temporal muscle; orbits with eyes; the nasal cavity.
    _paint(image[low], _ramp(z + 8, 8) * _ramp(skin[low] + 5.5, 3.0), tone.muscle + 0.12 * texture[low])
    temporal_muscle = ellipsoid((side, y, z), (72, 8, -12), (8, 26, 30))
    _paint(image[low], _ramp(temporal_muscle, 3.0) * _ramp(skin[low] + 3.5, 2.0), tone.muscle)
    _paint(image, _ramp(skull - thick, blur), tone.skull)
    marrow = np.clip(1 - np.abs(skull - 0.5 * thick) / 1.6, 0, 1) * np.clip(0.7 + 0.5 * texture, 0, 1)
    _paint(image, marrow, tone.marrow)
    front = (slice(None), slice(int(np.flatnonzero((y > 30).any(axis=(0, 2)))[0]), None), _slab(p[2], -8)[2])
    x, y, z = (field[front] for field in p)
    side = np.abs(x)
    orbit = np.maximum(ellipsoid((side, y, z), (31, 56, -33), (17, 26, 16)), 2.0 - skull[front])
    _paint(image[front], _ramp(orbit, blur), tone.fat * 0.95)
    _paint(image[front], _ramp(ellipsoid((side, y, z), (31, 67, -34), (12, 12, 12)), blur), tone.eye)
    _paint(image[front], _ramp(ellipsoid((x, y, z), (0, 62, -42), (13, 22, 17)), blur), tone.air)
    _paint(image, _ramp(skull, blur), tone.fluid)
    return image


def synthesise(
    traits: Traits, affine: F64, shape: tuple[int, ...], sequence: str = "T1"
) -> tuple[F32, npt.NDArray[np.uint8]]:
    """Evaluate one head on one grid, as one sequence shows it.

    Args:
        traits: The subject.
        affine: float64 (4, 4), voxel index -> grid-centred millimetres.
        shape: (X, Y, Z).
        sequence: One of `CONTRASTS`.

    Returns:
        Noise-free image float32 (X, Y, Z), white matter = 1, and label uint8 (X, Y, Z).
    """
    tone = CONTRASTS[sequence]
    blur = max(1.6, float(np.cbrt(abs(np.linalg.det(affine[:3, :3])))))
    p = _coordinates(affine, shape, traits)
    texture = traits.texture.on_grid(affine, shape)
    low = _slab(p[2], 18)
    half: Fields = (np.abs(p[0][low]), p[1][low], p[2][low])
    cerebrum = ellipsoid(p, (0, -17, 12), (67, 87, 64), below=38)
    cerebrum[low] = soft_min(cerebrum[low], ellipsoid(half, (43, -13, -19), (22, 37, 21)), 5.0)
    cerebellum, stem = np.full(shape, 99, np.float32), np.full(shape, 99, np.float32)
    cerebellum[low] = ellipsoid(half, (21, -66, -36), (30, 27, 22))
    stem[low] = chain(half, BRAINSTEM)
    skull = cerebrum - np.float32(1.2 + 2.2 * traits.atrophy)
    skull[low] += soft_min(cerebrum[low], cerebellum[low], 30.0) - cerebrum[low]
    image = _paint_head(p, skull, texture, blur, tone)

    ventricles = grow_ventricles(p, np.minimum(cerebrum, cerebellum), traits.pose @ affine, traits)
    wall = np.full(shape, 99, np.float32)
    wall[ventricles.box] = ventricles.distance
    for field, pushed in zip(p, ventricles.pushed, strict=True):
        field[ventricles.box] = pushed

    inside = np.flatnonzero(np.minimum(skull, stem) < 1)
    at = [field.ravel()[inside] for field in (*p, cerebrum, cerebellum, stem, wall, texture)]
    tissue, brain_label = _brain(
        (at[0], at[1], at[2]), at[3], at[4], at[5], at[6], at[7], image.ravel()[inside], traits, blur, tone
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
    traits: Traits,
    blur: float,
    tone: Contrast,
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
        tone: Of the sequence.

    Returns:
        Image float32 (P,) and label uint8 (P,).
    """
    half: Fields = (np.abs(p[0]), p[1], p[2])
    ribbon = np.float32(3.3 - 0.5 * traits.atrophy)
    pial = folding(p, cerebrum, traits, texture)
    pial = np.where(wall < 5, np.minimum(pial, wall - 5 - ribbon), pial)  # white matter between ventricles and sulci
    white = np.maximum(pial + ribbon, cerebrum + 2)

    # Cerebellum: below the tentorium, with folia across and a branching white core.
    below = np.maximum(cerebellum, 2.0 - cerebrum)
    angle = np.arctan2(p[2] + 34, -(p[1] + 42)) * np.float32(26)
    folia = np.abs(np.sin((angle + 2.5 * texture) * np.float32(np.pi / 7))) * np.float32(7 / np.pi)
    branches = np.maximum(below + 4.5, 1.5 - folia)
    cerebellar_white = np.minimum(np.maximum(below + 11, 0.3 - folia), branches)
    cerebellar_grey = np.maximum(below, np.float32(0.2 + 0.5 * traits.atrophy) - folia - np.maximum(-below - 4, 0))

    grey, value = np.minimum(pial, cerebellar_grey), np.full_like(image, tone.grey)
    white = np.minimum(white, np.minimum(cerebellar_white, stem))
    _paint(image, _ramp(grey, blur), value + 0.02 * texture)
    _paint(image, _ramp(white, blur), tone.white + 0.025 * texture)

    deep = np.full_like(image, 99)
    shapes = [ellipsoid(half, centre, axes) for centre, axes in DEEP_NUCLEI]
    shapes += [chain(half, CAUDATE), chain(half, HIPPOCAMPUS)]
    for distance, level in zip(shapes, tone.deep, strict=True):
        _paint(image, _ramp(distance, blur * 1.2), level + 0.015 * texture)
        deep = np.minimum(deep, distance)
    _paint(image, _ramp(wall, blur), tone.fluid * 0.9)

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
