"""Slices of which something is given: the map is exact, people's pixels are kept, wrong input is one line."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
import zarr
from typer.testing import CliRunner

from mri_minority.anatomy.edit import CannotReach, room_of
from mri_minority.anatomy.flow import carried_along
from mri_minority.anatomy.lesion_graft import LesionGraft
from mri_minority.anatomy.resize import Resize
from mri_minority.core.errors import AuditError, DataError, UsageError
from mri_minority.diffusion.state import encode
from mri_minority.export.dataset import read_manifest, verify_dataset, write_manifest
from mri_minority.slices.store import SliceStore
from mri_minority.volumes.atomic import sha256_of, write_json_atomic
from mri_minority.volumes.nifti import write_nifti
from mri_minority_cli.app import app
from mri_minority_pipelines.config import SampleConfig
from mri_minority_pipelines.edits import parse_edit
from mri_minority_pipelines.events import Event
from mri_minority_pipelines.given import Given, fingerprint
from mri_minority_pipelines.insertions import Inserted, donors_in, parse_insertion
from mri_minority_pipelines.inspect import describe
from mri_minority_pipelines.label_maps import read_label_maps
from mri_minority_pipelines.model_folder import ModelFolder
from mri_minority_pipelines.samplers import build_sampler
from mri_minority_pipelines.stages import export, label, read_again, synthesize, synthesize_given
from mri_minority_pipelines.stages.synthesize import Request, pictures
from mri_minority_pipelines.stages.synthesize_given import Wish
from mri_minority_pipelines.synthetic import read_set
from tests.support.tiny import silent

CPU = torch.device("cpu")
NAMES = ("grey_matter", "white_matter", "ventricles")
CARRIED = ["--from", "STORE", "--strength", "0.2", "--allow-derived"]
run_cli = CliRunner().invoke


def draw(model: Path, out: Path, wish: Wish, count: int = 3, **changes: Any) -> dict[str, Any]:
    """Run the stage with the tiny model; the manifest."""
    request = Request("rare", "minority", changes.pop("method", "minority"), count, (0.0, 1.0), seed=4, batch=2)
    config = SampleConfig(steps=3, precision="float32").model_copy(update=changes)
    synthesize_given.run(wish, request, config, ModelFolder(model), out, CPU, silent)
    assert verify_dataset(out) == []
    assert not list(out.parent.glob(".*.building"))
    return read_manifest(out)


def quick(model: Path, tmp_path: Path) -> ModelFolder:
    """The same model with three steps as its default."""
    folder = tmp_path / "quick"
    if not folder.exists():
        shutil.copytree(model, folder)
        card = json.loads((folder / "model.json").read_text())
        card["recipe"]["sample"] |= {"steps": 3, "precision": "float32"}
        write_json_atomic(folder / "model.json", card)
    return ModelFolder(folder)


def pixels(path: Path) -> np.ndarray:
    return np.asarray(nib.load(path).dataobj)


@pytest.fixture
def maps(store: SliceStore, tmp_path: Path) -> Path:
    """Two real label maps of the store as files, one of them stored in another orientation and not cut."""
    folder = tmp_path / "drawn maps"
    folder.mkdir()
    chosen = np.array([i for i in range(len(store.rows)) if (store.read(np.array([i]))[1] == 3).any()][:2])
    for number, at in enumerate(chosen):
        label = store.read(np.array([at]))[1][0]
        affine = np.array(store.rows[at].affine).reshape(4, 4)
        array = label[:, :, None]
        if number:  # posterior, inferior, left; padded, so that it must be cut
            array = np.pad(array, ((5, 2), (1, 6), (0, 0)))
            affine[:3, 3] -= affine[:3, :2] @ [5, 1]
            picture = nib.Nifti1Image(array.astype(np.int16), affine)
            picture = picture.as_reoriented(
                nib.orientations.ornt_transform(
                    nib.orientations.io_orientation(affine), nib.orientations.axcodes2ornt("PIL")
                )
            )
        else:
            picture = nib.Nifti1Image(array.astype(np.uint8), affine)
        nib.save(picture, folder / f"map{number}.nii.gz")
    return folder


def test_maps_of_another_pixel_size(model: Path, store: SliceStore, tmp_path: Path) -> None:
    """Finer, coarser and stored the other way round: brought to the model's pixels, each structure where it was."""
    at = next(i for i in range(len(store.rows)) if (store.read(np.array([i]))[1] == 3).sum() > 20)
    label, affine = store.read(np.array([at]))[1][0], np.array(store.rows[at].affine).reshape(4, 4)
    (tmp_path / "maps").mkdir()
    fine = np.kron(label, np.ones((3, 2), np.uint8))[:, :, None]
    finer = affine @ np.diag([1 / 3, 1 / 2, 1, 1])
    finer[:3, 3] = affine[:3, 3] + affine[:3, :2] @ [-1 / 3, -1 / 4]
    turned = nib.orientations.ornt_transform(
        nib.orientations.io_orientation(affine), nib.orientations.axcodes2ornt("LPS")
    )
    nib.save(nib.Nifti1Image(fine, finer).as_reoriented(turned), tmp_path / "maps" / "fine.nii.gz")
    coarse = affine @ np.diag([1.5, 1.5, 1, 1])
    coarse[:3, 3] = affine[:3, 3] + affine[:3, :2] @ [0.25, 0.25]
    rows, columns = (np.minimum((np.arange(int(n / 1.5)) + 0.5) * 1.5, n - 1).astype(int) for n in label.shape)
    nib.save(nib.Nifti1Image(label[rows][:, columns][:, :, None], coarse), tmp_path / "maps" / "medium.nii.gz")
    manifest = draw(model, tmp_path / "out", Wish(labels=tmp_path / "maps"), count=1)
    for row, name, places in zip(manifest["slices"], ("fine", "medium"), (0.01, 4.0), strict=True):
        picture = nib.load(tmp_path / "out" / row["label"])
        np.testing.assert_allclose(
            np.linalg.norm(picture.affine[:3, :2], axis=0), np.linalg.norm(affine[:3, :2], axis=0)
        )
        for value in (1, 2, 3):
            given = labelled_points(tmp_path / "maps" / f"{name}.nii.gz", value)
            found = labelled_points(tmp_path / "out" / row["label"], value)
            np.testing.assert_allclose(found.mean(axis=0), given.mean(axis=0), atol=places / 2)
            theirs = len(given) * (1 / 6 if name == "fine" else 1.5**2)
            thin = value == 3  # a structure of one pixel gets thinner between coarse pixels
            assert len(found) == pytest.approx(theirs, rel=1e-6 if name == "fine" else 0.5 if thin else 0.2)
    assert manifest["slices"][0]["trace"]["label_spacing_mm"] != manifest["slices"][1]["trace"]["label_spacing_mm"]


def labelled_points(path: Path, value: int) -> np.ndarray:
    """World coordinates of a class, sorted."""
    picture = nib.load(path)
    points = nib.affines.apply_affine(picture.affine, np.argwhere(np.asarray(picture.dataobj) == value))
    return points[np.lexsort(points.round(2).T)]


def test_an_image_for_every_map(model: Path, maps: Path, tmp_path: Path) -> None:
    """Several per map; the label is the given one, at the same place in the world, whatever the orientation."""
    manifest = draw(model, tmp_path / "out", Wish(labels=maps), count=2)
    rows = manifest["slices"]
    assert len(rows) == 4
    for number, row in enumerate(rows):
        for value in (1, 2, 3):
            given = labelled_points(maps / f"map{number // 2}.nii.gz", value)
            found = labelled_points(tmp_path / "out" / row["label"], value)
            np.testing.assert_allclose(found, given, atol=1e-2)
        assert row["trace"]["label_from"] == "file"
    first, second = (pixels(tmp_path / "out" / rows[n]["image"]) for n in (0, 1))
    assert np.abs(first - second).max() > 0
    assert manifest["synthetic"] is True
    assert manifest["derived"] is False
    export.run(tmp_path / "out", "monai", tmp_path / "monai", silent)
    for folder in ("out", "monai"):  # the maps may be somebody's
        card = (tmp_path / folder / "README.md").read_text(encoding="utf-8")
        assert "None is of a person" not in card
        assert "The label maps were not" in card


def test_guidance_applies_to_the_image_alone(model: Path, maps: Path, tmp_path: Path) -> None:
    plain = draw(model, tmp_path / "plain", Wish(labels=maps), count=1, method="ancestral")["slices"][0]
    zero = draw(model, tmp_path / "zero", Wish(labels=maps), count=1, guidance=0.0)["slices"][0]
    strong = draw(model, tmp_path / "strong", Wish(labels=maps), count=1, guidance=9.0)["slices"][0]

    def of(name: str, row: dict[str, Any], kind: str) -> np.ndarray:
        return pixels(tmp_path / name / row[kind])

    np.testing.assert_array_equal(of("plain", plain, "image"), of("zero", zero, "image"))
    np.testing.assert_array_equal(of("plain", plain, "label"), of("strong", strong, "label"))
    assert np.abs(of("plain", plain, "image") - of("strong", strong, "image")).max() > 0


def test_guidance_with_a_given_label_leans_towards_rare_levels(model: Path, maps: Path, tmp_path: Path) -> None:
    """The classifier finds the guided images rarer than the plain ones of the same noise, with the same labels."""
    folder = ModelFolder(model)
    log_p = build_sampler("minority", "rare", "minority", SampleConfig(), folder, CPU).minority
    assert log_p is not None
    found = []
    for weight in (0.0, 300.0):  # the classifier of a minute knows little, so its gradient is small
        manifest = draw(model, tmp_path / str(weight), Wish(labels=maps), count=4, guidance=weight, steps=12)
        image, mask = synthesize.pictures(tmp_path / str(weight), manifest, 8)
        x = encode(torch.as_tensor(image), torch.as_tensor(mask), len(NAMES))
        stratum = torch.tensor([row["stratum"] for row in manifest["slices"]])
        found.append(float(log_p(x, torch.full((8, 2), 0.3), stratum).mean()))
    assert found[1] > found[0] + 0.005


def test_edited_training_maps(model: Path, store: SliceStore, tmp_path: Path) -> None:
    """The factor is reached and recorded; replaying the recorded edit on the recorded source gives the same map."""
    wish = Wish(edit="ventricles:grow=1.3..1.8", store=store.folder)
    manifest = draw(model, tmp_path / "out", wish, count=4)
    for row in manifest["slices"]:
        trace = row["trace"]
        assert 1.3 <= trace["factor"] <= 1.8
        assert trace["jacobian_min"] > 0
        (source,) = [
            i
            for i, r in enumerate(store.rows)
            if r.sha256 == trace["source_series_sha256"] and r.index == trace["source_index"]
        ]
        assert store.rows[source].split == "train"
        before = store.read(np.array([source]))[1][0]
        again = Resize(trace["factor"], trace["kind"]).apply(before, 3, room_of(before), np.random.default_rng(0))
        np.testing.assert_array_equal(pixels(tmp_path / "out" / row["label"])[:, :, 0], again.label)
        assert trace["reached"] == pytest.approx(trace["factor"], abs=0.15)
    assert manifest["given"] == {"edit": "ventricles:grow=1.3..1.8"}
    assert "The label maps were not" in (tmp_path / "out" / "README.md").read_text(encoding="utf-8")


def test_an_edit_may_start_from_the_persons_deformed_image(model: Path, store: SliceStore, tmp_path: Path) -> None:
    """With next to no noise the image is the person's, deformed as the map is; the map is the edited one, exactly."""
    wish = Wish(edit="ventricles:grow=1.6..1.8", strength=0.01, into=store.folder, allow_derived=True)
    manifest = draw(model, tmp_path / "out", wish, count=4, method="ancestral", sigma_min=0.002)
    assert manifest["derived"] is True
    assert manifest["given"] == {"edit": "ventricles:grow=1.6..1.8", "strength": 0.01}
    at = {(row.sha256, row.index): i for i, row in enumerate(store.rows)}
    for row in manifest["slices"]:
        trace = row["trace"]
        assert trace["derived"] is True
        source = at[trace["source_series_sha256"], trace["source_index"]]
        assert store.rows[source].split == "train"
        image, before = (part[0] for part in store.read(np.array([source])))
        done = Resize(trace["factor"], trace["kind"]).apply(before, 3, room_of(before), np.random.default_rng(0))
        np.testing.assert_array_equal(pixels(tmp_path / "out" / row["label"])[:, :, 0], done.label)
        assert done.deformation is not None
        white = np.float32(store.header["settings"]["ceiling"] * store.rows[source].scale[0])
        drawn = 2 * pixels(tmp_path / "out" / row["image"])[:, :, 0] / white - 1
        moved = done.label != before
        wanted = carried_along(image, done.deformation)[0]
        assert np.abs(drawn - wanted).mean() < 0.01
        assert np.abs(drawn - wanted)[moved].mean() < 0.2 * np.abs(drawn - image[0])[moved].mean()


def test_beyond_the_real_percentile(model: Path, store: SliceStore, tmp_path: Path) -> None:
    wish = Wish(edit="ventricles:grow=1.1*p95..1.5*p95", store=store.folder)
    manifest = draw(model, tmp_path / "out", wish, count=4)
    real = ModelFolder(model).card()["real_attributes"]["ventricles_share"]
    assert all(row["attributes"]["ventricles_share"] > real[row["stratum"]][1] for row in manifest["slices"])


def test_inserting_keeps_the_persons_pixels(model: Path, store: SliceStore, tmp_path: Path) -> None:
    """Outside the new structure and its margin image, label and place are the source's exactly; the source is named."""
    healthy = [i for i in range(len(store.rows)) if not (store.read(np.array([i]))[1] == 3).any()]
    if not healthy:
        pytest.skip("every phantom slice shows ventricles")
    wish = Wish(insert="ventricles=60..200", into=store.folder, allow_derived=True)
    manifest = draw(model, tmp_path / "out", wish, count=4)
    check_derived(manifest, store, tmp_path / "out")
    asked = ["audit", str(tmp_path / "out"), "--against", str(store.folder), "--model", str(model)]
    refused = run_cli(app, asked)
    assert refused.exit_code == 4
    assert "derived from people" in refused.stderr
    assert "derived from people" not in run_cli(app, [*asked, "--allow-derived"]).stderr


def test_held_out_people_lend_nothing(model: Path, store: SliceStore, tmp_path: Path) -> None:
    """Neither images nor maps: a segmenter that learns from the set is tested on them."""
    train = {store.rows[i].sha256 for i in store.indices("train")}
    for name, wish in (
        ("inserted", Wish(insert="ventricles", into=store.folder, allow_derived=True)),
        ("started", Wish(strength=0.5, into=store.folder, allow_derived=True)),
        ("edited", Wish(edit="ventricles:grow=1.05..1.1", store=store.folder)),
    ):
        traces = [row["trace"] for row in draw(model, tmp_path / name, wish, count=12)["slices"]]
        assert {trace["source_series_sha256"] for trace in traces} <= train


def test_an_inserted_shape_is_another_training_subjects(model: Path, store: SliceStore, tmp_path: Path) -> None:
    """Whose shape it is stands in the trace, and laying that shape again gives the same map."""
    wish = Wish(insert="ventricles", into=store.folder, allow_derived=True)
    manifest = draw(model, tmp_path / "out", wish, count=4)
    check_derived(manifest, store, tmp_path / "out")
    at = {(row.sha256, row.index): i for i, row in enumerate(store.rows)}
    for row in manifest["slices"]:
        trace = row["trace"]
        assert trace["class"] == "LesionGraft"
        assert trace["shape_from"] == "person"
        donor = at[trace["shape_series_sha256"], trace["shape_index"]]
        source = at[trace["source_series_sha256"], trace["source_index"]]
        assert store.rows[donor].split == "train"
        assert store.rows[donor].subject != store.rows[source].subject
        assert store.strata()[donor] == store.strata()[source]
        theirs, before = store.read(np.array([donor]))[1][0], store.read(np.array([source]))[1][0]
        again = LesionGraft(theirs == 3, room_of(theirs)).apply(before, 3, room_of(before), np.random.default_rng(0))
        np.testing.assert_array_equal(pixels(tmp_path / "out" / row["label"])[:, :, 0], again.label)


def test_a_slice_unlike_all_that_show_it_gets_none(model: Path, store: SliceStore) -> None:
    """A negative of the slice is at the same height, and looks like nobody's."""
    card = ModelFolder(model).card()
    donors = donors_in(store, card, "ventricles", needed=True)
    assert donors is not None
    change = Inserted(parse_insertion("ventricles", NAMES), donors, card)
    base = donors.bases.at(int(donors.rows[0]))
    rng = np.random.default_rng(0)
    edit, trace = change(replace(base, subject="nobody"), 3, rng)
    assert edit.kind == "graft"
    assert trace["shape_from"] == "person"
    with pytest.raises(CannotReach, match="looks like this one"):
        change(replace(base, subject="nobody", image=-base.image), 3, rng)


def test_a_shape_is_never_the_same_persons(model: Path, store: SliceStore, tmp_path: Path) -> None:
    """Not even from another of their scans: where all scans are one person's, nobody else shows it."""
    alone = tmp_path / "alone.store"
    shutil.copytree(store.folder, alone)
    lines = [line.split("\t") for line in (alone / "slices.tsv").read_text(encoding="utf-8").splitlines()]
    table = [lines[0], *(["everybody", *line[1:]] for line in lines[1:])]
    (alone / "slices.tsv").write_text("".join("\t".join(line) + "\n" for line in table), encoding="utf-8")
    wish = Wish(insert="ventricles", into=alone, allow_derived=True)
    with pytest.raises(DataError, match="nobody else shows ventricles"):
        draw(model, tmp_path / "out", wish)


def test_where_nobody_shows_it_a_patch_is_painted(model: Path, store: SliceStore, tmp_path: Path) -> None:
    """With a store that was said to lend its shapes, that is an error instead."""
    bare = tmp_path / "bare.store"
    shutil.copytree(store.folder, bare)
    labels = zarr.open_array(bare / "label.zarr", mode="r+")
    labels[:] = np.where(labels[:] == 3, 2, labels[:])
    without = SliceStore(bare)
    assert not (without.read(np.arange(len(without.rows)))[1] == 3).any()
    wish = Wish(insert="ventricles=60..200", into=bare, allow_derived=True)
    manifest = draw(model, tmp_path / "out", wish, count=2)
    for row in manifest["slices"]:
        assert row["trace"]["class"] == "LesionAdd"
        assert row["trace"]["shape_from"] == "painted"
        assert 60 <= row["attributes"]["ventricles_area_mm2"] <= 200 + 16
    with pytest.raises(DataError, match="show ventricles"):
        draw(model, tmp_path / "refused", replace(wish, store=bare))
    assert not (tmp_path / "refused").exists()


def check_derived(manifest: dict[str, Any], store: SliceStore, out: Path) -> None:
    assert manifest["derived"] is True
    assert manifest["synthetic"] is False
    for row in manifest["slices"]:
        for file in (row["image"], row["label"]):
            assert nib.load(out / file).header["descrip"].item().startswith(b"DERIVED from a person")
    assert describe(out)["kind"] == "data set derived from people"
    assert "must not leave the institution" in (out / "README.md").read_text()
    assert "None is of a person" not in (out / "README.md").read_text()
    # Read as `augment`, `evaluate` and the contact sheet read it, the person's part is what the store holds, whatever
    # the scanner's gain: not that of the median training scan.
    read, shown = read_set(out, store).image, pictures(out, manifest, len(manifest["slices"]))[0]
    np.testing.assert_array_equal(read, shown)
    for row, again in zip(manifest["slices"], read, strict=True):
        trace = row["trace"]
        (at,) = [
            i
            for i, r in enumerate(store.rows)
            if r.sha256 == trace["source_series_sha256"] and r.index == trace["source_index"]
        ]
        image, label = store.read(np.array([at]))
        white = np.float32(store.header["settings"]["ceiling"] * store.rows[at].scale[0])
        source = ((image[0, 0] + 1) / 2 * white).astype(np.float32)
        found, mask = (pixels(out / row[kind])[:, :, 0] for kind in ("image", "label"))
        changed = mask != label[0]
        far = ~_grown(changed, 3)
        np.testing.assert_array_equal(found[far], source[far])
        np.testing.assert_allclose(again[0][far], image[0, 0][far], atol=1e-6)
        assert np.abs(found - source)[changed].max() > 0
        assert changed.any()
        assert (mask[changed] == 3).all()
        np.testing.assert_allclose(
            np.array(row["affine"])[:3, [0, 1, 3]], np.array(store.rows[at].affine).reshape(4, 4)[:3, [0, 1, 3]]
        )


def _grown(mask: np.ndarray, width: int) -> np.ndarray:
    """Pixels within so many steps along the axes."""
    for _ in range(width):
        padded = np.pad(mask, 1)
        mask = mask | padded[2:, 1:-1] | padded[:-2, 1:-1] | padded[1:-1, 2:] | padded[1:-1, :-2]
    return mask


def test_starting_from_real_slices(model: Path, store: SliceStore, tmp_path: Path) -> None:
    """The less noise, the nearer to the source; the manifest names it."""
    far = []
    for strength in (0.34, 1.0):
        wish = Wish(strength=strength, into=store.folder, allow_derived=True)
        manifest = draw(model, tmp_path / str(strength), wish, count=3, method="ancestral")
        assert manifest["derived"] is True
        assert {"source_series_sha256", "start_sigma"} <= set(manifest["slices"][0]["trace"])
        drawn, _ = pictures(tmp_path / str(strength), manifest, 3)
        sources = np.stack([_source(store, row["trace"])[0] for row in manifest["slices"]])
        far.append(np.abs(drawn - sources).mean())
    assert far[0] < far[1]
    # A derived set that does not say what is white in its scans cannot be read rightly.
    silenced = [{k: v for k, v in row.items() if k != "white"} for row in manifest["slices"]]
    with pytest.raises(DataError, match="earlier version"):
        pictures(tmp_path / "1.0", {**manifest, "slices": silenced}, 3)
    with pytest.raises(AuditError, match="derived"):
        export.run(tmp_path / "1.0", "nnunet", tmp_path / "Dataset501_X", silent)


def test_a_set_is_held_against_its_own_strata_and_channels(model: Path, store: SliceStore, tmp_path: Path) -> None:
    """The same number may be another height in another store; a study, which compares by name, may read it."""
    draw(model, tmp_path / "out", Wish(edit="ventricles:grow=1.1..1.3", store=store.folder))
    other = tmp_path / "other.store"
    shutil.copytree(store.folder, other)
    header = json.loads((other / "store.json").read_text(encoding="utf-8"))
    header["strata"]["names"] = header["strata"]["names"][::-1]
    write_json_atomic(other / "store.json", header)
    with pytest.raises(DataError, match="expected the strata of"):
        read_set(tmp_path / "out", SliceStore(other))
    assert len(read_set(tmp_path / "out", SliceStore(other), same_strata=False).image) == 3
    said = read_manifest(tmp_path / "out")
    unlike = [{"FLAIR": "T1"}.get(name, "FLAIR") for name in said["channel_names"]]
    write_json_atomic(tmp_path / "out" / "manifest.json", {**said, "channel_names": unlike})
    if any(store.channel_names):  # a name that nobody gave fits any
        with pytest.raises(DataError, match="expected the channels"):
            read_set(tmp_path / "out", store)


def test_going_on_with_less_memory(model: Path, store: SliceStore, tmp_path: Path) -> None:
    """Blocks of another size, and fewer slices than before: every slice once, and none that is not listed."""
    wish = Wish(edit="ventricles:grow=1.1..1.3", store=store.folder)
    config = SampleConfig(steps=3, precision="float32")

    def stop(event: Event) -> None:
        if event.stage == "synthesize" and event.done:
            raise KeyboardInterrupt

    names = []
    for batch, tell in ((4, stop), (3, silent)):
        request = Request("rare", "minority", "ancestral", 7, (0.0, 1.0), seed=4, batch=batch)
        if tell is stop:
            with pytest.raises(KeyboardInterrupt):
                synthesize_given.run(wish, request, config, ModelFolder(model), tmp_path / "out", CPU, tell)
            assert list((tmp_path / ".out.building").glob("block-*.json"))
        else:
            synthesize_given.run(wish, request, config, ModelFolder(model), tmp_path / "out", CPU, tell)
            names = [row["name"] for row in read_manifest(tmp_path / "out")["slices"]]
    assert names == [f"synth_{item:05d}" for item in range(7)]
    assert verify_dataset(tmp_path / "out") == []

    many, few = (Request("rare", "minority", "ancestral", n, (0.0, 1.0), seed=4, batch=4) for n in (8, 2))
    with pytest.raises(KeyboardInterrupt):
        synthesize.run(many, config, ModelFolder(model), tmp_path / "drawn", CPU, stop, audit=False)
    synthesize.run(few, config, ModelFolder(model), tmp_path / "drawn", CPU, silent, audit=False)
    assert len(read_manifest(tmp_path / "drawn")["slices"]) == 2
    assert verify_dataset(tmp_path / "drawn") == []


def _source(store: SliceStore, trace: dict[str, Any]) -> np.ndarray:
    at = [i for i, r in enumerate(store.rows) if r.sha256 == trace["source_series_sha256"]]
    at = [i for i in at if store.rows[i].index == trace["source_index"]]
    return store.read(np.array(at))[0]


def _save(folder: Path, array: np.ndarray, spacing_mm: float = 4.0) -> None:
    folder.mkdir(exist_ok=True)
    nib.save(nib.Nifti1Image(array, np.diag([spacing_mm, spacing_mm, 4.0, 1.0])), folder / "map.nii.gz")


@pytest.mark.parametrize(
    ("case", "says"),
    [
        ("unknown", "classes"),
        ("spacing", "affine"),
        ("small", "whole heads"),
        ("empty", "empty map"),
        ("large", "fits 48 x 64"),
        ("none", "found none"),
    ],
)
def test_wrong_maps_are_one_line(case: str, says: str, model: Path, tmp_path: Path) -> None:
    array = np.zeros((80, 90, 1), np.uint8)
    array[30:50, 30:50] = 7 if case == "unknown" else 1
    if case == "large":
        array[2:78, 2:88] = 1
    if case == "empty":
        array[:] = 0
    (tmp_path / "maps").mkdir()
    if case != "none":
        _save(tmp_path / "maps", array, {"spacing": 13.0, "small": 0.5}.get(case, 4.0))
    check_refused(["--labels", str(tmp_path / "maps")], 3, says, model, tmp_path)


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["--edit", "ventricles:grow=60", "--store", "STORE"], 3, "ask for less"),
        (["--edit", "ventricles:grow=0.5", "--store", "STORE"], 2, "1 or more"),
        (["--edit", "cerebellum:grow=2"], 2, "structure"),
        (["--edit", "ventricles:melt=2"], 2, "kind"),
        (["--edit", "ventricles:grow=2..x"], 2, "found"),
        (["--insert", "grey_matter", "--into", "STORE", "--allow-derived"], 3, "healthy"),
        (["--insert", "grey_matter", "--into", "STORE"], 4, "--allow-derived"),
        (["--from", "STORE", "--strength", "0.5"], 4, "--allow-derived"),
        (["--from", "STORE", "--strength", "1.5", "--allow-derived"], 2, "--strength"),
        (["--from", "STORE"], 2, "belong together"),
        (["--insert", "lesion"], 2, "belong together"),
        (["--insert", "ventricles=9..x", "--into", "STORE", "--allow-derived"], 2, "mm2"),
        (["--insert", "ventricles=0", "--into", "STORE", "--allow-derived"], 2, "mm2"),
        (["--store", "STORE"], 2, "--edit"),
        (["--edit", "ventricles:grow=1.5", "--from", "STORE", "--strength", "0.2"], 4, "--allow-derived"),
        ([*CARRIED, "--edit", "ventricles:grow=1.5", "--store", "STORE"], 2, "leave out --store"),
        ([*CARRIED, "--edit", "ventricles:remove"], 2, "an edit that deforms"),
        ([*CARRIED, "--insert", "ventricles", "--into", "STORE"], 2, "expected one of"),
    ],
)
def test_wrong_wishes_are_one_line(
    arguments: list[str], code: int, says: str, model: Path, store: SliceStore, tmp_path: Path
) -> None:
    said = [str(store.folder) if word == "STORE" else word for word in arguments]
    check_refused(said, code, says, model, tmp_path)


def check_refused(arguments: list[str], code: int, says: str, model: Path, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    result = run_cli(
        app, ["synthesize", "--model", str(model), "--out", str(tmp_path / "out"), "--count", "2", *arguments]
    )
    assert result.exit_code == code, result.output
    assert says in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert "Traceback" not in result.output
    assert sorted(tmp_path.rglob("*")) == before


def test_a_volume_of_maps_is_cut_as_training_was(model: Path, store: SliceStore, cohort: Path) -> None:
    """Strata of a volume's slices follow from their height, as in the store."""
    edit = parse_edit("ventricles:grow=1.5..3", NAMES)
    assert (edit.low.number, edit.high.number, edit.low.quantile) == (1.5, 3.0, False)
    edit = parse_edit("ventricles:grow=p95..2*p95", NAMES)
    assert (edit.low.number, edit.high.number, edit.low.quantile, edit.high.quantile) == (1.0, 2.0, True, True)
    with pytest.raises(UsageError, match="amount"):
        parse_edit("ventricles:grow", NAMES)
    with pytest.raises(UsageError, match="number"):
        parse_edit("ventricles:shift=p95", NAMES)
    with pytest.raises(DataError, match="found none"):
        read_label_maps(cohort / "nowhere", ModelFolder(model), (0.0, 1.0))


def test_the_same_seed_gives_the_same_bytes(model: Path, store: SliceStore, tmp_path: Path) -> None:
    wish = Wish(edit="ventricles:asymmetry=1.2..1.4", store=store.folder)
    draw(model, tmp_path / "a", wish)
    draw(model, tmp_path / "b", wish)
    for file in (p for p in (tmp_path / "a").rglob("*") if p.is_file()):
        assert file.read_bytes() == (tmp_path / "b" / file.relative_to(tmp_path / "a")).read_bytes()
    assert json.loads((tmp_path / "a" / "manifest.json").read_text())["given"]["edit"] == wish.edit


def test_labels_for_images(model: Path, store: SliceStore, maps: Path, tmp_path: Path) -> None:
    """A store and files alike: one map and one spread per slice, at the image's place, marked for research."""
    config = SampleConfig(steps=3, precision="float32")
    drawn = draw(model, tmp_path / "images", Wish(labels=maps), count=1)
    done = label.run(tmp_path / "images", ModelFolder(model), tmp_path / "out", config, 4, 0, CPU, silent)
    assert done["slices"] == len(drawn["slices"]) == 2
    said = json.loads((tmp_path / "out" / "labels.json").read_text())
    assert said["research_use_only"] is True
    assert "Not for diagnosis" in (tmp_path / "out" / "README.md").read_text()
    for row, image in zip(said["slices"], drawn["slices"], strict=True):
        mask, spread = (nib.load(tmp_path / "out" / kind / f"{row['name']}.nii.gz") for kind in ("labels", "spread"))
        there = nib.load(tmp_path / "images" / image["image"])
        np.testing.assert_allclose(mask.affine[:3, [0, 1, 3]], there.affine[:3, [0, 1, 3]], atol=1e-3)
        assert set(np.unique(np.asarray(mask.dataobj))) <= {0, 1, 2, 3}
        shares = np.unique(np.asarray(spread.dataobj))
        assert set(shares.round(3)) <= {0.0, 0.25, 0.5, 0.75}


def test_a_bad_image_stops_no_labelling(model: Path, maps: Path, tmp_path: Path) -> None:
    """It is named beside the maps; alone it is an error, and nothing is made."""
    config = SampleConfig(steps=3, precision="float32")
    draw(model, tmp_path / "set", Wish(labels=maps), count=1)
    images = tmp_path / "set" / "images"
    (images / "00 broken.nii.gz").write_bytes(b"no image")
    done = label.run(images, ModelFolder(model), tmp_path / "out", config, 1, 0, CPU, silent)
    assert (done["slices"], done["refused"]) == (2, 1)
    assert "broken" in (tmp_path / "out.quarantine.tsv").read_text(encoding="utf-8")
    assert not [file for file in (tmp_path / "out").rglob("*") if "broken" in file.name]
    for file in images.iterdir():
        file.write_bytes(b"no image")
    with pytest.raises(DataError, match="expected usable images"):
        label.run(images, ModelFolder(model), tmp_path / "none", config, 1, 0, CPU, silent)
    assert not (tmp_path / "none").exists()


def test_an_interrupted_run_is_of_the_same_request_only() -> None:
    """Whatever is given besides the label map counts too."""
    label = np.ones((4, 4), np.uint8)
    one = Given(label, 0, np.eye(4), {"label_from": "file"})
    others = [
        replace(one, label=label * 2),
        replace(one, stratum=1),
        replace(one, affine=np.diag([1.0, 1, 2, 1])),
        replace(one, trace={"label_from": "drawn"}),
        replace(one, image=np.zeros((1, 4, 4), np.float32)),
        replace(one, image=np.ones((1, 4, 4), np.float32)),
        replace(one, region=np.ones((4, 4), bool)),
        replace(one, start=0.5),
        replace(one, exact=False),
        replace(one, white=(2.0,)),
    ]
    assert len({fingerprint([given]) for given in (one, *others)}) == 1 + len(others)
    assert fingerprint([one, others[0]]) != fingerprint([others[0], one])
    assert fingerprint([replace(one, trace={**one.trace})]) == fingerprint([one])


def test_votes_are_what_the_draws_say(model: Path, store: SliceStore) -> None:
    """One draw has no spread; more draws vote, and the same seed votes alike."""
    config = SampleConfig(steps=3, precision="float32")
    image = store.read(np.arange(2))[0]
    net, strata = ModelFolder(model).denoiser(), np.zeros(2, np.int64)
    _, none = label.label_images(net, image, strata, config, 1, 0, CPU)
    assert not none.any()
    first, some = label.label_images(net, image, strata, config, 3, 0, CPU)
    again, alike = label.label_images(net, image, strata, config, 3, 0, CPU)
    assert some.any()
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(some, alike)


def test_the_audit_can_read_labels_again(model: Path, store: SliceStore, maps: Path, tmp_path: Path) -> None:
    """Dice with draws of p(label | image); a set whose labels were moved is found by it."""
    draw(model, tmp_path / "set", Wish(labels=maps), count=2)
    found = read_again.run(tmp_path / "set", store, quick(model, tmp_path), 2, 0, CPU, silent)
    assert set(found["dice"]) == set(NAMES)
    assert found["draws"] == 2
    moved = tmp_path / "moved"
    shutil.copytree(tmp_path / "set", moved)
    manifest = read_manifest(moved)
    for row in manifest["slices"]:
        picture = nib.load(moved / row["label"])
        mirrored = np.flip(np.asarray(picture.dataobj), axis=1)
        write_nifti(
            moved / row["label"],
            np.roll(mirrored, 9, axis=1).copy(),
            picture.affine,
            bytes(picture.header["descrip"].item()).decode(),
        )
        row["label_sha256"] = sha256_of(moved / row["label"])
    write_manifest(moved, {k: v for k, v in manifest.items() if k != "slices"}, manifest["slices"])
    worse = read_again.run(moved, store, quick(model, tmp_path), 2, 0, CPU, silent)
    assert worse["dice"]["white_matter"] < found["dice"]["white_matter"] - 0.05
    assert len(worse["below_gate"]) == 4
    refused = run_cli(app, ["audit", str(moved), "--against", str(store.folder), "--read-again", "1"])
    assert refused.exit_code == 2
    assert "--model" in refused.stderr
