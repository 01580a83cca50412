"""One way to read whatever was discovered."""

from mri_minority.core.errors import DataError
from mri_minority.volumes.dicom_volume import read_dicom_volume
from mri_minority.volumes.discover import Found
from mri_minority.volumes.nifti import read_volume
from mri_minority.volumes.volume import Volume


def read_found(item: Found) -> Volume:
    """Read an image, and its label map if it has one, from NIfTI or DICOM.

    Raises:
        DataError: It has a problem, or a file of it cannot be used.
    """
    if item.problem:
        raise DataError(item.problem)
    if item.dicom is not None:
        return read_dicom_volume(item.dicom)
    return read_volume(item.image, item.label, item.subject, item.series, item.channel)
