"""One brain MRI volume in the project's single convention: RAS+ axes, millimetres, float32."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Volume:
    """An image volume, its label map if there is one, and where it lies in the world.

    Args:
        image: float32 (X, Y, Z), axes closest to right, anterior, superior; strides may be of any sign.
        label: integer (X, Y, Z) of source label values, or None.
        affine: float64 (4, 4), voxel index -> RAS+ world coordinate in millimetres.
        subject: Who it is of: the key by which data are split. Never written to an output.
        series: Which acquisition: unique within the source.
        sha256: Hash of the image file's bytes (hex).
    """

    image: npt.NDArray[np.float32]
    label: npt.NDArray[np.int32] | None
    affine: npt.NDArray[np.float64]
    subject: str
    series: str
    sha256: str

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distance between neighbouring voxels along each axis, in millimetres."""
        x, y, z = np.sqrt((self.affine[:3, :3] ** 2).sum(axis=0))
        return float(x), float(y), float(z)
