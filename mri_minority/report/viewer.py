"""The slices in niivue, a viewer inlined into the page; no network, and a picture stands in where it cannot run."""

import base64
import gzip
import html
import json
from importlib import resources

import nibabel as nib
import numpy as np
import numpy.typing as npt

from mri_minority.report.figures import label_colours

MOST = 48
"""Slices that the viewer holds; the page stays a few megabytes."""


def viewer(
    image: npt.NDArray[np.float32],
    label: npt.NDArray[np.uint8] | None,
    names: list[str],
    picture: str,
    classes: list[str],
) -> str:
    """The viewer's part of the page.

    Args:
        image: (N, H, W) in [-1, 1], several channels side by side; the first 48 are shown.
        label: (N, H, W), or None.
        names: Of the slices.
        picture: HTML of the picture that stands there until the viewer is open.
        classes: Names of the labels.
    """
    shown = ((image[:MOST].clip(-1, 1) + 1) * 127.5).round().astype(np.uint8)
    parts = {
        "niivue-program": base64.b64encode(_file("niivue.umd.js.gz")).decode(),
        "viewer-names": json.dumps(names[:MOST]).replace("<", "\\u003c"),
        "viewer-image": _stack(shown),
    }
    if label is not None:
        parts |= {"viewer-label": _stack(label[:MOST]), "viewer-colours": json.dumps(_colours(classes))}
    data = "".join(f'<script type="text/plain" id="{key}">{value}</script>' for key, value in parts.items())
    labels = '<label><input type="checkbox" id="viewer-labels"> labels</label>'
    key = "".join(
        f'<span class="key"><span style="background:rgb{colour}"></span>{html.escape(name)}</span>'
        for name, colour in zip(classes, label_colours(len(classes)), strict=True)
    )
    return (
        f"<p>The first {len(shown)} slices, one after the other, as a viewer shows them: anterior is up, the patient's "
        "right is on the left. Arrow keys move the slider; scrolling moves the picture.</p>"
        f'<div class="viewer"><div class="still">{picture}</div><canvas id="viewer-canvas" aria-label="Slice viewer">'
        '</canvas></div><p class="controls"><button type="button" id="viewer-open">Open the viewer</button>'
        f'<label>Slice <input type="range" id="viewer-number" min="0" max="{len(shown) - 1}" value="0"></label>'
        f"<span{'' if label is not None else ' hidden'}>{labels}</span></p>"
        '<p id="viewer-said" role="status" aria-live="polite"></p>'
        f'<p class="keys">{key if label is not None else ""}</p>'
        f"{data}<script>{_file('viewer.js').decode('utf-8')}</script>"
    )


def _file(name: str) -> bytes:
    return resources.files("mri_minority.report").joinpath(name).read_bytes()


def _stack(planes: npt.NDArray[np.uint8]) -> str:
    """Slices (N, H, W) as one compressed NIfTI volume (H, W, N), RAS+, in base64."""
    volume = nib.Nifti1Image(np.ascontiguousarray(planes.transpose(1, 2, 0)), np.eye(4))
    # The time is left out, so that the same slices make the same page.
    return base64.b64encode(gzip.compress(volume.to_bytes(), mtime=0)).decode()


def _colours(classes: list[str]) -> dict[str, list[int] | list[str]]:
    """A label colour map as niivue reads it; 0 is clear."""
    colours = label_colours(len(classes))
    red, green, blue = ([0, *(colour[axis] for colour in colours)] for axis in range(3))
    values = list(range(len(classes) + 1))
    return {"R": red, "G": green, "B": blue, "A": [0, *[255] * len(classes)], "I": values, "labels": ["", *classes]}
