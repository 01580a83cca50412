"""Preparing into a place where something is already: the same images go on, others are never mixed in."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from zlib import crc32

import nibabel as nib
import numpy as np
import pytest

from mri_minority.core.errors import DataError
from mri_minority.slices.split import held_out_subjects
from mri_minority.slices.store import SliceStore
from mri_minority.slices.strata import Strata
from mri_minority_pipelines.config import PrepareConfig, Recipe
from mri_minority_pipelines.events import Event
from mri_minority_pipelines.model_folder import ModelFolder
from mri_minority_pipelines.request import open_or_prepare
from mri_minority_pipelines.stages import prepare, score_slices
from tests.support.tiny import silent

CONFIG = PrepareConfig(
    size=(16, 16),
    labels={"brain": (1,), "apple": (2,)},
    heights=(0.0, 1.0),
    strata=1,
    holdout=0.25,
    stratum_min_slices=2,
)
AFFINE = np.diag([2.0, 2.0, 2.0, 1.0])


def head(folder: Path, name: str, gain: float = 1.0) -> Path:
    """One head of two classes and its label map, a little unlike any other name's; the second class is the smaller."""
    label = np.zeros((16, 16, 12), np.uint8)
    label[4:12, 4:12, 1:11], label[6:9, 6:9, 3:8] = 1, 2
    for kind, values in (
        ("images", label * np.float32(50 * gain) + 5 + crc32(name.encode()) % 997 / 1e3),
        ("labels", label),
    ):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        suffix = "T1" if kind == "images" else "seg"
        nib.nifti1.Nifti1Image(values, AFFINE).to_filename(folder / kind / f"{name}_{suffix}.nii.gz")
    return folder


def stopped(after: int) -> Callable[[Event], None]:
    def tell(event: Event) -> None:
        if event.stage == "prepare" and event.done == after:
            raise KeyboardInterrupt

    return tell


def notes_of(heard: list[Event]) -> str:
    return " ".join(str(event.values["text"]) for event in heard if event.stage == "note")


def test_a_finished_store_is_not_taken_for_other_images(tmp_path: Path) -> None:
    """The names are the same, so are the settings; the heads are not."""
    for n in range(4):
        head(tmp_path / "a", f"p{n}")
        head(tmp_path / "b", f"p{n}", gain=3.0)
    out = tmp_path / "scores.tsv"
    first = open_or_prepare(CONFIG, [tmp_path / "a"], out, silent)
    assert open_or_prepare(CONFIG, [tmp_path / "a"], out, silent).rows == first.rows
    with pytest.raises(DataError, match="choose another --out, or remove"):
        open_or_prepare(CONFIG, [tmp_path / "b"], out, silent)
    head(tmp_path / "a", "p4")
    with pytest.raises(DataError, match="found others, or changed ones"):
        open_or_prepare(CONFIG, [tmp_path / "a"], out, silent)
    assert open_or_prepare(CONFIG, [tmp_path / "scores.tsv.store"], out, silent).rows == first.rows


def test_what_a_store_notes_of_its_images_names_nobody(tmp_path: Path) -> None:
    for n in range(4):
        head(tmp_path / "secret" / "lab", f"smith{n}")
    prepare.run(CONFIG, [tmp_path / "secret" / "lab"], tmp_path / "store", silent)
    text = (tmp_path / "store" / "store.json").read_text(encoding="utf-8")
    assert len(json.loads(text)["sources"]) == 64
    assert not [word for word in ("smith", "secret", str(tmp_path)) if word in text]


def test_a_store_of_an_earlier_version_is_taken_as_it_is(tmp_path: Path) -> None:
    for n in range(4):
        head(tmp_path / "a", f"p{n}")
    prepare.run(CONFIG, [tmp_path / "a"], tmp_path / "store", silent)
    file = tmp_path / "store" / "store.json"
    header = json.loads(file.read_text(encoding="utf-8"))
    del header["sources"]
    file.write_text(json.dumps(header), encoding="utf-8")
    head(tmp_path / "a", "p9")
    assert prepare.run(CONFIG, [tmp_path / "a"], tmp_path / "store", silent).volumes == 4


def test_other_class_numbers_are_other_settings(tmp_path: Path) -> None:
    """Classes are numbered in the order of `labels`: the same ones in another order are other label maps."""
    for n in range(4):
        head(tmp_path / "a", f"p{n}")
    turned = CONFIG.model_copy(update={"labels": dict(reversed(CONFIG.labels.items()))})
    prepare.run(CONFIG, [tmp_path / "a"], tmp_path / "store", silent)
    with pytest.raises(DataError, match="other settings"):
        prepare.run(turned, [tmp_path / "a"], tmp_path / "store", silent)
    with pytest.raises(KeyboardInterrupt):
        prepare.run(CONFIG, [tmp_path / "a"], tmp_path / "other", stopped(2))
    prepare.run(turned, [tmp_path / "a"], tmp_path / "other", silent)
    store = SliceStore(tmp_path / "other")
    assert store.label_names == ("apple", "brain")
    for series in {row.series for row in store.rows}:
        label = store.read(np.array([i for i, row in enumerate(store.rows) if row.series == series]))[1]
        assert 0 < (label == 1).sum() < (label == 2).sum()


def test_an_interrupted_run_of_other_images_is_begun_anew(tmp_path: Path) -> None:
    """The folder grows and one source goes: nobody ends on both sides, and nothing that was not asked for is left."""
    few, many = ([f"k{n}" for n in range(count)] for count in (4, 12))
    seed = next(s for s in range(99) if held_out_subjects(few, 0.25, s) != held_out_subjects(many, 0.25, s) & {*few})
    config = CONFIG.model_copy(update={"seed": seed})
    for name in few:
        head(tmp_path / "lab", f"{name}_visit1")
    head(tmp_path / "gone", "someone")
    with pytest.raises(KeyboardInterrupt):
        prepare.run(config, [tmp_path / "gone", tmp_path / "lab"], tmp_path / "store", stopped(5))
    for name in few:
        head(tmp_path / "lab", f"{name}_visit2")
    for name in many[4:]:
        head(tmp_path / "lab", f"{name}_visit1")
    heard: list[Event] = []
    prepare.run(config, [tmp_path / "lab"], tmp_path / "store", heard.append)
    assert "begun anew" in notes_of(heard)
    rows = SliceStore(tmp_path / "store").rows
    assert {row.subject for row in rows} == {*many}
    sides = [{row.subject for row in rows if row.split == split} for split in ("train", "holdout")]
    assert not sides[0] & sides[1]
    assert sides[1] == held_out_subjects(many, 0.25, seed)


def test_one_image_under_two_names(tmp_path: Path) -> None:
    """One person under two names is taken once, whenever the run was interrupted; twice under one name stays."""
    for name in ("p1", "p2", "p3", "p4_visit1"):
        head(tmp_path / "lab", name)
    for kind, suffix in (("images", "T1"), ("labels", "seg")):
        for name, other in (("p1", "z1"), ("p4_visit1", "p4_visit2")):
            folder = tmp_path / "lab" / kind
            shutil.copy(folder / f"{name}_{suffix}.nii.gz", folder / f"{other}_{suffix}.nii.gz")
    with pytest.raises(KeyboardInterrupt):
        prepare.run(CONFIG, [tmp_path / "lab"], tmp_path / "store", stopped(4))
    for out in ("store", "at once"):
        report = prepare.run(CONFIG, [tmp_path / "lab"], tmp_path / out, silent)
        assert (report.volumes, report.quarantined) == (5, 1)
        refused = (tmp_path / out / "quarantine.tsv").read_text(encoding="utf-8").splitlines()[1:]
        assert ["z1_T1.nii.gz" in line and "than p1's" in line for line in refused] == [True]
        series = {row.series for row in SliceStore(tmp_path / out).rows}
        assert series == {f"{name}_T1" for name in ("p1", "p2", "p3", "p4_visit1", "p4_visit2")}


def test_two_sites_with_the_same_file_names(tmp_path: Path) -> None:
    sites = [tmp_path / "siteA", tmp_path / "siteB"]
    for n in range(4):
        for site, gain in zip(sites, (1.0, 5.0), strict=True):
            head(site, f"00{n}", gain)
    heard: list[Event] = []
    report = prepare.run(CONFIG, sites, tmp_path / "store", heard.append)
    rows = SliceStore(tmp_path / "store").rows
    assert report.volumes == 8
    assert {row.series for row in rows} == {f"{site.name}_00{n}_T1" for site in sites for n in range(4)}
    assert {row.subject for row in rows} == {f"00{n}" for n in range(4)}
    assert {row.scale[0] > 150 for row in rows if row.series.startswith("siteA")} == {False}
    assert {row.scale[0] > 150 for row in rows if row.series.startswith("siteB")} == {True}
    assert len({(row.subject, row.split) for row in rows}) == 4
    assert "4 names stand in several folders, and each is taken for one person" in notes_of(heard)


def model_of_sites(folder: Path, *sites: str) -> ModelFolder:
    """A model as far as its card goes: strata of these sites."""
    strata = Strata(
        tuple((("T1", site),) for site in sites), ((1.0,),) * len(sites), tuple(f"height 0-1, {s}" for s in sites), ()
    )
    recipe = Recipe(name="", about="", prepare=CONFIG)
    folder.mkdir()
    model = ModelFolder(folder)
    model.write_card(
        {
            "recipe": recipe.model_dump(mode="json"),
            "label_names": list(CONFIG.labels),
            "strata": strata.as_json(),
        }
    )
    return model


def test_one_new_patient_of_a_site_that_the_model_knows_keeps_the_site(tmp_path: Path) -> None:
    """What only one subject has is not written down, unless the model names it anyway."""
    head(tmp_path / "new", "p1")
    head(tmp_path / "new", "p2")
    (tmp_path / "new" / "participants.tsv").write_text("participant_id\tsite\np1\tB\np2\tZ\n", encoding="utf-8")
    model = model_of_sites(tmp_path / "model", "A", "B", "")
    settings = score_slices.prepare_settings(model)
    store = open_or_prepare(settings, [tmp_path / "new"], tmp_path / "s.tsv", silent)
    assert {(row.subject, row.site) for row in store.rows} == {("p1", "B"), ("p2", "")}
    strata = Strata.from_json(model.card()["strata"]).of(store.heights(), store.kinds())
    assert {(row.subject, int(s)) for row, s in zip(store.rows, strata, strict=True)} == {("p1", 1), ("p2", 2)}
    # For a model of other sites these are not the same slices, though the settings are.
    other = score_slices.prepare_settings(model_of_sites(tmp_path / "other", "A", ""))
    with pytest.raises(DataError, match="choose another --out"):
        open_or_prepare(other, [tmp_path / "new"], tmp_path / "s.tsv", silent)
    prepare.run(settings.config, [tmp_path / "new"], tmp_path / "alone", silent)
    assert {row.site for row in SliceStore(tmp_path / "alone").rows} == {""}
