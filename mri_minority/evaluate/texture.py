"""Handcrafted features in the manner of radiomics: intensities, texture and edges, from scikit-image."""

import numpy as np
import numpy.typing as npt
from skimage.feature import graycomatrix, graycoprops, hog
from skimage.metrics import structural_similarity

from mri_minority.evaluate.fidelity import Features

_PROPERTIES = ("contrast", "homogeneity", "energy", "correlation")
_GREYS = 16


def handcrafted(image: npt.NDArray[np.float32]) -> Features:
    """Intensity quantiles, co-occurrence texture at two distances, and oriented edges in a 4 x 4 grid.

    Args:
        image: (N, H, W) in [-1, 1].

    Returns:
        float64 (N, F).

    Reference: Haralick et al. 1973 (texture); Dalal & Triggs 2005 (edges).
    """
    return np.stack([_of_one(plane) for plane in image])


def _of_one(plane: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    unit = ((plane.astype(np.float64) + 1) / 2).clip(0, 1)
    inside = unit[unit > 0.05]
    level = np.quantile(inside, np.linspace(0.05, 0.95, 10)) if inside.size else np.zeros(10)
    greys = (unit * (_GREYS - 1)).round().astype(np.uint8)
    angles = [0, np.pi / 4, np.pi / 2, 3 * np.pi / 4]
    table = graycomatrix(greys, distances=[1, 3], angles=angles, levels=_GREYS, symmetric=True, normed=True)
    texture = [graycoprops(table, name).mean(axis=1) for name in _PROPERTIES]
    cell = (unit.shape[0] // 4, unit.shape[1] // 4)
    edges = hog(unit, orientations=6, pixels_per_cell=cell, cells_per_block=(1, 1))
    return np.concatenate([level, *texture, [inside.size / unit.size], edges])


def similarities(image: npt.NDArray[np.float32], pairs: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Multi-scale structural similarity of pairs of slices (P,): 1 when both are the same, so a set's mean says how
    little diverse it is.

    Similarity is averaged over three scales, halved each time (a plain mean, so that no negative power can occur).

    Args:
        image: (N, H, W) in [-1, 1].
        pairs: Positions (P, 2).

    Reference: after Wang et al. 2003.
    """
    values = []
    for first, second in pairs:
        a, b, scales = image[first].astype(np.float64), image[second].astype(np.float64), []
        for _scale in range(3):
            if min(a.shape) < 7:
                break
            scales.append(structural_similarity(a, b, data_range=2.0))
            a, b = (_halved(plane) for plane in (a, b))
        values.append(np.mean(scales))
    return np.array(values)


def random_pairs(count: int, pairs: int, seed: int) -> npt.NDArray[np.int64]:
    """Positions of two different slices of `count`, so many times (P, 2).

    Raises:
        ValueError: Fewer than two slices.
    """
    if count < 2:
        raise ValueError(f"expected two or more slices, got {count}")
    rng = np.random.default_rng(seed)
    return np.stack([rng.choice(count, 2, replace=False) for _ in range(pairs)])


def _halved(plane: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    height, width = plane.shape[0] // 2 * 2, plane.shape[1] // 2 * 2
    halved: npt.NDArray[np.float64] = plane[:height, :width].reshape(height // 2, 2, width // 2, 2).mean(axis=(1, 3))
    return halved
