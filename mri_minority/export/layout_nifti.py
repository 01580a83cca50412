"""Export as plain NIfTI pairs: images/NAME.nii.gz and labels/NAME.nii.gz."""

from collections.abc import Iterable
from pathlib import Path

from mri_minority.export.exporter import Case, Facts, write_case_file
from mri_minority.export.nifti import channel_files


class NiftiExporter:
    """`images/` and `labels/`, same NAME in both; real held-out slices in `images_test/` and `labels_test/`.

    Several image channels are `NAME_0000`, `NAME_0001`, ...
    """

    takes_real = True
    usage = "`images/NAME.nii.gz` and `labels/NAME.nii.gz` belong together; `*_test/` are real held-out subjects."

    def write(self, folder: Path, cases: Iterable[Case], facts: Facts) -> None:
        """See :class:`mri_minority.export.exporter.Exporter`."""
        for case in cases:
            end = "_test" if case.held_out else ""
            files = channel_files(case.name, len(case.image))
            for file, data in zip(files, case.image_bytes(), strict=True):
                write_case_file(folder / f"images{end}" / file, data)
            if case.label is not None:
                write_case_file(folder / f"labels{end}" / f"{case.name}.nii.gz", case.label_bytes())
