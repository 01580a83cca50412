"""Images of one name in several folders: whose they are. Only names are read here."""

import json
from pathlib import Path

import numpy as np
import pytest

from mri_minority.volumes.channels import chosen
from mri_minority.volumes.discover import Found, discover
from mri_minority.volumes.same_names import told_apart
from tests.support.dicoms import head, write_series


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def sources(folder: Path, *names: str) -> list[Found]:
    return told_apart(discover([folder / name for name in names]))


def said(found: list[Found]) -> dict[str, str]:
    """Series -> subject; every series must be of one image."""
    assert len({item.series for item in found}) == len(found)
    return {item.series: item.subject for item in found}


@pytest.mark.parametrize(
    ("layout", "images", "labels"),
    [("", "", ""), ("", "images/", "labels/"), ("", "imagesTr/", "labelsTr/"), ("/data", "images/", "labels/")],
)
def test_one_name_in_two_folders_is_two_series_of_one_subject(
    tmp_path: Path, layout: str, images: str, labels: str
) -> None:
    """Never one person in training and hold-out, whatever the folders are: sites, visits, or copies of a study."""
    for site in ("siteA", "siteB"):
        touch(tmp_path / (site + layout), *[f"{images}{n}_T1.nii.gz" for n in ("001", "002")])
        touch(tmp_path / (site + layout), *[f"{labels}{n}_seg.nii.gz" for n in ("001", "002")])
    touch(tmp_path / ("siteB" + layout), f"{images}003_T1.nii.gz")
    found = sources(tmp_path, "siteA" + layout, "siteB" + layout)
    end = layout.replace("/", "_")
    assert said(found) == {
        **{f"{site}{end}_{n}_T1": n for site in ("siteA", "siteB") for n in ("001", "002")},
        "003_T1": "003",
    }
    assert [item.shares_name for item in found] == ["003" not in item.series for item in found]
    for item in found:
        assert item.label is None if "003" in item.series else item.label is not None
        assert item.label is None or item.series.startswith(item.label.relative_to(tmp_path).parts[0])


def test_series_do_not_depend_on_where_the_folders_lie(tmp_path: Path) -> None:
    for place in ("here", "there/deeper"):
        for site in ("siteA", "siteB"):
            touch(tmp_path / place / site, "001.nii.gz")
    found = [said(sources(tmp_path / place, "siteA", "siteB")) for place in ("here", "there/deeper")]
    assert found[0] == found[1]
    assert said(sources(tmp_path / "here", "siteB", "siteA")) == found[0]


def test_nothing_changes_where_names_differ(tmp_path: Path) -> None:
    touch(tmp_path, "a/anna_T1.nii.gz", "a/bert_T1.nii.gz", "b/anna_FLAIR.nii.gz", "b/carl_T1.nii.gz", "b/T1.nii.gz")
    before = discover([tmp_path / "a", tmp_path / "b"])
    assert told_apart(before) == before
    assert not any(item.shares_name for item in told_apart(before))


def test_a_list_with_a_folder_for_every_case(tmp_path: Path) -> None:
    """The files are called after sequences; who it is, the folder says. What belongs together stays together."""
    cases = ("case1", "case2", "case3")
    touch(tmp_path, *[f"{case}/{name}.nii.gz" for case in cases for name in ("T1", "FLAIR", "seg")])
    entries = [
        {"image": [f"{case}/T1.nii.gz", f"{case}/FLAIR.nii.gz"], "label": f"{case}/seg.nii.gz", "site": "HH"}
        for case in cases
    ]
    content = {"training": entries, "modality": {"0": "T1", "1": "FLAIR"}}
    (tmp_path / "dataset.json").write_text(json.dumps(content), encoding="utf-8")
    found = sources(tmp_path, ".")
    assert said(found) == {f"{case}_{name}": case for case in cases for name in ("T1", "FLAIR")}
    heads = chosen(found, ("T1", "FLAIR"), None)
    assert [(h.subject, h.series, h.site, h.problem) for h in heads] == [(c, f"{c}_T1", "HH", None) for c in cases]
    assert all(h.label is not None and h.label.parent.name == h.subject for h in heads)
    assert all(image.image.parent.name == h.subject for h in heads for image in h.images)
    assert not any(item.shares_name for item in found)


def test_cases_with_other_sequences_are_told_by_their_folders_too(tmp_path: Path) -> None:
    touch(tmp_path, "case1/T1.nii", "case1/FLAIR.nii", "case2/T1c.nii", "case3/T1_run-2.nii", "case3/scan.nii")
    found = said(sources(tmp_path, "case1", "case2", "case3"))
    assert list(found.values()) == ["case1", "case1", "case2", "case3", "case3"]


@pytest.mark.parametrize("stem", ["image", "brain_T1w", "T1_run-1", "mr"])
def test_a_name_that_any_image_could_have_says_nobody(tmp_path: Path, stem: str) -> None:
    touch(tmp_path, *[f"{n}/visit1/{stem}.nii.gz" for n in ("p01", "p02")], f"p02/visit2/{stem}.nii.gz")
    folders = ("p01/visit1", "p02/visit1", "p02/visit2")
    assert list(said(sources(tmp_path, *folders)).values()) == ["p01", "p02", "p02"]


@pytest.mark.parametrize(
    ("one", "two"),
    [("T1", "FLAIR"), ("ses-1", "ses-2"), ("2020-01-01", "2021-02-02"), ("IXI-T1", "IXI-T2"), ("raw", "corrected")],
)
def test_folders_for_sequences_visits_and_steps_hold_the_same_people(tmp_path: Path, one: str, two: str) -> None:
    touch(tmp_path, f"{one}/001.nii.gz", f"{two}/001.nii.gz", f"{two}/002.nii.gz")
    found = said(sources(tmp_path, one, two))
    assert list(found.values()) == ["001", "001", "002"]
    assert set(found) == {f"{one}_001", f"{two}_001", "002"}


def bids(folder: Path, *sessions: str) -> Path:
    names = [f"sub-01/{ses}/anat/sub-01_{ses}_T1w.nii.gz" for ses in sessions]
    return touch(folder, *names, *[name.replace("T1w", "dseg") for name in names])


def test_a_bids_label_is_one_subject_in_every_dataset(tmp_path: Path) -> None:
    bids(tmp_path / "one", "ses-1", "ses-2")
    assert set(said(sources(tmp_path, "one")).values()) == {"sub-01"}
    (tmp_path / "one" / "participants.tsv").write_text("participant_id\tsite\nsub-01\tHH\n", encoding="utf-8")
    bids(tmp_path / "two", "ses-1")
    found = sources(tmp_path, "one", "two")
    assert set(said(found).values()) == {"sub-01"}
    assert [item.site for item in found] == ["HH", "HH", ""]
    assert all(item.label is not None for item in found)


def test_dicom_files_are_known_by_their_headers(tmp_path: Path) -> None:
    """Not even those that cannot be read get the names of their folders."""
    for place in ("smith", "jones"):
        files = write_series(tmp_path / place, head((8, 8, 4)), np.diag([4.0, 4.0, 4.0, 1.0]), uid=place, patient=place)
        (tmp_path / place / "broken.dcm").write_bytes(files[0].read_bytes()[:300])
    before = discover([tmp_path / "smith", tmp_path / "jones"])
    assert len(before) == 4
    assert told_apart(before) == before


def test_prefixes_that_run_into_names_are_refused(tmp_path: Path) -> None:
    touch(tmp_path, "a/b_c.nii", "a/c.nii", "a_b/c.nii", "a_b/b_c.nii")
    problems = [item.problem for item in sources(tmp_path, "a", "a_b")]
    assert sum("expected a name for each image" in str(problem) for problem in problems) == 2
