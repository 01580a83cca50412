"""Lists in JSON, numbered channels, and the choice of one sequence."""

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from mri_minority.core.errors import DataError
from mri_minority.volumes.channels import chosen
from mri_minority.volumes.discover import discover
from mri_minority.volumes.nifti import read_volume
from mri_minority.volumes.read import read_found

AFFINE = np.diag([2.0, 2.0, 2.0, 1.0])


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def write_list(folder: Path, content: Any, name: str = "dataset.json") -> Path:
    (folder / name).write_text(json.dumps(content), encoding="utf-8")
    return folder / name


def test_a_decathlon_list_says_what_belongs_together(tmp_path: Path) -> None:
    """By name alone these would not be pairs; cases for testing have no labels and are left out."""
    touch(tmp_path, "imagesTr/a_T1.nii.gz", "imagesTr/b.nii.gz", "labelsTr/x.nii.gz", "imagesTs/c.nii.gz")
    content = {
        "modality": {"0": "T1w"},
        "training": [
            {"image": "./imagesTr/a_T1.nii.gz", "label": "./labelsTr/x.nii.gz", "fold": 0},
            {"image": "imagesTr/b.nii.gz"},
        ],
        "test": ["./imagesTs/c.nii.gz"],
    }
    source = write_list(tmp_path, content)
    for given in (tmp_path, source):
        found = discover([given])
        assert [(f.image.name, f.label and f.label.name, f.subject, f.sequence) for f in found] == [
            ("a_T1.nii.gz", "x.nii.gz", "a", "T1"),
            ("b.nii.gz", None, "b", "T1"),
        ]
        assert [f.problem for f in found] == [None, None]


def test_channels_in_files_of_their_own(tmp_path: Path) -> None:
    touch(tmp_path, "a_t1.nii", "a_flair.nii", "a.nii")
    content = {
        "channel_names": {"0": "T1", "1": "FLAIR"},
        "training": [{"image": ["a_t1.nii", "a_flair.nii"], "label": "a.nii"}],
    }
    write_list(tmp_path, content)
    assert [(f.image.name, f.sequence, f.channel) for f in discover([tmp_path])] == [
        ("a_t1.nii", "T1", 0),
        ("a_flair.nii", "FLAIR", 1),
    ]


def test_one_volume_of_a_list_with_several_modalities_is_chosen_by_name(tmp_path: Path) -> None:
    values = np.arange(2 * 3 * 4 * 2, dtype=np.int16).reshape(2, 3, 4, 2)
    nib.nifti1.Nifti1Image(values, AFFINE).to_filename(tmp_path / "a.nii.gz")
    write_list(tmp_path, {"modality": {"0": "FLAIR", "1": "T1w"}, "training": [{"image": "a.nii.gz"}]})
    found = discover([tmp_path])
    assert [(f.series, f.sequence) for f in found] == [("a:0", "FLAIR"), ("a:1", "T1")]
    (item,) = chosen(found, "T1w", None)
    (volume,) = read_found(item)
    np.testing.assert_array_equal(volume.image, values[..., 1])
    assert volume.sha256 != read_found(found[0])[0].sha256


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_a_volume_of_four_dimensions_is_chosen_by_number(tmp_path: Path, name: str) -> None:
    values = np.random.default_rng(0).integers(0, 999, (5, 4, 3, 6)).astype(np.int16)
    nib.nifti1.Nifti1Image(values, AFFINE).to_filename(tmp_path / name)
    for channel in (0, 3, 5):
        volume = read_volume(tmp_path / name, None, "s", "s", channel)
        np.testing.assert_array_equal(volume.image, values[..., channel])
    for channel in (6, -1):
        with pytest.raises(DataError, match="number below 6"):
            read_volume(tmp_path / name, None, "s", "s", channel)
    with pytest.raises(DataError, match="channel"):
        read_volume(tmp_path / name, None, "s", "s")


def test_the_last_volume_of_a_truncated_file_is_not_read_early(tmp_path: Path) -> None:
    """Volume 0 is whole, the file is not: it is refused all the same."""
    values = np.random.default_rng(0).integers(0, 30000, (16, 16, 16, 4)).astype(np.int16)
    nib.nifti1.Nifti1Image(values, AFFINE).to_filename(tmp_path / "a.nii.gz")
    data = (tmp_path / "a.nii.gz").read_bytes()
    (tmp_path / "a.nii.gz").write_bytes(data[: len(data) * 3 // 4])
    with pytest.raises(DataError, match="damaged"):
        read_volume(tmp_path / "a.nii.gz", None, "s", "s", 0)


def test_nnunet_channels_have_the_names_of_its_json(tmp_path: Path) -> None:
    touch(tmp_path, *[f"imagesTr/p{n}_{c:04d}.nii.gz" for n in range(2) for c in range(2)])
    write_list(tmp_path, {"channel_names": {"0": "T1", "1": "T2f"}, "labels": {"background": 0}})
    found = discover([tmp_path])
    assert [(f.series, f.sequence, f.channel) for f in found[:2]] == [("p0_0000", "T1", 0), ("p0_0001", "FLAIR", 1)]
    assert [f.series for f in chosen(found, "FLAIR", None)] == ["p0_0001", "p1_0001"]
    assert [f.series for f in chosen(found, "", 0)] == ["p0_0000", "p1_0000"]


def test_what_does_not_say_its_sequence_stays(tmp_path: Path) -> None:
    found = discover([touch(tmp_path, "a_T1.nii", "b_FLAIR.nii", "c.nii", "d_T1w.nii", "e_t1ce.nii")])
    assert [f.subject for f in chosen(found, "t1", None)] == ["a", "c", "d"]
    assert chosen(found, "", None) == found


def test_a_choice_that_leaves_nothing_is_an_error(tmp_path: Path) -> None:
    found = discover([touch(tmp_path, "a_T1.nii", "b_FLAIR.nii")])
    with pytest.raises(DataError, match="of sequence 'T2', channel None, found only FLAIR, T1"):
        chosen(found, "T2", None)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "found JSONDecodeError"),
        ("[" * 100_000, "found RecursionError"),
        ("[]", "found list"),
        ('{"training": [{"label": "a.nii"}]}', "entry 0"),
        ('{"training": [{"image": 7}]}', "entry 0"),
        ('{"training": [{"image": []}]}', "entry 0"),
        ('{"training": ["a.nii", {"image": "b.nii", "label": ["c.nii"]}]}', "entry 1"),
    ],
)
def test_a_list_that_is_none_is_refused_in_one_line(tmp_path: Path, content: str, words: str) -> None:
    (tmp_path / "dataset.json").write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=words) as refused:
        discover([tmp_path])
    assert len(str(refused.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ([{"image": "missing.nii"}], "is missing"),
        ([{"image": "a.nii", "label": "missing.nii"}], "is missing"),
        ([{"image": "notes.txt"}], "expected NIfTI"),
        ([{"image": "a.nii"}, {"image": "./a.nii"}], "there 2 times"),
    ],
)
def test_a_wrong_entry_is_a_problem_of_that_image(tmp_path: Path, entries: list[Any], words: str) -> None:
    touch(tmp_path, "a.nii", "notes.txt")
    write_list(tmp_path, {"training": entries})
    assert all(words in str(item.problem) for item in discover([tmp_path]))
