"""Label maps that somebody drew: NIfTI in any orientation, brought onto a model's grid, pixels where they were."""

from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from mri_minority.core.errors import DataError
from mri_minority.diffusion.state import BIT
from mri_minority.slices.strata import Strata
from mri_minority.transforms.resample import SAME, at_spacing
from mri_minority.transforms.spatial import AXES
from mri_minority.volumes.atomic import sha256_of, shown
from mri_minority.volumes.geometry import plane_affine
from mri_minority.volumes.nifti import read_labels
from mri_minority.volumes.volume import Volume
from mri_minority_pipelines.given import Given
from mri_minority_pipelines.map_places import AFFINE_CURE, MeanHead, check_inside
from mri_minority_pipelines.model_folder import ModelFolder, load_world

COARSEST = 3.0
"""How many times larger than the model's pixels a file's may be."""

_SMALLEST, _LARGEST = 0.3, 3.0

Plane: TypeAlias = tuple[int, npt.NDArray[Any], npt.NDArray[np.float64]]
"""Position, values (H, W) and affine (4, 4) of one slice of a volume."""


def nifti_files(folder: Path) -> list[Path]:
    """NIfTI files of a folder (of its `labels/` if it has one), by name.

    Raises:
        DataError: There is none.
    """
    inside = folder / "labels" if (folder / "labels").is_dir() else folder
    found = [inside] if inside.is_file() else sorted([*inside.glob("*.nii"), *inside.glob("*.nii.gz")])
    if not found:
        raise DataError(f"expected label maps (.nii or .nii.gz) in {shown(folder)}, found none; check the path")
    return found


def read_label_maps(folder: Path, model: ModelFolder, heights: tuple[float, float]) -> list[Given]:
    """Every slice of every label map in a folder, on the model's grid.

    A map of one slice goes to the stratum whose mean label map it resembles most; slices of a volume go where their
    height in the labelled area puts them, as in training. Of a model whose labels do not cover the head, maps go where
    their affine puts them among its mean slices, or where their place in a stack of thick slices does.

    Args:
        folder: With NIfTI files, or a data set with `labels/`.
        model: Gives grid, classes and strata.
        heights: Only strata whose middle lies between.

    Raises:
        DataError: No file, unknown classes, another spacing, an empty map, or one that is larger than the model's field
            or lies outside it.
    """
    card, means = model.card(), mean_maps(model)
    allowed = allowed_strata(card, heights)
    given: list[Given] = []
    for path in nifti_files(folder):
        given.extend(_of_file(path, card, means, allowed))
    if not given:
        raise DataError(
            f"expected label maps at heights {heights[0]:g} to {heights[1]:g} in {shown(folder)}, found none"
        )
    return given


def mean_maps(model: ModelFolder) -> npt.NDArray[np.float32]:
    """Mean of every channel in every stratum (T, C, H, W), in model units."""
    world = load_world(model.path / "world.safetensors", len(model.card()["label_names"]))
    return np.asarray(world.mean.numpy(), dtype=np.float32)


def allowed_strata(card: dict[str, Any], heights: tuple[float, float]) -> list[int]:
    """Strata whose middle lies between two heights.

    Raises:
        DataError: None does.
    """
    middle = Strata.from_json(card["strata"]).middles(card["recipe"]["prepare"]["heights"][0])
    found = [t for t in range(len(middle)) if heights[0] <= middle[t] <= heights[1]]
    if not found:
        raise DataError(f"no stratum lies between heights {heights}; the model has {card['strata']['names']}")
    return found


def nearest_stratum(channels: npt.NDArray[np.float32], means: npt.NDArray[np.float32], allowed: list[int]) -> int:
    """The stratum whose mean channels (T, C, H, W) are nearest to those of a slice (C, H, W)."""
    return min(allowed, key=lambda t: float(((channels - means[t]) ** 2).sum()))


def slices_of(volume: Volume, plane: str, spacing_mm: list[float], name: str) -> list[Plane]:
    """Position, values (H, W) and affine of every plane of an RAS+ volume, with pixels of the model's size.

    Raises:
        DataError: Its pixels are so much larger that resampling would only invent anatomy.
    """
    axis = AXES[plane]
    check_pixels(volume, plane, spacing_mm, name)
    volume = at_spacing(volume, spacing_mm)
    values = volume.image if volume.label is None else volume.label
    planes = np.moveaxis(values, axis, 0)
    return [(i, planes[i], plane_affine(volume.affine, axis, i)) for i in range(len(planes))]


def check_pixels(volume: Volume, plane: str, spacing_mm: list[float], name: str) -> None:
    """Refuse a file whose pixels are so much larger than a model's that resampling would only invent anatomy.

    Raises:
        DataError: They are.
    """
    axis = AXES[plane]
    found = [mm for a, mm in enumerate(volume.spacing_mm) if a != axis]
    wanted = [mm for a, mm in enumerate(spacing_mm) if a != axis]
    if any(w > 0 and f > COARSEST * w for f, w in zip(found, wanted, strict=True)):
        raise DataError(
            f"expected {plane} pixels of {' x '.join(f'{mm:g}' for mm in wanted)} mm in {name}, or at most "
            f"{COARSEST:g} times that, found {' x '.join(f'{mm:.4g}' for mm in found)} mm; is its affine right?"
        )


def fitted(
    plane: npt.NDArray[Any],
    affine: npt.NDArray[np.float64],
    size: tuple[int, int],
    centre: tuple[int, int],
    fill: float,
) -> tuple[npt.NDArray[Any], npt.NDArray[np.float64]]:
    """Cut or pad a plane to a size about a centre; every pixel keeps its place in the world."""
    start = [c - n // 2 for c, n in zip(centre, size, strict=True)]
    result = np.full(size, fill, dtype=plane.dtype)
    low = [max(0, s) for s in start]
    high = [min(m, s + n) for m, s, n in zip(plane.shape, start, size, strict=True)]
    part = plane[low[0] : high[0], low[1] : high[1]]
    result[low[0] - start[0] : high[0] - start[0], low[1] - start[1] : high[1] - start[1]] = part
    moved = affine.copy()
    moved[:3, 3] += affine[:3, :2] @ np.array(start, dtype=float)
    return result, moved


def cut_as(volume: Volume, settings: dict[str, Any]) -> bool:
    """Whether a file's planes have the size and the pixels of a model's slices: then their middle is theirs."""
    sides = [a for a in range(3) if a != AXES[settings["plane"]]]
    wanted = [settings["spacing_mm"][a] for a in sides]
    same = [mm <= 0 or abs(volume.spacing_mm[a] / mm - 1) <= SAME for a, mm in zip(sides, wanted, strict=True)]
    return all(same) and [volume.image.shape[a] for a in sides] == list(settings["size"])


def middle_of(mask: npt.NDArray[np.bool_]) -> tuple[int, int]:
    """Centre of a mask's bounding box, as training cuts about it."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return (int(rows[0]) + int(rows[-1]) + 1) // 2, (int(columns[0]) + int(columns[-1]) + 1) // 2


def _of_file(path: Path, card: dict[str, Any], means: npt.NDArray[np.float32], allowed: list[int]) -> list[Given]:
    settings, names, name = card["recipe"]["prepare"], card["label_names"], shown(path.name)
    volume = read_labels(path)
    label = np.asarray(volume.label)
    unknown = sorted({int(v) for v in np.unique(label)} - set(range(len(names) + 1)))
    if unknown:
        classes = ", ".join(f"{n} {name}" for n, name in enumerate(names, start=1))
        raise DataError(
            f"expected the model's classes (0 background, {classes}) in {name}, found {unknown[:8]}; renumber"
        )
    if not label.any():
        raise DataError(f"expected a labelled structure in {name}, found an empty map; leave it out")
    planes = slices_of(volume, settings["plane"], settings["spacing_mm"], name)
    spacing_mm = [round(mm, 4) for mm in volume.spacing_mm]
    trace = {"label_from": "file", "label_file_sha256": sha256_of(path), "label_spacing_mm": spacing_mm}
    if settings.get("foreground", "labels") == "head":
        return _of_lesions(volume, planes, trace, card, means, allowed, name)
    given = _of_heads(planes, trace, card, means, allowed, name)
    if given:
        _check_areas(given, means, name)
    return given


def _of_heads(
    planes: list[Plane],
    trace: dict[str, Any],
    card: dict[str, Any],
    means: npt.NDArray[np.float32],
    allowed: list[int],
    name: str,
) -> list[Given]:
    """Slices of a map whose labels cover the head: centre and heights are those of the labelled area."""
    settings, names, strata = card["recipe"]["prepare"], card["label_names"], Strata.from_json(card["strata"])
    size = (int(settings["size"][0]), int(settings["size"][1]))
    filled = [i for i, plane, _ in planes if plane.any()]
    if not filled:
        raise DataError(f"expected labels larger than the model's pixels in {name}, nothing is left of them")
    whole = np.any([plane > 0 for _, plane, _ in planes], axis=0)
    centre = (size[0] // 2, size[1] // 2) if whole.shape == size else middle_of(whole)
    given = []
    for index, plane, affine in planes:
        if not plane.any():
            continue
        cut, moved = fitted(plane.astype(np.uint8), affine, size, centre, 0)
        if (cut > 0).sum() != (plane > 0).sum():
            raise DataError(
                f"expected a labelled area that fits {size[0]} x {size[1]} pixels of "
                f"{' x '.join(f'{np.linalg.norm(moved[:3, a]):g}' for a in (0, 1))} mm in {name}, it is larger; use a "
                "model with a larger field"
            )
        height = (index + 0.5 - filled[0]) / (filled[-1] + 1 - filled[0])
        if len(planes) > 1:
            if not settings["heights"][0] <= height <= settings["heights"][1]:
                continue
            stratum = int(strata.of(np.array([height]))[0])
        else:
            bits = np.stack([np.where(cut == c, BIT, -BIT) for c in range(1, len(names) + 1)]).astype(np.float32)
            stratum = nearest_stratum(bits, means[:, -len(names) :], allowed)
        if stratum in allowed:
            given.append(Given(cut, stratum, moved, {**trace, "label_index": index}))
    return given


def _of_lesions(
    volume: Volume,
    planes: list[Plane],
    trace: dict[str, Any],
    card: dict[str, Any],
    means: npt.NDArray[np.float32],
    allowed: list[int],
    name: str,
) -> list[Given]:
    """Slices of a map whose labels do not cover the head: neither its middle nor its height can be seen in them."""
    head = MeanHead.of(card)
    is_cut = cut_as(volume, card["recipe"]["prepare"])
    is_stack = head.is_stack(volume.image.shape[head.axis], volume.spacing_mm[head.axis])
    given, away_mm = [], []
    for index, plane, affine in planes:
        if not plane.any():
            continue
        nearest, mm = head.nearest(affine)
        away_mm.append(0.0 if is_stack else mm)
        if away_mm[-1] > head.reach_mm():
            continue
        stratum = head.by_stack(index, len(planes)) if is_stack else nearest
        if stratum is None or stratum not in allowed:
            continue
        centre = (head.size[0] // 2, head.size[1] // 2) if is_cut else head.centre_in(affine, nearest)
        cut, moved = fitted(plane.astype(np.uint8), affine, head.size, centre, 0)
        if (cut > 0).sum() != (plane > 0).sum():
            raise DataError(
                f"expected labelled pixels inside the model's field in {name}, found some outside; {AFFINE_CURE}"
            )
        source = "stack" if is_stack else "world"
        given.append(Given(cut, stratum, moved, {**trace, "label_index": index, "label_height_from": source}))
    if min(away_mm, default=0.0) > head.reach_mm():
        raise DataError(
            f"expected labelled slices where the model's lie in {name}, the nearest is {min(away_mm):.0f} mm away; "
            f"{AFFINE_CURE}"
        )
    check_inside(given, means, name)
    return given


def _check_areas(given: list[Given], means: npt.NDArray[np.float32], name: str) -> None:
    """Refuse a file whose labelled areas no head has: its affine is wrong, or it shows a part of the head.

    Raises:
        DataError: The middle one is not within 0.3 and 3 times the mean area in the slice's stratum.
    """
    found = [float((g.label > 0).sum()) for g in given]
    usual = [float((means[g.stratum, 1:] + BIT).sum()) for g in given]
    if not _SMALLEST <= float(np.median(np.array(found) / usual)) <= _LARGEST:
        raise DataError(
            f"expected labelled areas of about {np.median(usual):.0f} pixels at this height in {name}, found "
            f"{np.median(found):.0f}; give whole heads, with an affine in millimetres"
        )
