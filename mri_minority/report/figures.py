"""Contact sheets: slices as people look at them, with their labels outlined."""

from pathlib import Path

import matplotlib
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw
from skimage.segmentation import find_boundaries
from skimage.transform import resize

from mri_minority.volumes.atomic import write_atomic

_COLOURS = [
    (int(255 * r), int(255 * g), int(255 * b)) for r, g, b, _ in matplotlib.colormaps["Set2"](np.arange(8)).tolist()
]


def label_colours(count: int) -> list[tuple[int, int, int]]:
    """Red, green and blue of classes 1, 2, ..., in every picture the same."""
    return [_COLOURS[number % len(_COLOURS)] for number in range(count)]


def as_shown(plane: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
    """Turn an RAS+ plane (right, anterior) the radiological way up: anterior up, the patient's right on the left."""
    return np.flip(plane.T, axis=(0, 1))


def tile(image: npt.NDArray[np.float32], label: npt.NDArray[np.uint8] | None, zoom: int = 2) -> npt.NDArray[np.uint8]:
    """One slice as an RGB picture, its channels side by side, labels outlined in each.

    Args:
        image: (I, H, W) in [-1, 1].
        label: (H, W) classes to outline, or None.
        zoom: Screen pixels per slice pixel.
    """
    return np.concatenate([_channel(plane, label, zoom) for plane in image], axis=1)


def _channel(image: npt.NDArray[np.float32], label: npt.NDArray[np.uint8] | None, zoom: int) -> npt.NDArray[np.uint8]:
    grey = as_shown((image.astype(np.float64).clip(-1, 1) + 1) / 2)
    size = (grey.shape[0] * zoom, grey.shape[1] * zoom)
    big = resize(grey, size, order=1)
    picture = np.repeat((big * 255).astype(np.uint8)[:, :, None], 3, axis=2)
    if label is not None:
        shown = np.kron(as_shown(label), np.ones((zoom, zoom), np.uint8))
        for number in range(1, int(label.max(initial=0)) + 1):
            edge = find_boundaries(shown == number, mode="inner")
            picture[edge] = label_colours(number)[-1]
    return picture


def contact_sheet(
    path: Path,
    rows: list[tuple[str, npt.NDArray[np.float32], npt.NDArray[np.uint8]]],
    columns: int = 8,
    zoom: int = 2,
) -> None:
    """Write :func:`sheet_pixels` as a PNG."""
    sheet = Image.fromarray(sheet_pixels(rows, columns, zoom))
    write_atomic(path, lambda temporary: sheet.save(temporary, format="PNG"))


def sheet_pixels(
    rows: list[tuple[str, npt.NDArray[np.float32], npt.NDArray[np.uint8]]], columns: int = 8, zoom: int = 2
) -> npt.NDArray[np.uint8]:
    """For every group its slices plain, and below each the same slice with its labels outlined: RGB (h, w, 3).

    Args:
        rows: (title, images (n, I, H, W), labels (n, H, W)) for every group.
        columns: Pictures beside one another: slices times their channels.
        zoom: Screen pixels per slice pixel.
    """
    bands = []
    channels, across = rows[0][1].shape[1:3]
    columns = max(1, columns // channels)
    for title, images, labels in rows:
        bands.append(_banner(title, columns * (channels * across * zoom + 2)))
        for start in range(0, len(images), columns):
            part = slice(start, start + columns)
            bands.append(_strip([tile(i, None, zoom) for i in images[part]], columns))
            if labels.any():
                pairs = zip(images[part], labels[part], strict=True)
                bands.append(_strip([tile(i, m, zoom) for i, m in pairs], columns))
    return np.concatenate(bands, axis=0)


def _strip(tiles: list[npt.NDArray[np.uint8]], columns: int) -> npt.NDArray[np.uint8]:
    height, width = tiles[0].shape[:2]
    strip = np.zeros((height + 2, columns * (width + 2), 3), np.uint8)
    for number, picture in enumerate(tiles):
        strip[:height, number * (width + 2) : number * (width + 2) + width] = picture
    return strip


def _banner(title: str, width: int) -> npt.NDArray[np.uint8]:
    banner = Image.new("RGB", (width, 16), (40, 40, 48))
    ImageDraw.Draw(banner).text((4, 2), title, fill=(235, 235, 235))
    return np.asarray(banner)
