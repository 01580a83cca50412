"""Any bytes at all: a file is read as other software reads it, or refused in one line."""

import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mri_minority.core.errors import DataError
from mri_minority.volumes.discover import discover, write_quarantine
from mri_minority.volumes.read import read_found
from tests.fuzz.readers import SETTINGS, check, sources, walk

SORTS = ("nifti-a.nii", "nifti-a.nii.gz", "nifti-pair", "nifti-4d", "dicom-classic", "dicom-rle", "dicom-enhanced")


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Path]]:
    return sources(tmp_path_factory.mktemp("sound"))


def spoilt(target: Path, folder: Path, data: bytes) -> Path:
    """A copy of a folder in which one file holds other bytes."""
    copy = folder / "copy"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(target.parent, copy)
    (copy / target.name).write_bytes(data)
    return copy


def stands(folder: Path) -> None:
    _, volumes = walk(folder, SETTINGS[0])
    for item, volume in volumes:
        check(item, volume)


@pytest.mark.parametrize("sort", SORTS)
@settings(max_examples=30)
@given(share=st.floats(0, 1))
def test_truncated_anywhere(
    sort: str, sound: dict[str, list[Path]], tmp_path_factory: pytest.TempPathFactory, share: float
) -> None:
    target = sound[sort][0]
    data = target.read_bytes()
    stands(spoilt(target, tmp_path_factory.mktemp("cut"), data[: int(share * len(data))]))


@pytest.mark.parametrize("sort", SORTS)
@settings(max_examples=40)
@given(changes=st.lists(st.tuples(st.integers(0, 10**6), st.binary(min_size=1, max_size=8)), min_size=1, max_size=4))
def test_overwritten_anywhere(
    sort: str,
    sound: dict[str, list[Path]],
    tmp_path_factory: pytest.TempPathFactory,
    changes: list[tuple[int, bytes]],
) -> None:
    target = sound[sort][0]
    data = bytearray(target.read_bytes())
    for at, new in changes:
        place = at % len(data)
        data[place : place + len(new)] = new
    stands(spoilt(target, tmp_path_factory.mktemp("changed"), bytes(data)))


@pytest.mark.parametrize("name", ["x.nii", "x.nii.gz", "x.dcm", "x", "dataset.json"])
@given(
    data=st.binary(max_size=2000),
    magic=st.sampled_from([b"", b"\x1f\x8b\x08", bytes(128) + b"DICM", b'{"training": [']),
)
def test_garbage(name: str, tmp_path_factory: pytest.TempPathFactory, data: bytes, magic: bytes) -> None:
    folder = tmp_path_factory.mktemp("garbage")
    (folder / name).write_bytes(magic + data)
    stands(folder)


@st.composite
def odd_names(draw: st.DrawFn) -> str:
    text = draw(st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=40))
    return text if text.encode()[:200].decode(errors="ignore") == text and text.strip(".") else "x"


@given(name=odd_names(), folder_name=odd_names())
def test_any_name_is_found_and_fits_in_the_quarantine(
    tmp_path_factory: pytest.TempPathFactory, name: str, folder_name: str
) -> None:
    folder = tmp_path_factory.mktemp("names") / folder_name
    folder.mkdir()
    (folder / f"{name}_T1.nii.gz").write_bytes(b"broken")
    rows = []
    if name.startswith("."):
        with pytest.raises(DataError, match="found none"):
            discover([folder])
        return
    for item in discover([folder]):
        with pytest.raises(DataError) as refused:
            read_found(item)
        assert len(str(refused.value).splitlines()) == 1
        rows.append((str(item.image), str(refused.value)))
    write_quarantine(folder / "q.tsv", rows)
    lines = (folder / "q.tsv").read_text(encoding="utf-8").split("\n")
    assert [line.count("\t") for line in lines] == [1] * (1 + len(rows)) + [0]
