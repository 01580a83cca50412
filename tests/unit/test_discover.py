"""Which files are found, which label map goes with which image, and who is on it. Only names are read here."""

import os
import sys
from pathlib import Path

import pytest

from mri_minority.core.errors import DataError
from mri_minority.volumes.discover import Found, discover, write_quarantine
from mri_minority.volumes.file_names import subject_of


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def pairs(found: list[Found]) -> dict[str, str | None]:
    """Image name -> label name; nothing may have a problem."""
    assert [item.problem for item in found if item.problem] == []
    return {item.image.name: item.label.name if item.label else None for item in found}


def subjects(found: list[Found]) -> dict[str, str]:
    return {item.series: item.subject for item in found}


@pytest.mark.parametrize(
    ("name", "subject"),
    [
        ("IXI013-HH-1212_T1", "IXI013-HH-1212"),
        ("IXI013-HH-1212-T1", "IXI013-HH-1212"),
        ("IXI013-HH-1212-PD", "IXI013-HH-1212"),
        ("IXI013-HH-1212_T1_brain", "IXI013-HH-1212"),
        ("TCGA_CS_4941_19960909_FLAIR", "TCGA_CS_4941"),
        ("TCGA_CS_4941_19960909", "TCGA_CS_4941"),
        ("TCGA_CS_4941_1996-09-09_t1ce", "TCGA_CS_4941"),
        ("TCGA_CS_4941", "TCGA_CS_4941"),
        ("phantom-001_T1", "phantom-001"),
        ("patient07_FLAIR", "patient07"),
        ("BraTS-GLI-00000-000-t1n", "BraTS-GLI-00000-000"),
        ("p1_ses-02_T1w", "p1"),
        ("p1_T1_run-2", "p1"),
        ("p1_visit3", "p1"),
        ("sub-01_ses-2_run-1_T1w", "sub-01"),
        ("sub-OAS30001_T1w", "sub-OAS30001"),
        ("case_0001", "case_0001"),
        ("case_12345678", "case_12345678"),  # eight digits, but no date
        ("20200101", "20200101"),
        ("T1", "T1"),
        ("T1_smith", "T1_smith"),
        ("PD_001_T1", "PD_001"),
        ("site_PD_001", "site_PD_001"),
        ("site_PD_smith_T1", "site_PD_smith"),
        ("S-T1-004_FLAIR", "S-T1-004"),
        ("patient 1 T1", "patient 1"),
        ("Jörg's_T2", "Jörg's"),
        ("T1000_scan", "T1000_scan"),
    ],
)
@pytest.mark.parametrize("ending", [".nii", ".nii.gz", ".NII.GZ"])
def test_subject(name: str, subject: str, ending: str) -> None:
    assert subject_of(Path("somewhere") / f"{name}{ending}") == subject


def test_images_and_labels(tmp_path: Path) -> None:
    touch(
        tmp_path,
        "images/IXI013-HH-1212_T1.nii.gz",
        "images/IXI014-HH-1236_T1.nii.gz",
        "images/phantom-001_T1.nii",
        "images/same.nii.gz",
        "images/TCGA_CS_4941_19960909_FLAIR.nii.gz",
        "labels/IXI013-HH-1212_DLMUSE.nii.gz",
        "labels/IXI015-HH-1258_DLMUSE.nii.gz",
        "labels/phantom-001_seg.nii.gz",
        "labels/same.nii.gz",
        "labels/TCGA_CS_4941_19960909_lesion.nii.gz",
        "images/notes.txt",
    )
    found = discover([tmp_path])
    assert pairs(found) == {
        "IXI013-HH-1212_T1.nii.gz": "IXI013-HH-1212_DLMUSE.nii.gz",
        "IXI014-HH-1236_T1.nii.gz": None,
        "TCGA_CS_4941_19960909_FLAIR.nii.gz": "TCGA_CS_4941_19960909_lesion.nii.gz",
        "phantom-001_T1.nii": "phantom-001_seg.nii.gz",
        "same.nii.gz": "same.nii.gz",
    }
    assert found[0].image == tmp_path / "images" / "IXI013-HH-1212_T1.nii.gz"
    assert found[0].label == tmp_path / "labels" / "IXI013-HH-1212_DLMUSE.nii.gz"
    assert found[0].series == "IXI013-HH-1212_T1"


@pytest.mark.parametrize(
    ("images", "labels", "expected"),
    [
        # one label map for all sequences of a patient
        (["p1_T1", "p1_FLAIR"], ["p1_seg"], {"p1_T1": "p1_seg", "p1_FLAIR": "p1_seg"}),
        # one for each
        (["p1_T1", "p1_FLAIR"], ["p1_T1", "p1_FLAIR"], {"p1_T1": "p1_T1", "p1_FLAIR": "p1_FLAIR"}),
        (["p1_T1", "p1_FLAIR"], ["p1_T1_seg", "p1_FLAIR_seg"], {"p1_T1": "p1_T1_seg", "p1_FLAIR": "p1_FLAIR_seg"}),
        # one for one of them
        (["p1_T1", "p1_FLAIR"], ["p1_T1_seg"], {"p1_T1": "p1_T1_seg", "p1_FLAIR": None}),
        # a name that begins like another
        (["p1", "p1_T2", "p10"], ["p1", "p1_T2", "p10"], {"p1": "p1", "p1_T2": "p1_T2", "p10": "p10"}),
        (["p1", "p10"], ["p10_seg"], {"p1": None, "p10": "p10_seg"}),
        # a neighbour's label map is never taken
        (["case_013_T1"], ["case_014_seg"], {"case_013_T1": None}),
        (["smith_john_T1"], ["smith_jane_seg"], {"smith_john_T1": None}),
        (["case_1_T1"], ["case_1_2_seg"], {"case_1_T1": None}),
        (["p1_ses-1_T1"], ["p1_ses-2_seg"], {"p1_ses-1_T1": None}),
        (["p1_20200101_T1"], ["p1_20210101_seg"], {"p1_20200101_T1": None}),
        # words that are not known
        (["p1_T1_brain"], ["p1_DLMUSE"], {"p1_T1_brain": "p1_DLMUSE"}),
        (["p1_T1"], ["p1_manual_atlas"], {"p1_T1": "p1_manual_atlas"}),
        # nnU-Net names in other folders
        (["la_003_0000", "la_004_0000"], ["la_003", "la_004"], {"la_003_0000": "la_003", "la_004_0000": "la_004"}),
        # four digits that are no channel
        (["case_0000", "case_0001"], ["case_0000", "case_0001"], {"case_0000": "case_0000", "case_0001": "case_0001"}),
    ],
)
@pytest.mark.parametrize("order", [1, -1])
def test_which_label_goes_with_which_image(
    tmp_path: Path, images: list[str], labels: list[str], expected: dict[str, str | None], order: int
) -> None:
    touch(tmp_path, *[f"images/{n}.nii.gz" for n in images[::order]], *[f"labels/{n}.nii.gz" for n in labels[::order]])
    full = {f"{k}.nii.gz": f"{v}.nii.gz" if v else None for k, v in expected.items()}
    assert pairs(discover([tmp_path])) == full


@pytest.mark.parametrize(("images", "labels"), [("images", "labels"), ("imagesTr", "labelsTr")])
def test_two_labels_for_one_image_are_a_problem(tmp_path: Path, images: str, labels: str) -> None:
    touch(tmp_path, f"{images}/p1_0000.nii.gz", f"{images}/p2_0000.nii.gz")
    touch(tmp_path, f"{labels}/p1_seg.nii.gz", f"{labels}/p1_lesion.nii.gz", f"{labels}/p2.nii.gz")
    one, two = discover([tmp_path])
    assert one.label is None
    assert one.problem is not None
    assert "found 2: p1_lesion.nii.gz, p1_seg.nii.gz" in one.problem
    assert (two.label, two.problem) == (tmp_path / labels / "p2.nii.gz", None)


def test_images_without_a_folder_of_labels(tmp_path: Path) -> None:
    assert pairs(discover([touch(tmp_path, "images/a_T1.nii.gz")])) == {"a_T1.nii.gz": None}


def test_nnunet(tmp_path: Path) -> None:
    touch(tmp_path, *[f"imagesTr/case_{n:04d}_{c:04d}.nii.gz" for n in range(2) for c in range(2)])
    touch(tmp_path, "labelsTr/case_0000.nii.gz", "labelsTr/case_0001.nii.gz", "imagesTs/case_0009_0000.nii.gz")
    found = discover([tmp_path])
    assert pairs(found) == {
        "case_0000_0000.nii.gz": "case_0000.nii.gz",
        "case_0000_0001.nii.gz": "case_0000.nii.gz",
        "case_0001_0000.nii.gz": "case_0001.nii.gz",
        "case_0001_0001.nii.gz": "case_0001.nii.gz",
    }
    assert [item.subject for item in found] == ["case_0000", "case_0000", "case_0001", "case_0001"]


def test_nnunet_with_a_single_case(tmp_path: Path) -> None:
    found = discover([touch(tmp_path, "imagesTr/p1_0000.nii", "imagesTr/p1_0001.nii", "labelsTr/p1.nii")])
    assert pairs(found) == {"p1_0000.nii": "p1.nii", "p1_0001.nii": "p1.nii"}
    assert [item.subject for item in found] == ["p1", "p1"]


def test_decathlon_names_in_the_same_folders(tmp_path: Path) -> None:
    touch(tmp_path, *[f"{folder}/case_000{n}.nii.gz" for folder in ("imagesTr", "labelsTr") for n in range(3)])
    found = discover([tmp_path])
    assert pairs(found) == {f"case_000{n}.nii.gz": f"case_000{n}.nii.gz" for n in range(3)}
    assert len({item.subject for item in found}) == 3


def test_bids(tmp_path: Path) -> None:
    touch(
        tmp_path,
        "dataset_description.json",
        "sub-01/anat/sub-01_T1w.nii.gz",
        "sub-01/anat/sub-01_T1w.json",
        "sub-01/anat/sub-01_dseg.nii.gz",
        "sub-01/anat/sub-01_desc-brain_mask.nii.gz",
        "sub-01/func/sub-01_task-rest_bold.nii.gz",
        "sub-02/ses-1/anat/sub-02_ses-1_T1w.nii.gz",
        "sub-02/ses-1/anat/sub-02_ses-1_FLAIR.nii.gz",
        "sub-02/ses-2/anat/sub-02_ses-2_T1w.nii.gz",
        "sub-02/ses-2/anat/sub-02_ses-2_defacemask.nii.gz",
        "sub-03/anat/sub-03_run-1_T1w.nii.gz",
        "sub-03/anat/sub-03_run-2_T1w.nii.gz",
        "derivatives/tool/sub-02/ses-1/anat/sub-02_ses-1_desc-preproc_T1w.nii.gz",
        "derivatives/tool/sub-02/ses-1/anat/sub-02_ses-1_dseg.nii.gz",
        "derivatives/tool/sub-02/ses-1/anat/sub-02_ses-1_label-GM_probseg.nii.gz",
        "derivatives/tool/sub-03/anat/sub-03_run-2_space-orig_dseg.nii.gz",
    )
    found = discover([tmp_path])
    assert pairs(found) == {
        "sub-01_T1w.nii.gz": "sub-01_dseg.nii.gz",
        "sub-02_ses-1_FLAIR.nii.gz": "sub-02_ses-1_dseg.nii.gz",
        "sub-02_ses-1_T1w.nii.gz": "sub-02_ses-1_dseg.nii.gz",
        "sub-02_ses-2_T1w.nii.gz": None,
        "sub-03_run-1_T1w.nii.gz": None,
        "sub-03_run-2_T1w.nii.gz": "sub-03_run-2_space-orig_dseg.nii.gz",
    }
    assert {item.subject for item in found} == {"sub-01", "sub-02", "sub-03"}


def test_bids_with_two_segmentations(tmp_path: Path) -> None:
    touch(tmp_path, *[f"sub-1/anat/sub-1_{n}.nii" for n in ("T1w", "desc-aseg_dseg", "desc-aparcaseg_dseg")])
    (item,) = discover([tmp_path])
    assert item.label is None
    assert item.problem is not None
    assert "found 2" in item.problem


def test_flat_folder(tmp_path: Path) -> None:
    touch(
        tmp_path, "p1_T1.nii.gz", "p1_seg.nii.gz", "p1_FLAIR.nii", "p2_20200101_T1.nii", "p2_20210101_T1.nii", "x.txt"
    )
    found = discover([tmp_path])
    assert pairs(found) == {
        "p1_FLAIR.nii": "p1_seg.nii.gz",
        "p1_T1.nii.gz": "p1_seg.nii.gz",
        "p2_20200101_T1.nii": None,
        "p2_20210101_T1.nii": None,
    }
    assert [item.subject for item in found] == ["p1", "p1", "p2", "p2"]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["a_0000", "a_0001", "b_0000"], ["a", "a", "b"]),
        (["a_0000", "a_0001", "a_0002"], ["a_0000", "a_0001", "a_0002"]),
        (["a_0001", "b_0001"], ["a_0001", "b_0001"]),
        (["a_0000", "b_0000", "c"], ["a_0000", "b_0000", "c"]),
    ],
)
def test_four_digits_are_a_channel_only_when_all_agree(tmp_path: Path, names: list[str], expected: list[str]) -> None:
    found = discover([touch(tmp_path, *[f"{name}.nii.gz" for name in names])])
    assert [item.subject for item in found] == expected


def test_single_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Named one by one, `*.nii.gz` of a shell for example, they are what they are in their folder."""
    touch(tmp_path, "b_T1.nii", "a_T1.nii.gz", "a_seg.nii.gz", "n/imagesTr/c_0000.nii.gz", "n/labelsTr/c.nii.gz")
    expected = [
        Found(tmp_path / "b_T1.nii", None, "b", "b_T1"),
        Found(tmp_path / "a_T1.nii.gz", tmp_path / "a_seg.nii.gz", "a", "a_T1"),
    ]
    files = [tmp_path / "b_T1.nii", tmp_path / "a_T1.nii.gz"]
    assert discover(files) == expected
    assert discover([tmp_path / "a_seg.nii.gz", *files]) == expected
    (channel,) = discover([tmp_path / "n" / "imagesTr" / "c_0000.nii.gz"])
    assert (channel.label, channel.subject, channel.channel) == (tmp_path / "n" / "labelsTr" / "c.nii.gz", "c", 0)
    with pytest.raises(DataError, match="called as label maps are"):
        discover([tmp_path / "a_seg.nii.gz"])
    monkeypatch.chdir(tmp_path / "n" / "imagesTr")
    (here,) = discover([Path("c_0000.nii.gz")])
    assert (here.label, here.subject) == (tmp_path / "n" / "labelsTr" / "c.nii.gz", "c")


def test_sources_that_overlap_are_listed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "data/p1_T1.nii", "data/p1_seg.nii", "data/p2_T1.nii")
    monkeypatch.chdir(tmp_path)
    found = discover([Path("data"), tmp_path / "data" / "p1_T1.nii", tmp_path / "data" / ".." / "data"])
    assert len(found) == 2
    assert pairs(found) == {"p1_T1.nii": "p1_seg.nii", "p2_T1.nii": None}


def test_hidden_files_are_left_out(tmp_path: Path) -> None:
    touch(tmp_path, "images/._p1_T1.nii.gz", "images/.p2.nii.gz", "images/.nii.gz", "images/p1_T1.nii.gz")
    touch(tmp_path, "labels/p1_seg.nii.gz", "labels/._p1_seg.nii.gz")
    assert pairs(discover([tmp_path])) == {"p1_T1.nii.gz": "p1_seg.nii.gz"}


@pytest.mark.skipif(sys.platform == "win32", reason="Windows allows no such names")
@pytest.mark.parametrize(
    "odd", ["two words", "it's", 'said "no"', "line\nbreak", "tab\tbed", "Ünï cödé 脳", "100%", "[a]*"]
)
def test_odd_names(tmp_path: Path, odd: str) -> None:
    touch(tmp_path / odd, f"images/{odd}_T1.nii.gz", f"labels/{odd}_seg.nii.gz", "images/other_T1.nii.gz")
    found = discover([tmp_path / odd])
    assert pairs(found) == {f"{odd}_T1.nii.gz": f"{odd}_seg.nii.gz", "other_T1.nii.gz": None}
    assert subjects(found) == {f"{odd}_T1": odd, "other_T1": "other"}


@pytest.mark.skipif(sys.platform != "linux", reason="only there may a name be no text")
def test_a_name_that_is_no_text_is_a_problem(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9_T1.nii.gz")
    touch(tmp_path, name, "good_T1.nii.gz")
    bad, good = sorted(discover([tmp_path]), key=lambda item: item.problem is None)
    assert good.problem is None
    assert bad.problem is not None
    assert "UTF-8" in bad.problem
    assert bad.subject.encode("utf-8") == b"caf\\udce9"
    write_quarantine(tmp_path / "q.tsv", [(str(bad.image), bad.problem)])
    assert "caf\\udce9_T1.nii.gz\texpected" in (tmp_path / "q.tsv").read_text(encoding="utf-8")


def test_a_link_that_leads_nowhere_is_a_problem(tmp_path: Path) -> None:
    touch(tmp_path, "p1_T1.nii.gz", "p2_T1.nii.gz", "p2_seg.nii.gz")
    (tmp_path / "p1_seg.nii.gz").symlink_to(tmp_path / "annex" / "label")
    (tmp_path / "p3_T1.nii.gz").symlink_to(tmp_path / "annex" / "image")
    problems = {item.image.name: item.problem for item in discover([tmp_path])}
    assert problems["p2_T1.nii.gz"] is None
    assert "p1_seg.nii.gz is a link" in str(problems["p1_T1.nii.gz"])
    assert "p3_T1.nii.gz is a link" in str(problems["p3_T1.nii.gz"])


def test_one_name_twice_is_a_problem(tmp_path: Path) -> None:
    found = discover([touch(tmp_path, "p1_T1.nii", "p1_T1.nii.gz", "p2_T1.nii")])
    assert [item.problem is not None for item in found] == [True, True, False]
    assert "remove one" in str(found[0].problem)


def test_a_problem_is_one_line(tmp_path: Path) -> None:
    touch(tmp_path, "a\nb_T1.nii", "a\nb_seg.nii", "a\nb_mask.nii")
    (item,) = discover([tmp_path])
    assert len(str(item.problem).splitlines()) == 1
    assert r"'a\nb_seg.nii'" in str(item.problem)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("missing", "missing does not exist"),
        ("empty", "in .*empty, found none"),
        ("other", "in .*other, found none"),
        ("masks", "in .*masks, found none"),
        ("hollow", "in .*hollow, found none"),
        ("other/notes.txt", r"expected a \.nii or \.nii\.gz file or a folder of them, found .*notes\.txt"),
    ],
)
def test_a_source_without_images_is_refused(tmp_path: Path, source: str, words: str) -> None:
    touch(tmp_path, "other/notes.txt", "masks/p1_seg.nii.gz", "good/p1.nii.gz", "hollow/labels/a.nii")
    for folder in ("empty", "hollow/images"):
        (tmp_path / folder).mkdir()
    with pytest.raises(DataError, match=words) as refused:
        discover([tmp_path / "good", tmp_path / source])
    assert len(str(refused.value).splitlines()) == 1


def test_a_folder_that_cannot_be_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path) -> None:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(DataError, match="Permission denied; check the path"):
        discover([tmp_path])


def test_order_does_not_depend_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, *[f"images/p{n}_T1.nii" for n in range(9)], *[f"labels/p{n}_seg.nii" for n in range(9)])
    expected = discover([tmp_path])
    listed = Path.iterdir
    monkeypatch.setattr(Path, "iterdir", lambda self: iter(sorted(listed(self), reverse=True)))
    assert discover([tmp_path]) == expected
    assert [item.series for item in expected] == [f"p{n}_T1" for n in range(9)]


def test_quarantine_can_be_read_back(tmp_path: Path) -> None:
    rows = [("a\tb\\c\n.nii", 'said "no"\r\n'), ("plain é.nii", "separator\u2028, bell\a"), ("\\t", "")]
    write_quarantine(tmp_path / "new" / "quarantine.tsv", rows)
    text = (tmp_path / "new" / "quarantine.tsv").read_text(encoding="utf-8")
    lines = text.splitlines()
    assert lines[0] == "file\treason"
    assert lines[1] == 'a\\tb\\\\c\\n.nii\tsaid "no"\\r\\n'
    assert lines[2] == "plain é.nii\tseparator\\u2028, bell\\x07"
    assert lines[3] == "\\\\t\t"
    assert len(lines) == 4
    assert text.endswith("\n")


@pytest.mark.real_data
@pytest.mark.parametrize(("folder", "count"), [("ixi", 148), ("lgg", 88), ("ms", 2)])
def test_public_data_are_all_paired(real_data: Path, folder: str, count: int) -> None:
    found = discover([real_data / folder])
    assert len(found) == len({item.subject for item in found}) == count
    for item in found:
        assert item.problem is None
        assert item.label is not None
        assert item.image.name.startswith(item.subject)
        # Image and label agree in all but their last word.
        assert item.image.name.rsplit("_", 1)[0] == item.label.name.rsplit("_", 1)[0]
