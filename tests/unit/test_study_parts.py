"""The parts of a study: groups inside strata, nested subjects, mixed batches, augmentation."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from mri_minority.core.errors import DataError, UsageError
from mri_minority.evaluate.groups import means_over_patients, percentiles_within, quantile_groups, rare_subjects
from mri_minority.slices.batches import SliceBatches
from mri_minority.slices.mixed import Extra, MixedBatches
from mri_minority.slices.select import CutSlices
from mri_minority.slices.store import SliceStore, StoreWriter
from mri_minority.slices.subset import nested_subjects, write_subset
from mri_minority.transforms.augment import SegmentationAugment, sides_are_alike
from tests.support.drawn import NAMES, PLANE, SIZE, pictures, write_store


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> SliceStore:
    """A store as `prepare` leaves it, with its picture size in the header."""
    folder = tmp_path_factory.mktemp("small") / "store"
    write_store(folder, subjects=8)
    text = (folder / "store.json").read_text(encoding="utf-8")
    (folder / "store.json").write_text(text.replace('"ceiling": 1.2', f'"ceiling": 1.2, "size": {list(SIZE)}'))
    return SliceStore(folder)


def test_groups_are_cut_inside_strata() -> None:
    """A stratum of large values does not take all the highest groups."""
    values = np.array([1.0, 2, 3, 4, 101, 102, 103, 104])
    strata = np.array([0] * 4 + [1] * 4)
    assert quantile_groups(values, strata, 2).tolist() == [0, 0, 1, 1, 0, 0, 1, 1]
    assert percentiles_within(values, strata)[:4] == pytest.approx([0.125, 0.375, 0.625, 0.875])


def test_equal_values_share_a_group() -> None:
    """Two thirds of slices have no lesion: none of them is rarer than another."""
    values = np.array([0.0] * 8 + [1.0, 2.0])
    groups = quantile_groups(values, np.zeros(10, np.int64), 10)
    assert len(set(groups[:8])) == 1
    assert groups[8:].tolist() == [8, 9]


def test_rare_subjects_are_rare_at_every_height() -> None:
    """B is second in one stratum and first in the other; C has the largest value of all, but at a large height."""
    subjects = ["a", "b", "c", "d"] * 2
    values = np.array([1.0, 3, 4, 2, 100, 400, 300, 200])
    strata = np.array([0] * 4 + [1] * 4)
    assert rare_subjects(values, strata, subjects, 0.5) == {"b", "c"}
    assert rare_subjects(values, strata, subjects, 0.0) == frozenset()


def test_patients_count_alike() -> None:
    """Mean over slices inside a patient; a patient without a chosen slice has none."""
    values = np.array([1.0, 3.0, np.nan, 10.0, 7.0])
    found = means_over_patients(values, np.array([0, 0, 0, 1, 2]), np.array([True, True, True, True, False]))
    assert found[:2].tolist() == [2.0, 10.0]
    assert np.isnan(found[2])


def test_subjects_are_nested_and_seeded(small: SliceStore) -> None:
    three, five = nested_subjects(small, 3, 0), nested_subjects(small, 5, 0)
    assert five[:3] == three
    assert set(nested_subjects(small, 0, 0)) == {f"Doe_Jane_{n}" for n in range(7)}  # the eighth is held out
    assert {tuple(nested_subjects(small, 3, seed)) for seed in range(5)} != {tuple(three)}
    assert three[0] not in nested_subjects(small, 5, 0, frozenset(three[:1]))
    with pytest.raises(UsageError, match="at most 7"):
        nested_subjects(small, 8, 0)


def test_a_subset_is_a_store(small: SliceStore, tmp_path: Path) -> None:
    """Slices, rows and strata of the chosen subjects, and every held-out one."""
    chosen = nested_subjects(small, 3, 0)
    found = write_subset(small, chosen, tmp_path / "three")
    assert {row.subject for row in found.rows if row.split == "train"} == set(chosen)
    assert len(found.indices("holdout")) == 4
    place = {(row.series, row.index): n for n, row in enumerate(small.rows)}
    here = np.array([place[row.series, row.index] for row in found.rows])
    for ours, theirs in zip(found.read(np.arange(len(found.rows))), small.read(here), strict=True):
        assert np.array_equal(ours, theirs)
    assert found.rows == [small.rows[n] for n in here]
    again = write_subset(small, chosen, tmp_path / "three")
    assert again.rows == found.rows
    with pytest.raises(DataError, match="found others"):
        write_subset(small, nested_subjects(small, 4, 0), tmp_path / "three")


def test_a_subset_goes_on_where_it_was_stopped(small: SliceStore, tmp_path: Path) -> None:
    chosen = nested_subjects(small, 3, 0)
    whole = write_subset(small, chosen, tmp_path / "whole")
    folder = tmp_path / "stopped"
    write_subset(small, chosen, folder)
    for file in ("store.json", "slices.tsv"):
        (folder / file).unlink()
    lines = [[row.__dict__ for row in whole.rows if row.series == whole.rows[0].series]]
    (folder / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    found = write_subset(small, chosen, folder)
    assert found.rows == whole.rows
    every = np.arange(len(whole.rows))
    assert np.array_equal(found.read(every)[0], whole.read(every)[0])


def test_a_subset_of_other_people_is_begun_anew(small: SliceStore, tmp_path: Path) -> None:
    """Interrupted, and then asked for others: the first ones are not left in it."""
    people = nested_subjects(small, 4, 0)
    size = tuple(small.header["settings"]["size"])
    writer = StoreWriter(tmp_path / "some", (size[0], size[1]))
    whole = write_subset(small, people[:2], tmp_path / "whole")
    first = [i for i, row in enumerate(whole.rows) if row.split == "train"][:4]
    image, label = whole.read(np.array(first))
    rows = [whole.rows[i] for i in first]
    planes = np.array([row.affine for row in rows]).reshape(-1, 4, 4)
    cut = CutSlices(image, label, np.array([r.height for r in rows]), np.arange(4), planes, rows[0].scale)
    writer.append(cut, rows[0].subject, rows[0].series, rows[0].sha256, "train")
    made = write_subset(small, people[2:], tmp_path / "some")
    assert {row.subject for row in made.rows if row.split == "train"} == set(people[2:])


def test_two_files_of_one_name_stay_two(tmp_path: Path) -> None:
    """Their hashes tell them apart; each keeps its own intensities, and held-out slices their order."""
    writer = StoreWriter(tmp_path / "store", SIZE)
    for number in range(4):
        images, labels = pictures(4, number)
        cut = CutSlices(
            images, labels, np.linspace(0.2, 0.8, 4), np.arange(4), np.stack([PLANE] * 4), (100.0 + number,)
        )
        split = "holdout" if number < 2 else "train"
        writer.append(cut, f"site{number}", "001", f"{number:064d}", split)
    header = {
        "settings": {"ceiling": 1.2, "size": list(SIZE)},
        "label_names": list(NAMES),
        "strata": {"names": ["height 0.10-0.95"]},
    }
    writer.finish([0] * 16, header)
    store = SliceStore(tmp_path / "store")
    subset = write_subset(store, ["site3"], tmp_path / "subset")
    kept = [row for row in store.rows if row.subject != "site2"]
    assert [(row.sha256, row.index, row.scale) for row in subset.rows] == [(r.sha256, r.index, r.scale) for r in kept]


def test_real_slices_are_the_same_in_every_arm(small: SliceStore) -> None:
    """The extra slices replace the end of a batch and leave the rest alone."""
    real = SliceBatches(small, small.indices("train"), 8, seed=5)
    extra = Extra(np.full((3, 1, *SIZE), 0.5, np.float32), np.full((3, *SIZE), 7, np.uint8))
    plain, mixed = MixedBatches(real, None, 0.5)(2), MixedBatches(real, extra, 0.25)(2)
    assert torch.equal(mixed[0][:6], plain[0][:6])
    assert torch.equal(mixed[1][:6], plain[1][:6])
    assert bool((mixed[1][6:] == 7).all())
    assert len(mixed[0]) == len(plain[0]) == 8


def test_a_slice_gives_way_to_one_of_its_own_stratum(small: SliceStore) -> None:
    """Rows that give way are the same for every arm, in the wanted share; heights without extra slices stay real."""
    real, share, steps = SliceBatches(small, small.indices("train"), 8, seed=5), 0.4, 200
    real.stratum, ours = torch.arange(len(real.stratum)) % 3, [0, 1, 2]
    everywhere = np.repeat(np.array(ours, dtype=np.int64), 3)
    code = everywhere.astype(np.uint8) + 100

    def extra(chosen: np.ndarray) -> Extra:
        label = np.broadcast_to(code[chosen][:, None, None], (int(chosen.sum()), *SIZE)).copy()
        return Extra(np.full((len(label), 1, *SIZE), 0.5, np.float32), label, everywhere[chosen])

    arms = [MixedBatches(real, extra(chosen), share) for chosen in (everywhere >= 0, everywhere == ours[-1])]
    replaced = np.zeros(2)
    for step in range(steps):
        image, label, stratum, _ = real(step)
        rows = []
        for n, arm in enumerate(arms):
            mixed_image, mixed_label = arm(step)
            changed = (mixed_label >= 100).flatten(1).any(dim=1)
            assert torch.equal(mixed_label[changed][:, 0, 0].long(), stratum[changed] + 100)
            assert torch.equal(mixed_image[~changed], image[~changed])
            assert torch.equal(mixed_label[~changed], label[~changed])
            assert bool((mixed_image[changed] == 0.5).all())
            rows.append(changed)
            replaced[n] += int(changed.sum())
        assert torch.equal(rows[1], rows[0] & (stratum == ours[-1]))
    assert replaced[0] / (8 * steps) == pytest.approx(share, abs=0.05)
    assert replaced[1] > 0


def test_extra_slices_may_end_before_training_does(small: SliceStore) -> None:
    real = SliceBatches(small, small.indices("train"), 8, seed=5)
    extra = Extra(np.full((3, 1, *SIZE), 0.5, np.float32), np.full((3, *SIZE), 7, np.uint8))
    batches = MixedBatches(real, extra, 0.25, until=3)
    assert [bool((batches(step)[1] == 7).any()) for step in range(5)] == [True, True, True, False, False]
    plain = MixedBatches(real, None, 0.0)
    for step in (3, 4):
        assert torch.equal(batches(step)[0], plain(step)[0])
        assert torch.equal(batches(step)[1], plain(step)[1])


def test_augmentation_is_named_after_the_step() -> None:
    image = torch.rand(6, 1, 32, 48, generator=torch.Generator().manual_seed(0)) * 2 - 1
    label = (image[:, 0] > 0.3).to(torch.uint8) * 2
    change = SegmentationAugment(True, seed=3)
    first = change(image, label, 4)
    change(image, label, 5)
    again = change(image, label, 4)
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert not torch.equal(first[0], change(image, label, 5)[0])
    assert set(first[1].unique().tolist()) <= {0, 2}


def test_image_and_label_move_together() -> None:
    """A square that is bright in the image stays where its label is, whatever the change."""
    image = torch.full((64, 1, 48, 48), -1.0)
    image[:, :, 10:26, 20:36] = 1.0
    label = (image[:, 0] > 0).to(torch.uint8)
    moved, found = SegmentationAugment(True, seed=0)(image, label, 0)
    bright = (moved[:, 0] > 0).float()
    overlap = 2 * (bright * found).sum(dim=(1, 2)) / (bright.sum(dim=(1, 2)) + found.sum(dim=(1, 2)))
    assert float(overlap.min()) > 0.8
    assert bool((found != label).flatten(1).any(dim=1).float().mean() > 0.4)


def test_a_named_side_forbids_mirroring() -> None:
    assert sides_are_alike(("grey_matter", "ventricles"))
    assert not sides_are_alike(("left_hippocampus", "grey_matter"))
    assert not sides_are_alike(("Hippocampus-Right",))
    assert sides_are_alike(("bright_spot",))


def test_without_flips_sides_stay() -> None:
    image = torch.full((64, 1, 32, 32), -1.0)
    image[:, :, :10] = 1.0
    label = (image[:, 0] > 0).to(torch.uint8)
    kept = SegmentationAugment(False, seed=0)(image, label, 0)[1].float()
    assert bool((kept[:, :16].sum(dim=(1, 2)) > kept[:, 16:].sum(dim=(1, 2))).all())
    flipped = SegmentationAugment(True, seed=0)(image, label, 0)[1].float()
    assert 0.2 < float((flipped[:, :16].sum(dim=(1, 2)) < flipped[:, 16:].sum(dim=(1, 2))).float().mean()) < 0.8
