"""Every layout: what lies where, who validates, that equal sources give equal bytes, and what the tools say of it."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pydicom
import pytest
import SimpleITK
from pydicom.dataset import Dataset
from pydicom.pixels import apply_modality_lut, apply_voi_lut

from mri_minority.core.errors import AuditError, DataError, UsageError
from mri_minority.export.dataset import read_manifest, verify_dataset, write_manifest
from mri_minority.export.exporter import Exporter
from mri_minority.export.nifti import export_slice, listed, read_plane
from mri_minority.slices.store import SliceStore
from mri_minority.volumes.atomic import sha256_of, write_json_atomic
from mri_minority.volumes.dicom import find_series
from mri_minority.volumes.dicom_volume import read_dicom_volume
from mri_minority_pipelines.stages import export
from tests.support.drawn import NAMES, PLANE, pictures, write_drawn, write_store
from tests.support.tiny import silent

REAL = ("nifti", "nnunet", "monai")


@pytest.fixture(scope="module", params=[("",), ("T1", "FLAIR")], ids=["one channel", "two channels"])
def sequences(request: pytest.FixtureRequest) -> tuple[str, ...]:
    """Everything here holds for slices of several image channels too."""
    found: tuple[str, ...] = request.param
    return found


@pytest.fixture(scope="module")
def source(sequences: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_drawn(tmp_path_factory.mktemp("drawn") / "rare slices", sequences=sequences)


@pytest.fixture(scope="module")
def store(sequences: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> SliceStore:
    return write_store(tmp_path_factory.mktemp("stores") / "store", channels=len(sequences))


def exported(source: Path, layout: str, out: Path, real: Path | None = None, sequence: str | None = None) -> Path:
    export.run(source, layout, out, silent, real, sequence)
    return out


def content(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.parametrize("layout", export.LAYOUTS)
def test_every_exporter_is_one(layout: str, tmp_path: Path) -> None:
    assert isinstance(export.LAYOUTS[layout](tmp_path), Exporter)


@pytest.mark.parametrize("layout", export.LAYOUTS)
def test_the_same_source_gives_the_same_bytes(layout: str, source: Path, store: SliceStore, tmp_path: Path) -> None:
    real = store.folder if layout in REAL else None
    first = content(exported(source, layout, tmp_path / "a" / "x", real))
    assert first == content(exported(source, layout, tmp_path / "b" / "x", real))
    assert len(first) > 10


@pytest.mark.parametrize("layout", export.LAYOUTS)
def test_verify_notices_every_change(layout: str, source: Path, tmp_path: Path) -> None:
    folder = exported(source, layout, tmp_path / "x")
    assert verify_dataset(folder) == []
    names = [name for name in content(folder) if name != "manifest.json"]
    for name in names[:: max(1, len(names) // 5)]:
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data + b"x")
        assert verify_dataset(folder) == [f"{name} has changed since it was written"]
        (folder / name).unlink()
        assert verify_dataset(folder) == [f"{name} is missing"]
        (folder / name).write_bytes(data)
    (folder / "extra.txt").write_text("x", encoding="utf-8")
    assert verify_dataset(folder) == ["extra.txt is not in the manifest"]


@pytest.mark.parametrize("layout", [*REAL, "bids"])
def test_verify_looks_into_the_files_too(layout: str, source: Path, store: SliceStore, tmp_path: Path) -> None:
    """A file that was replaced, its hash in the manifest with it: moved, unmarked, of another kind."""
    folder = exported(source, layout, tmp_path / "Dataset501_Rare", store.folder if layout in REAL else None)
    file = next(p for p in sorted(folder.rglob("*.nii.gz")) if "synth" in p.name)
    name = file.relative_to(folder).as_posix()
    picture = nib.nifti1.load(file)
    moved = picture.affine.copy()
    moved[0, 3] += 1
    plain = nib.nifti1.Nifti1Image(np.asarray(picture.dataobj), moved)
    plain.header.set_xyzt_units("mm")
    plain.to_filename(file)
    manifest = json.loads((folder / "manifest.json").read_text())
    for entry in manifest["files"]:
        if entry["path"] == name:
            entry["sha256"] = sha256_of(file)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    problems = verify_dataset(folder)
    assert all(problem.startswith(f"{name}: ") for problem in problems)
    assert {"is not marked synthetic", "lies elsewhere than the manifest says"} <= {p.split(": ")[1] for p in problems}


@pytest.mark.parametrize("layout", REAL)
def test_nobody_is_named_and_real_slices_are_said_to_be_real(
    layout: str, source: Path, store: SliceStore, tmp_path: Path
) -> None:
    folder = exported(source, layout, tmp_path / "x", store.folder)
    everything = content(folder)
    assert not [name for name, data in everything.items() if b"Doe" in data or "Doe" in name]
    assert b"`real_*` are of" in everything["README.md"]
    for path in folder.rglob("real_*.nii.gz"):
        assert nib.nifti1.load(path).header["descrip"].item().startswith(b"REAL slice")
    for path in folder.rglob("synth_*.nii.gz"):
        assert nib.nifti1.load(path).header["descrip"].item().startswith(b"SYNTHETIC mri-minority")


def test_nnunet_layout(sequences: tuple[str, ...], source: Path, store: SliceStore, tmp_path: Path) -> None:
    folder = exported(source, "nnunet", tmp_path / "Dataset501_Rare", store.folder)
    dataset = json.loads((folder / "dataset.json").read_text())
    assert dataset["channel_names"] == ({"0": "T1", "1": "FLAIR"} if len(sequences) == 2 else {"0": "T1"})
    assert dataset["labels"] == {"background": 0, "grey_matter": 1, "lesion": 2}
    images = sorted(p.name for p in (folder / "imagesTr").iterdir())
    labels = sorted(p.name for p in (folder / "labelsTr").iterdir())
    channels = range(len(sequences))
    assert images == [name.replace(".nii.gz", f"_{c:04d}.nii.gz") for name in labels for c in channels]
    assert dataset["numTraining"] == len(labels) == 6 + 20
    assert len(list((folder / "imagesTs").iterdir())) == len(sequences) * len(list((folder / "labelsTs").iterdir()))
    assert len(list((folder / "labelsTs").iterdir())) == 4


def test_nnunet_in_a_folder_of_another_name(source: Path, tmp_path: Path) -> None:
    folder = exported(source, "nnunet", tmp_path / "out")
    assert (folder / "Dataset900_MriMinority" / "dataset.json").is_file()
    assert (folder / "manifest.json").is_file()


def validation_sets(folder: Path, layout: str) -> list[tuple[set[str], set[str]]]:
    """Training and validation names of every fold."""
    if layout == "nnunet":
        folds = json.loads((folder / "splits_final.json").read_text())
        return [(set(fold["train"]), set(fold["val"])) for fold in folds]
    entries = json.loads((folder / "dataset.json").read_text())["training"]
    named = [(Path(entry["label"]).name.removesuffix(".nii.gz"), entry["fold"]) for entry in entries]
    return [({n for n, f in named if f != k}, {n for n, f in named if f == k}) for k in range(5)]


@pytest.mark.parametrize("layout", ["nnunet", "monai"])
def test_synthetic_cases_are_never_validated_on(layout: str, source: Path, store: SliceStore, tmp_path: Path) -> None:
    folder = exported(source, layout, tmp_path / "Dataset501_Rare", store.folder)
    folds = validation_sets(folder, layout)
    assert len(folds) == 5
    everybody = set.union(*(train | validate for train, validate in folds))
    assert sum(name.startswith("synth_") for name in everybody) == 6
    for train, validate in folds:
        assert len(validate) == 4
        assert not [name for name in validate if name.startswith("synth_")]
        assert {name for name in everybody if name.startswith("synth_")} <= train
        # No subject is on both sides: the number before the last "_" stands for it.
        assert not {n.rsplit("_", 1)[0] for n in train} & {n.rsplit("_", 1)[0] for n in validate}
        assert train | validate == everybody
    assert set.union(*(validate for _, validate in folds)) == {n for n in everybody if n.startswith("real_")}


def test_without_real_cases_nothing_is_validated_on(source: Path, tmp_path: Path) -> None:
    folder = exported(source, "nnunet", tmp_path / "Dataset501_Rare")
    assert all(not validate and len(train) == 6 for train, validate in validation_sets(folder, "nnunet"))


def test_real_slices_are_those_of_the_store(source: Path, store: SliceStore, tmp_path: Path) -> None:
    folder = exported(source, "monai", tmp_path / "x", store.folder)
    image, label = store.read(np.arange(len(store.rows)))
    written = sorted([*folder.glob("labels*/real_*")], key=lambda p: p.name)
    files = [sorted(folder.glob(f"images*/{p.name.removesuffix('.nii.gz')}*")) for p in written]
    volumes = np.stack([[np.asarray(nib.nifti1.load(p).dataobj)[:, :, 0] for p in each] for each in files])
    for number, row in enumerate(store.rows):
        expected = (image[number] + 1) / 2 * (1.2 * np.array(row.scale)[:, None, None])
        place = int(np.abs(volumes - expected).max(axis=(1, 2, 3)).argmin())
        np.testing.assert_allclose(volumes[place], expected, rtol=1e-5, atol=1e-3)
        other = written[place]
        np.testing.assert_array_equal(np.asarray(nib.nifti1.load(other).dataobj)[:, :, 0], label[number])
        np.testing.assert_allclose(nib.nifti1.load(other).affine, np.array(row.affine).reshape(4, 4), atol=1e-4)


@pytest.mark.filterwarnings("ignore:NvImgCodecPydicomReader")
def test_monai_loads_its_list(sequences: tuple[str, ...], source: Path, store: SliceStore, tmp_path: Path) -> None:
    from monai.data import DataLoader, load_decathlon_datalist
    from monai.data import Dataset as MonaiDataset
    from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged

    folder = exported(source, "monai", tmp_path / "x", store.folder)
    training = load_decathlon_datalist(str(folder / "dataset.json"), True, "training")
    keys = ["image", "label"]
    # Of several files MONAI stacks the channels itself.
    alone = keys if len(sequences) == 1 else ["label"]
    steps = Compose([LoadImaged(keys), EnsureChannelFirstd(alone, channel_dim="no_channel")])
    batches = list(DataLoader(MonaiDataset(training, steps), batch_size=13))
    assert [tuple(batch["image"].shape) for batch in batches] == [(13, len(sequences), 32, 48, 1)] * 2
    assert set(np.unique(torch_to_array(batches[0]["label"]))) == {0, 1, 2}
    assert len(load_decathlon_datalist(str(folder / "dataset.json"), True, "test")) == 4


def torch_to_array(tensor: Any) -> Any:
    return tensor.as_tensor().numpy()


@pytest.mark.parametrize(
    ("sequence", "suffix"),
    [
        (None, "desc-synthetic_T1w"),
        ("FLAIR", "desc-synthetic_FLAIR"),
        ("t2w", "desc-synthetic_T2w"),
        ("T1,FLAIR", "desc-synthetic_T1w,desc-synthetic_FLAIR"),
        ("T1,T1ce", "desc-synthetic_T1w,ce-contrast_desc-synthetic_T1w"),
    ],
)
@pytest.mark.parametrize("names", [NAMES, ()])
def test_the_bids_validator_finds_no_error(
    sequence: str | None, suffix: str, names: tuple[str, ...], tmp_path: Path
) -> None:
    channels = tuple((sequence or "").split(","))
    source = write_drawn(tmp_path / "d", 3, names=names, sequences=channels)
    folder = exported(source, "bids", tmp_path / "x", None, sequence)
    for ending in suffix.split(","):
        assert (folder / "sub-synth00001" / "anat" / f"sub-synth00001_{ending}.nii.gz").is_file()
    assert verify_dataset(folder) == []
    tool = shutil.which("bids-validator-deno")
    if tool is None:
        pytest.skip("bids-validator-deno is not installed")
    result = subprocess.run([tool, "--json", str(folder)], capture_output=True, text=True, check=False)
    issues = json.loads(result.stdout)["issues"]["issues"]
    assert [issue for issue in issues if issue["severity"] == "error"] == []


def test_a_sequence_without_a_bids_suffix_is_refused(source: Path, tmp_path: Path) -> None:
    swi = ",".join(["SWI", "T1"][: len(np.atleast_1d(json.loads((source / "manifest.json").read_text())["white"]))])
    with pytest.raises(DataError, match="suffix"):
        exported(source, "bids", tmp_path / "x", None, swi)
    assert not (tmp_path / "x").exists()


def test_dicom_images_hold_the_pixels(sequences: tuple[str, ...], source: Path, tmp_path: Path) -> None:
    """Read by GDCM, through SimpleITK; every channel is a series of one examination."""
    folder = exported(source, "dicom", tmp_path / "x")
    images, _ = pictures(6, channels=len(sequences))
    for item in range(6):
        files = sorted((folder / f"synth_{item:05d}").glob("image*.dcm"))
        for file, plane in zip(files, images[item], strict=True):
            values = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(file)))[0]
            np.testing.assert_allclose(values.T[::-1, ::-1], (plane + 1) / 2 * 240, atol=240 / 32767)
        headers = [pydicom.dcmread(file, stop_before_pixels=True) for file in files]
        assert len({h.SeriesInstanceUID for h in headers}) == len(sequences)
        assert len({(h.StudyInstanceUID, h.FrameOfReferenceUID) for h in headers}) == 1


def test_dicom_headers_say_synthetic_and_name_nobody(source: Path, tmp_path: Path) -> None:
    folder = exported(source, "dicom", tmp_path / "x")
    uids = set()
    for file in sorted(folder.rglob("*.dcm")):
        header = pydicom.dcmread(file)
        assert header.SyntheticData == "YES"
        assert str(header.PatientName).startswith("SYNTHETIC^")
        assert header.PatientID.startswith("SYNTHETIC-")
        assert "SYNTHETIC" in header.SeriesDescription
        assert not header.PatientBirthDate
        assert not header.StudyDate
        uids.add(header.SOPInstanceUID)
    assert len(uids) == len(list(folder.rglob("*.dcm"))) >= 12


def test_dicom_numbers_belong_to_what_is_shown(sequences: tuple[str, ...], source: Path, tmp_path: Path) -> None:
    """Two sets of one model and seed share no UID and no patient, unless a slice is the same."""
    found = []
    other = shutil.copytree(source, tmp_path / "other")
    manifest = read_manifest(other)
    row = manifest["slices"][1]
    row |= export_slice(
        other,
        row["name"],
        np.stack([read_plane(other / name) * 0.9 for name in listed(row["image"])]),
        read_plane(other / row["label"]),
        np.array(row["affine"]),
        {},
    )
    write_manifest(other, {k: v for k, v in manifest.items() if k not in ("slices", "format")}, manifest["slices"])
    for number, folder in enumerate((source, other)):
        out = exported(folder, "dicom", tmp_path / str(number))
        headers = [pydicom.dcmread(file) for file in sorted(out.rglob("*.dcm"))]
        found.append({(h.PatientID, h.StudyInstanceUID, h.SOPInstanceUID) for h in headers})
    same = found[0] & found[1]
    assert len(found[0]) - len(same) == len(sequences) + 1
    for part in range(3):
        changed = [{number[part] for number in numbers - same} for numbers in found]
        assert not changed[0] & changed[1]


def test_dicom_windows_of_small_intensities(tmp_path: Path) -> None:
    """White at 0.6: the window is read as it is meant, from 0 to white."""
    folder = write_drawn(tmp_path / "set", count=1)
    manifest = read_manifest(folder)
    image = read_plane(folder / manifest["slices"][0]["image"]) / 400
    row = export_slice(folder, "synth_00000", image[None], None, PLANE, {})
    header = {k: v for k, v in manifest.items() if k not in ("slices", "format")} | {"white": [0.6]}
    write_manifest(folder, header, [manifest["slices"][0] | row | {"label": None}])
    file = next(exported(folder, "dicom", tmp_path / "x").rglob("image.dcm"))
    shown = pydicom.dcmread(file)
    seen = apply_voi_lut(apply_modality_lut(shown.pixel_array, shown), shown)
    scaled = (seen - seen.min()) / (seen.max() - seen.min())
    wanted = np.clip(image / 0.6, 0, 1).T[::-1, ::-1]
    np.testing.assert_allclose(scaled, (wanted - wanted.min()) / (wanted.max() - wanted.min()), atol=2e-3)


def test_maps_that_were_given_are_said_to_be(source: Path, tmp_path: Path) -> None:
    """No layout claims that nothing is of a person where the label map may be."""
    folder = shutil.copytree(source, tmp_path / "set")
    manifest = read_manifest(folder)
    for row in manifest["slices"]:
        row["trace"]["label_from"] = "training map"
    write_manifest(folder, {k: v for k, v in manifest.items() if k not in ("slices", "format")}, manifest["slices"])
    names = "T1,FLAIR" if len(manifest["white"]) > 1 else None
    for layout in export.LAYOUTS:
        out = exported(folder, layout, tmp_path / layout, None, names)
        text = "".join(p.read_text(encoding="utf-8") for p in out.rglob("*") if p.suffix in (".json", ".md", ".tsv"))
        assert "of no person" not in text
        assert "is of a person" not in text.replace("where that is of a person", "")
        for file in out.rglob("*.dcm"):
            assert "of no person" not in str(pydicom.dcmread(file, stop_before_pixels=True))


def test_real_slices_of_other_channels_or_sizes_are_refused(tmp_path: Path) -> None:
    store = write_store(tmp_path / "store")
    header = json.loads((store.folder / "store.json").read_text(encoding="utf-8"))
    write_json_atomic(store.folder / "store.json", {**header, "channel_names": ["FLAIR"]})
    drawn = write_drawn(tmp_path / "set", sequences=("T1",))
    with pytest.raises(DataError, match="expected image channels T1"):
        exported(drawn, "nnunet", tmp_path / "x", store.folder)
    manifest = read_manifest(drawn)
    small = np.zeros((1, 16, 16), np.float32)
    row = manifest["slices"][0] | export_slice(drawn, "synth_00000", small, small[0].astype(np.uint8), PLANE, {})
    write_manifest(drawn, {k: v for k, v in manifest.items() if k not in ("slices", "format")}, [row])
    with pytest.raises(DataError, match="expected slices of 16 x 16"):
        exported(drawn, "nnunet", tmp_path / "x", write_store(tmp_path / "other").folder)


def test_slices_may_go_to_a_link_or_here(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    (tmp_path / "here").mkdir()
    exported(source, "nifti", tmp_path / "link")
    assert verify_dataset(tmp_path / "disk") == []
    assert (tmp_path / "link").is_symlink()
    monkeypatch.chdir(tmp_path / "here")
    exported(source, "nifti", Path())
    assert verify_dataset(tmp_path / "here") == []


def test_derived_slices_are_refused_before_they_are_drawn(tmp_path: Path) -> None:
    def draw(out: Path) -> dict[str, Any]:
        raise AssertionError("it was drawn")

    with pytest.raises(AuditError, match="leave out --format bids"):
        export.drawn_as("bids", tmp_path / "x", draw, silent, derived=True)


def test_dicom_segmentations_hold_the_labels(sequences: tuple[str, ...], source: Path, tmp_path: Path) -> None:
    import highdicom

    folder = exported(source, "dicom", tmp_path / "x")
    _, labels = pictures(6, channels=len(sequences))
    for item in range(6):
        here = folder / f"synth_{item:05d}"
        segmentation = highdicom.seg.segread(here / "segmentation.dcm")
        assert [segmentation.get_segment_description(n).segment_label for n in (1, 2)] == list(NAMES)
        image: Dataset = pydicom.dcmread(min(here.glob("image*.dcm")))
        shared = segmentation.SharedFunctionalGroupsSequence[0]
        assert shared.PlaneOrientationSequence[0].ImageOrientationPatient == image.ImageOrientationPatient
        assert shared.PixelMeasuresSequence[0].PixelSpacing == image.PixelSpacing
        assert segmentation.FrameOfReferenceUID == image.FrameOfReferenceUID
        for group in segmentation.PerFrameFunctionalGroupsSequence:
            assert group.PlanePositionSequence[0].ImagePositionPatient == image.ImagePositionPatient
        planes = segmentation.get_pixels_by_source_instance(
            [image.SOPInstanceUID], combine_segments=True, assert_missing_frames_are_empty=True
        )
        np.testing.assert_array_equal(planes[0].T[::-1, ::-1], labels[item])


def test_our_reader_takes_our_dicom(sequences: tuple[str, ...], source: Path, tmp_path: Path) -> None:
    """An exported slice goes in again, at the same place; the segmentation, of one bit a pixel, does not."""
    folder = exported(source, "dicom", tmp_path / "x")
    series, broken = find_series(folder / "synth_00002")
    ((file, reason),) = broken
    assert (file.name, "grey value" in reason) == ("segmentation.dcm", True)
    images, _ = pictures(6, channels=len(sequences))
    assert len({image.study for image in series}) == 1
    for image in series:
        volume = read_dicom_volume(image)
        channel = sequences.index(image.sequence or "") if len(sequences) > 1 else 0
        np.testing.assert_allclose(volume.image[:, :, 0], (images[2, channel] + 1) / 2 * 240, atol=240 / 32767)
        np.testing.assert_allclose(volume.affine, PLANE, atol=1e-6)
        assert image.anonymous
    assert len(series) == len(sequences)


def test_a_sheared_plane_cannot_be_dicom(tmp_path: Path) -> None:
    leaning = PLANE.copy()
    leaning[0, 1] = 0.5
    with pytest.raises(DataError, match="perpendicular"):
        exported(write_drawn(tmp_path / "d", affine=leaning), "dicom", tmp_path / "x")


def test_a_plane_as_perpendicular_as_numbers_are_is_written(tmp_path: Path) -> None:
    """Where forcing right angles moves no pixel by 1e-3 mm, it is done; beyond that nothing is written."""
    for lean, written in ((1e-5, True), (1e-3, False)):
        leaning = PLANE.copy()
        leaning[0, 1] = lean
        source, out = write_drawn(tmp_path / f"d{lean}", affine=leaning), tmp_path / f"x{lean}"
        if not written:
            with pytest.raises(DataError, match="perpendicular"):
                exported(source, "dicom", out)
            continue
        picture = SimpleITK.ReadImage(str(exported(source, "dicom", out) / "synth_00000" / "image.dcm"))
        for i, j in [(0, 0), (31, 0), (0, 47), (31, 47), (16, 24)]:
            world = np.array(picture.TransformIndexToPhysicalPoint((31 - i, 47 - j, 0))) * [-1, -1, 1]
            assert np.linalg.norm(world - (leaning @ [i, j, 0, 1])[:3]) < 1e-3


@pytest.mark.parametrize("layout", ["nnunet", "dicom", "bids", "monai"])
def test_without_label_maps(layout: str, tmp_path: Path) -> None:
    source = write_drawn(tmp_path / "d", names=())
    if layout == "nnunet":
        with pytest.raises(DataError, match="label map"):
            exported(source, layout, tmp_path / "x")
    else:
        assert verify_dataset(exported(source, layout, tmp_path / "x")) == []


def test_what_cannot_be_exported(source: Path, store: SliceStore, tmp_path: Path) -> None:
    changed = tmp_path / "changed"
    shutil.copytree(source, changed)
    file = changed / "labels" / "synth_00003.nii.gz"
    file.write_bytes((changed / "labels" / "synth_00002.nii.gz").read_bytes())
    with pytest.raises(DataError, match=r"synth_00003\.nii\.gz as it was written"):
        exported(changed, "monai", tmp_path / "x")
    with pytest.raises(UsageError, match="--real"):
        exported(source, "dicom", tmp_path / "x", store.folder)
    with pytest.raises(DataError, match="export the original"):
        exported(exported(source, "monai", tmp_path / "once"), "bids", tmp_path / "x")
    channels = store.channels
    with pytest.raises(DataError, match="image channels"):
        exported(source, "nnunet", tmp_path / "x", write_store(tmp_path / "more", channels=channels + 1).folder)
    other = write_store(tmp_path / "other", names=("grey_matter", "white_matter"), channels=channels)
    with pytest.raises(DataError, match="white_matter"):
        exported(source, "nnunet", tmp_path / "x", other.folder)
    with pytest.raises(DataError, match="holds something"):
        exported(source, "nnunet", source)
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("layout", ["nnunet", "bids"])
def test_drawing_straight_into_a_layout(layout: str, sequences: tuple[str, ...], source: Path, tmp_path: Path) -> None:
    """The same bytes as drawing and then exporting, and nothing left beside."""
    out = tmp_path / "Dataset501_Rare"
    drawn: list[Path] = []

    def draw(into: Path) -> dict[str, Any]:
        drawn.append(into)
        write_drawn(into, sequences=sequences)
        return {"slices": 6, "out": str(into)}

    result = export.drawn_as(layout, out, draw, silent)
    assert result == {"slices": 6, "out": str(out), "layout": layout}
    assert [p.name for p in tmp_path.iterdir()] == [out.name]
    assert content(out) == content(exported(source, layout, tmp_path / "b" / out.name))
    with pytest.raises(DataError, match="holds something"):
        export.drawn_as(layout, out, draw, silent)
    assert len(drawn) == 1


def test_drawing_pairs_is_left_to_the_sampler(tmp_path: Path) -> None:
    assert export.drawn_as("nifti", tmp_path / "x", lambda into: {"into": into}, silent) == {"into": tmp_path / "x"}


@pytest.mark.parametrize("layout", ["monai", "dicom", None])
@pytest.mark.parametrize("key", ["name", "affine", "image", "path", "sha256"])
def test_a_manifest_without_what_it_should_say(layout: str | None, key: str, source: Path, tmp_path: Path) -> None:
    """One line, or nothing wrong that the key would tell of; never a traceback."""
    folder = exported(source, layout, tmp_path / "x") if layout else write_drawn(tmp_path / "x")
    manifest = json.loads((folder / "manifest.json").read_text())
    for row in [*manifest["slices"], *manifest.get("files", [])]:
        row.pop(key, None)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    try:
        said = verify_dataset(folder)
    except DataError as error:
        said = [str(error)]
    assert all(len(line.splitlines()) == 1 and key in line for line in said)
