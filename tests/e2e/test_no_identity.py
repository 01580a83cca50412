"""No identity: what is planted in every text field of DICOM headers is in no byte that the program writes or says."""

import gzip
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pydicom
import pytest
import yaml
from pydicom.datadict import DicomDictionary
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from typer.testing import CliRunner

from mri_minority_cli.app import app
from tests.support.dicoms import head, write_series
from tests.support.drawn import SIZE, write_drawn
from tests.support.tiny import TINY

AFFINE = np.diag([4.0, 4.0, 4.0, 1.0])
DATE = "19480229"
UID = "1.2.826.77777.31337"
PLANTED = {
    **{"PN": "Plantedname^Gertrude", "LO": "PLANTED-LO Hospital", "SH": "PLANTED-SH", "ST": "Planted Street 5"},
    **{"LT": "Planted comment", "UT": "Planted text", "UC": "Planted characters", "AE": "PLANTEDAE", "CS": "PLANTEDCS"},
    **{"UR": "http://planted.example", "DA": DATE, "DT": f"{DATE}112233", "AS": "076Y", "UI": UID},
}
NEEDED = {
    *("Modality", "ImageType", "PhotometricInterpretation", "SpecificCharacterSet", "BurnedInAnnotation"),
    *("SOPClassUID", "TransferSyntaxUID", "MediaStorageSOPClassUID", "SeriesInstanceUID", "SOPInstanceUID"),
}
"""What a file must say truly to be read at all."""
FORBIDDEN = [b"planted", b"gertrude", DATE.encode(), b"1948-02-29", b"076y", UID.encode(), b"1.2.826.0.1.3680043.8.498"]


def plant(header: Dataset, number: int) -> None:
    """Fill every text element of the standard, and private ones; what is there already is kept where it is needed."""
    for tag, (vr, _, _, retired, keyword) in DicomDictionary.items():
        if vr in PLANTED and keyword and keyword not in NEEDED and tag >> 16 > 0x0002 and not retired:
            header.add(DataElement(tag, vr, PLANTED[vr]))
    header.PatientID = "PLANTED-4711"
    header.PatientComments = "Planted comment\nof two lines, born 29.02.1948"
    header.SeriesDescription = "t1 Plantedname"
    person = Dataset()
    person.PersonName, person.PersonAddress = PLANTED["PN"], "Planted Street 5"
    header.ReferringPhysicianIdentificationSequence = Sequence([person])
    block = header.private_block(0x0009, "PLANTED CREATOR", create=True)
    block.add_new(0x01, "LO", "PLANTED-PRIVATE")
    block.add_new(0x02, "UN", b"PLANTED-UNKNOWN ")


def bytes_of(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Every file and name, unpacked where it is packed."""
    for path in sorted(folder.rglob("*")):
        data = path.read_bytes() if path.is_file() else b""
        yield str(path.relative_to(folder)), gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data


def leaks(name: str, data: bytes) -> list[str]:
    text = (name.encode() + b"\n" + data).lower()
    return [f"{name}: {word!r}" for word in FORBIDDEN if word in text]


@pytest.fixture
def clinic(tmp_path: Path) -> Path:
    """Five patients with T1 and FLAIR, a series that is refused, a broken file and one whose position is a name."""
    folder = tmp_path / "clinic"
    for number in range(5):
        write_series(
            folder / f"p{number}", head((24, 32, 24)), AFFINE, plant, uid=str(number), patient=f"PLANTED-{number}"
        )
    for file in (folder / "p0").iterdir():  # so that the five are five patients
        assert b"PLANTED-4711" in file.read_bytes()
    for number in range(5):
        for file in (folder / f"p{number}").glob("*.dcm"):
            header = pydicom.dcmread(file)
            header.PatientID = f"PLANTED-{number}"
            header.save_as(file)
        study = pydicom.dcmread(folder / f"p{number}" / "0003.dcm").StudyInstanceUID

        def second(header: Dataset, n: int, study: str = study, patient: str = f"PLANTED-{number}") -> None:
            plant(header, n)
            header.StudyInstanceUID, header.PatientID, header.SeriesDescription = study, patient, "flair Plantedname"

        write_series(folder / f"p{number}" / "flair", head((24, 32, 24)), AFFINE, second, uid=f"{number} flair")
    gone = write_series(folder / "gap", head((24, 32, 12)), AFFINE, plant, uid="gap")
    gone[5].unlink()
    damaged = folder / "p1" / "damaged.dcm"
    data = (folder / "p1" / "0003.dcm").read_bytes()
    damaged.write_bytes(data[: data.index(b"\x20\x00\x32\x00")] + b"\x20\x00\x32\x00DS\x14\x00Plantedname^Gertrude")
    (folder / "p2" / "short.dcm").write_bytes(data[:700])
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("sequences", [("T1",), ("T1", "FLAIR")], ids=["one channel", "two channels"])
def test_nothing_planted_is_ever_written_or_said(
    sequences: tuple[str, ...], clinic: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    before = (clinic / "p0" / "0003.dcm").read_bytes()
    assert len(leaks("a file of theirs", before)) == len(FORBIDDEN) - 1  # "1948-02-29" is how we might write it
    recipe = {**TINY, "prepare": {**TINY["prepare"], "labels": {}, "foreground": "head", "sequence": [*sequences]}}
    recipe["prepare"]["size"] = [*SIZE]
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    write_drawn(tmp_path / "drawn", names=(), sequences=sequences)
    out = tmp_path / "written"
    said = b""
    for words in [
        ["prepare", "clinic", "--out", "written/store", "--recipe", "tiny.yaml"],
        [
            "prepare",
            "clinic",
            "--out",
            "written/other",
            "--recipe",
            "tiny.yaml",
            "--seed",
            "4",
            "--json",
            "--workers",
            "3",
        ],
        ["train", "written/store", "--out", "written/model", "--recipe", "tiny.yaml", "--stage", "denoiser"],
        ["info", "written/store", "--json"],
        ["export", "drawn", "--to", "monai", "--real", "written/store", "--out", "written/monai"],
        ["export", "drawn", "--to", "nifti", "--real", "written/store", "--out", "written/nifti"],
        ["export", "drawn", "--to", "bids", "--out", "written/bids"],
        ["export", "drawn", "--to", "dicom", "--out", "written/dicom"],
    ]:
        result = CliRunner().invoke(app, words)
        assert result.exit_code == 0, result.output
        said += result.stdout.encode() + result.stderr.encode()
    nothing_usable = CliRunner().invoke(
        app, ["prepare", "clinic/gap", "--out", "written/none", "--recipe", "tiny.yaml"]
    )
    assert nothing_usable.exit_code == 3
    said += nothing_usable.output.encode()
    written = dict(bytes_of(out))
    assert sum(name.endswith((".nii.gz", ".dcm", ".json", ".tsv", ".jsonl")) for name in written) > 50
    quarantine = written["store/quarantine.tsv"].decode()
    assert all(word in quarantine for word in ("gap", "damaged.dcm", "short.dcm"))
    # Our own DICOM has UIDs under pydicom's root, as the planted files do: there that is no leak.
    own = {name: data.replace(FORBIDDEN[-1], b"") for name, data in written.items() if name.startswith("dicom/")}
    found = [leak for name, data in {**written, **own, "said": said}.items() for leak in leaks(name, data)]
    assert found == []
