"""Export one synthetic slice as a NIfTI pair: (H, W, 1), true affine of its plane, trace inside."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mri_minority import __version__
from mri_minority.volumes.atomic import write_bytes_atomic
from mri_minority.volumes.geometry import lift_thickness
from mri_minority.volumes.nifti import nifti_bytes

DESCRIPTION = f"SYNTHETIC mri-minority {__version__}"
"""The header field that every written file carries."""


def export_slice(
    folder: Path,
    name: str,
    image: npt.NDArray[np.float32],
    label: npt.NDArray[np.uint8] | None,
    affine: npt.NDArray[np.float64],
    trace: dict[str, Any],
) -> dict[str, Any]:
    """Write `images/NAME.nii.gz` and `labels/NAME.nii.gz`.

    Args:
        folder: The data set.
        name: File name without ending.
        image: (H, W), source units.
        label: (H, W), or None.
        affine: (4, 4), pixel (i, j, 0) -> RAS+ millimetres; its through-plane spacing is lifted to the in-plane one.
        trace: How the slice was made; goes into the header.

    Returns:
        The manifest's row: file names, hashes, affine, true thickness, trace.
    """
    lifted, true_mm = lift_thickness(affine)
    trace = {**trace, "true_thickness_mm": round(true_mm, 4)}
    row: dict[str, Any] = {"name": name, "label": None, "label_sha256": None, "trace": trace}
    parts = {"image": image.astype(np.float32), "label": None if label is None else label.astype(np.uint8)}
    for kind, plane in parts.items():
        if plane is None:
            continue
        data = nifti_bytes(plane[:, :, None], lifted, DESCRIPTION, trace)
        row[kind] = f"{kind}s/{name}.nii.gz"
        row[f"{kind}_sha256"] = hashlib.sha256(data).hexdigest()
        write_bytes_atomic(folder / row[kind], data)
    row["affine"] = lifted.tolist()
    return row
