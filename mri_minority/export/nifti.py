"""Export one synthetic slice as a NIfTI pair: (H, W, 1), true affine of its plane, trace inside."""

import hashlib
from pathlib import Path
from typing import Any, TypedDict, cast

import nibabel as nib
import numpy as np
import numpy.typing as npt

from mri_minority import __version__
from mri_minority.core.errors import DataError
from mri_minority.volumes.atomic import write_bytes_atomic
from mri_minority.volumes.geometry import lift_thickness, squared
from mri_minority.volumes.nifti import nifti_bytes

DESCRIPTION = f"SYNTHETIC mri-minority {__version__}"
"""The header field that every written file carries."""

DERIVED = f"DERIVED from a person, mri-minority {__version__}"
"""The same of slices that are people's scans, changed."""

_MAX_NAME = 200


class SliceFiles(TypedDict):
    """What was written for one slice; a row of the manifest."""

    name: str
    """File name without ending."""
    image: str | list[str]
    """Path of the image in the data set; of several channels a list, as in MONAI's lists."""
    image_sha256: str | list[str]
    """Hash of the image file (hex), or a list of them."""
    label: str | None
    """Path of the label map in the data set, or None."""
    label_sha256: str | None
    """Hash of the label file (hex), or None."""
    affine: list[list[float]]
    """(4, 4), pixel (i, j, 0) -> RAS+ millimetres, as written."""
    true_thickness_mm: float
    """Distance between neighbouring planes before it was lifted, in millimetres."""
    trace: dict[str, Any]
    """How the slice was made, with its true thickness."""


def export_slice(
    folder: Path,
    name: str,
    image: npt.NDArray[np.float32],
    label: npt.NDArray[np.uint8] | None,
    affine: npt.NDArray[np.float64],
    trace: dict[str, Any],
) -> SliceFiles:
    """Write `images/NAME.nii.gz` (of several channels `NAME_0000.nii.gz`, `NAME_0001.nii.gz`) and `labels/NAME.nii.gz`.

    Args:
        folder: The data set.
        name: File name without ending.
        image: float32 (I, H, W), source units.
        label: uint8 (H, W), or None.
        affine: (4, 4), pixel (i, j, 0) -> RAS+ millimetres. Its column 2 is made the plane's normal, and lifted to
            the largest in-plane spacing; the pixels, all at k = 0, stay where they are.
        trace: How the slice was made (JSON-able); goes into the header, with the true thickness. Where it says
            `derived`, the files are marked as somebody's, and not as synthetic.

    Returns:
        The manifest's row: file names, hashes, affine, true thickness, trace.

    Raises:
        DataError: The name is no plain file name, an array is not as described, or a file cannot be written.
    """
    _check(name, image, label)
    lifted, true_mm = lift_thickness(squared(affine))
    trace = {**trace, "true_thickness_mm": round(true_mm, 4)}
    paths, label_path = [f"images/{file}" for file in channel_files(name, len(image))], f"labels/{name}.nii.gz"
    says = DERIVED if trace.get("derived") else DESCRIPTION
    hashes = [_write(folder / path, plane, lifted, trace, says) for path, plane in zip(paths, image, strict=True)]
    row = SliceFiles(
        name=name,
        image=plain(paths),
        image_sha256=plain(hashes),
        label=None,
        label_sha256=None,
        affine=lifted.tolist(),
        true_thickness_mm=round(true_mm, 4),
        trace=trace,
    )
    if label is not None:
        row["label"] = label_path
        row["label_sha256"] = _write(folder / label_path, label, lifted, trace, says)
    return row


def channel_files(name: str, channels: int) -> list[str]:
    """File names of the channels of a slice: numbered as nnU-Net does, where there are several."""
    return [f"{name}.nii.gz"] if channels == 1 else [f"{name}_{number:04d}.nii.gz" for number in range(channels)]


def plain(values: list[str]) -> str | list[str]:
    """A list as it is written: alone, a value stands without brackets, as in MONAI's lists."""
    return values[0] if len(values) == 1 else values


def listed(value: str | list[str] | None) -> list[str]:
    """The inverse of :func:`plain`; nothing gives an empty list."""
    return [] if value is None else [value] if isinstance(value, str) else value


def read_plane(path: Path) -> npt.NDArray[Any]:
    """The plane of a file (H, W, 1), as (H, W)."""
    return np.asarray(cast(nib.Nifti1Image, nib.load(path)).dataobj)[:, :, 0]


def _check(name: str, image: npt.NDArray[Any], label: npt.NDArray[Any] | None) -> None:
    plain = name.isprintable() and not set(name) & set('/\\:*?"<>|') and not name.startswith(".")
    if not plain or not 0 < len(name.encode("utf-8", "replace")) <= _MAX_NAME:
        raise DataError(f"expected a plain file name for a slice, found {name!a}; use letters, digits, '_' and '-'")
    if image.ndim != 3 or image.dtype != np.float32:
        raise DataError(f"expected a float32 image (I, H, W) for {name}, found {image.dtype} {image.shape}; convert it")
    if label is not None and (label.shape != image.shape[1:] or label.dtype != np.uint8):
        raise DataError(
            f"expected a uint8 label map {image.shape[1:]} for {name}, found {label.dtype} {label.shape}; convert it"
        )


def _write(
    path: Path, plane: npt.NDArray[Any], affine: npt.NDArray[np.float64], trace: dict[str, Any], says: str
) -> str:
    """Write one file; return its hash."""
    data = nifti_bytes(plane[:, :, None], affine, says, trace)
    write_bytes_atomic(path, data)
    return hashlib.sha256(data).hexdigest()
