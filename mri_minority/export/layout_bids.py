"""Export as a BIDS derivative: one made-up participant per slice."""

import json
from collections.abc import Iterable
from pathlib import Path

from mri_minority import __version__
from mri_minority.core.errors import DataError
from mri_minority.export.exporter import Case, Facts, write_case_file
from mri_minority.volumes.atomic import write_json_atomic, write_text_atomic

_FILE = {
    "T1": "desc-synthetic_T1w",
    "T1CE": "ce-contrast_desc-synthetic_T1w",
    "T2": "desc-synthetic_T2w",
    "FLAIR": "desc-synthetic_FLAIR",
    "PD": "desc-synthetic_PDw",
}
"""Sequence -> what follows the participant in a file's name."""


class BidsExporter:
    """`sub-synth00007/anat/sub-synth00007_desc-synthetic_T1w.nii.gz` with sidecars and label maps (`_dseg`)."""

    takes_real = False
    usage = "Every slice is a made-up participant; `participants.tsv` says that all are synthetic."

    def write(self, folder: Path, cases: Iterable[Case], facts: Facts) -> None:
        """See :class:`mri_minority.export.exporter.Exporter`."""
        unknown = [name for name in facts.sequences if name not in _FILE]
        if unknown or len(set(facts.sequences)) < len(facts.sequences):
            have, found = ", ".join(_FILE), ", ".join(facts.sequences)
            raise DataError(f"expected sequences that BIDS has a suffix for ({have}), each once, found {found}")
        participants = []
        for case in cases:
            subject = "sub-" + "".join(c for c in case.name if c.isalnum())
            participants.append(subject)
            stem = folder / subject / "anat" / f"{subject}_desc-synthetic"
            for name, data in zip(facts.sequences, case.image_bytes(), strict=True):
                write_case_file(stem.with_name(f"{subject}_{_FILE[name]}.nii.gz"), data)
                write_json_atomic(stem.with_name(f"{subject}_{_FILE[name]}.json"), _sidecar(case, False))
            if case.label is not None:
                write_case_file(stem.with_name(f"{stem.name}_dseg.nii.gz"), case.label_bytes())
                write_json_atomic(stem.with_name(f"{stem.name}_dseg.json"), _sidecar(case, True))
                rows = ["index\tname", *(f"{n}\t{x}" for n, x in enumerate(("background", *facts.label_names)))]
                write_text_atomic(stem.with_name(f"{stem.name}_dseg.tsv"), "".join(row + "\n" for row in rows))
        if len(set(participants)) != len(participants):
            raise DataError("expected slices whose names differ in letters and digits; make the data set again")
        _write_dataset_files(folder, participants)


def _sidecar(case: Case, label: bool) -> dict[str, object]:
    common: dict[str, object] = {
        "Description": f"Generated slice; {case.of_whom()}. One plane, at the place that its affine says.",
        "SpatialReference": "orig",
        "SliceThickness": round(case.thickness_mm, 4),
        "Synthetic": True,
        "Trace": json.loads(json.dumps(case.row["trace"], sort_keys=True)),
    }
    return {**common, "Manual": False} if label else {**common, "SkullStripped": False}


def _write_dataset_files(folder: Path, participants: list[str]) -> None:
    write_json_atomic(
        folder / "dataset_description.json",
        {
            "Name": "Synthetic brain MRI slices by mri-minority",
            "BIDSVersion": "1.10.0",
            "DatasetType": "derivative",
            "GeneratedBy": [
                {
                    "Name": "mri-minority",
                    "Version": __version__,
                    "Description": "Drawn by a diffusion model; README.md says of whom images and label maps are.",
                }
            ],
        },
    )
    rows = ["participant_id\tspecies\tsynthetic", *(f"{p}\thomo sapiens\ttrue" for p in participants)]
    write_text_atomic(folder / "participants.tsv", "".join(row + "\n" for row in rows))
    write_json_atomic(
        folder / "participants.json",
        {
            "synthetic": {
                "Description": "Whether the slice was generated",
                "Levels": {"true": "the image was generated"},
            }
        },
    )
    write_text_atomic(folder / ".bidsignore", "manifest.json\n")
