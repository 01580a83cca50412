"""Clean a generated label map: specks take on what surrounds them."""

import numpy as np
import numpy.typing as npt
from scipy.ndimage import binary_dilation, find_objects
from skimage.measure import label as connected


def drop_specks(label: npt.NDArray[np.uint8], smallest: int = 4) -> npt.NDArray[np.uint8]:
    """Give every connected piece below a size the commonest label around it.

    Args:
        label: (H, W), 0 is background.
        smallest: Pieces with fewer pixels (8-connected) are specks, background holes included.

    Returns:
        A new (H, W) map.
    """
    result = label.copy()
    for value in range(int(label.max(initial=0)) + 1):
        pieces = connected(label == value, connectivity=2)
        sizes = np.bincount(pieces.ravel())
        boxes = find_objects(pieces)
        for number in np.flatnonzero(sizes[1:] < smallest) + 1:
            window = tuple(slice(max(0, side.start - 1), side.stop + 1) for side in boxes[number - 1])
            piece = pieces[window] == number
            ring = binary_dilation(piece, np.ones((3, 3))) & ~piece
            around = np.bincount(label[window][ring], minlength=1)
            result[window][piece] = int(around.argmax())
    return result
