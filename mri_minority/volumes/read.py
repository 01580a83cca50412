"""One way to read whatever was discovered."""

from dataclasses import replace

from mri_minority.core.errors import DataError
from mri_minority.volumes.dicom_volume import read_dicom_volume
from mri_minority.volumes.discover import Found
from mri_minority.volumes.nifti import read_volume
from mri_minority.volumes.registered import joint_sha256, registered
from mri_minority.volumes.volume import Volume


def read_found(item: Found) -> tuple[Volume, ...]:
    """Read the image channels of a head, from NIfTI or DICOM, and its label map if it has one.

    Returns:
        One volume per channel, all on the grid of the first, which has the label map and the hash of all files.

    Raises:
        DataError: It has a problem, a file of it cannot be used, or the channels are not registered.
    """
    if item.problem:
        raise DataError(item.problem)
    volumes = registered([_read(channel) for channel in item.images])
    head = replace(volumes[0], subject=item.subject, series=item.series, sha256=joint_sha256(volumes))
    return head, *volumes[1:]


def _read(item: Found) -> Volume:
    if item.dicom is not None:
        return read_dicom_volume(item.dicom)
    return read_volume(item.image, item.label, item.subject, item.series, item.channel)
