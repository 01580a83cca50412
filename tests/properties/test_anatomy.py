"""Edits of label maps: the factor is reached, nothing folds, the outline stays, pieces are kept, the rest is still."""

import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.ndimage import distance_transform_edt

import mri_minority.anatomy
from mri_minority.anatomy.asymmetry import Asymmetry
from mri_minority.anatomy.edit import CannotReach, Edit, LabelMap, pieces, room_of
from mri_minority.anatomy.flow import MARGIN, carried_along, jacobian, warped
from mri_minority.anatomy.kinds import kinds
from mri_minority.anatomy.lesion_add import LesionAdd
from mri_minority.anatomy.lesion_graft import LesionGraft
from mri_minority.anatomy.lesion_move import LesionMove
from mri_minority.anatomy.lesion_remove import LesionRemove
from mri_minority.anatomy.lesion_scale import LesionScale
from mri_minority.anatomy.resize import Resize
from mri_minority.anatomy.shift import Shift
from mri_minority.core.errors import DataError, UsageError
from mri_minority_pipelines.edits import parse_edit

GREY, WHITE, VENTRICLES = 1, 2, 3


def head(seed: int) -> LabelMap:
    """An egg of grey matter around white matter around two ventricles that differ."""
    rng = np.random.default_rng(seed)
    x, y = np.meshgrid(np.linspace(-1.1, 1.1, 96), np.linspace(-1.1, 1.1, 112), indexing="ij")
    wide, long = rng.uniform(0.8, 0.95, 2)
    brain = (x / wide) ** 2 + (y / long) ** 2
    label = np.where(brain < 1, GREY, 0)
    label[brain < 0.62] = WHITE
    for side in (-1, 1):
        at, size = rng.uniform(0.16, 0.22), rng.uniform(0.06, 0.1)
        label[((x - side * at) / size) ** 2 + ((y - rng.uniform(-0.1, 0.1)) / (3 * size)) ** 2 < 1] = VENTRICLES
    return label.astype(np.uint8)


def check_kept(before: LabelMap, after: LabelMap) -> None:
    """What every deformation owes: outline, margin, pieces, classes."""
    room = room_of(before)
    np.testing.assert_array_equal(room_of(after), room)
    still = distance_transform_edt(room) <= MARGIN
    np.testing.assert_array_equal(after[still], before[still])
    for value in (GREY, WHITE, VENTRICLES):
        assert pieces(after == value) == pieces(before == value)
    assert pieces(after == 0) == pieces(before == 0)


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 10**6), factor=st.floats(1.0, 2.5))
def test_growing(seed: int, factor: float) -> None:
    before = head(seed)
    done = Resize(factor).apply(before, VENTRICLES, room_of(before), np.random.default_rng(0))
    area = (before == VENTRICLES).sum()
    assert (done.label == VENTRICLES).sum() / area == pytest.approx(factor, abs=0.03 * factor + 2 / area)
    assert done.reached == (done.label == VENTRICLES).sum() / area
    assert 0 < done.jacobian_min <= 1
    check_kept(before, done.label)


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 10**6), factor=st.floats(0.5, 1.0))
def test_shrinking(seed: int, factor: float) -> None:
    before = head(seed)
    done = Resize(factor, "shrink").apply(before, VENTRICLES, room_of(before), np.random.default_rng(0))
    area = (before == VENTRICLES).sum()
    assert (done.label == VENTRICLES).sum() / area == pytest.approx(factor, abs=0.03 + 2 / area)
    assert done.jacobian_min > 0
    check_kept(before, done.label)


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 10**6), pixels=st.floats(0.5, 4.0), angle=st.floats(0, 360))
def test_shifting(seed: int, pixels: float, angle: float) -> None:
    before = head(seed)
    done = Shift(pixels, angle).apply(before, VENTRICLES, room_of(before), np.random.default_rng(0))
    moved = np.argwhere(done.label == VENTRICLES).mean(axis=0) - np.argwhere(before == VENTRICLES).mean(axis=0)
    way = np.array([np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))])
    assert moved @ way == pytest.approx(done.reached, abs=1e-9)
    # Borders cross rows of pixels all at once: the centre jumps by up to 0.5, and the jump past the goal is the last.
    assert moved @ way == pytest.approx(pixels, abs=0.5)
    assert done.jacobian_min > 0
    check_kept(before, done.label)


@settings(max_examples=6, deadline=None)
@given(seed=st.integers(0, 10**6), factor=st.floats(1.1, 2.0), side=st.sampled_from(["right", "left"]))
def test_asymmetry(seed: int, factor: float, side: str) -> None:
    before = head(seed)
    done = Asymmetry(factor, side).apply(before, VENTRICLES, room_of(before), np.random.default_rng(0))
    half = slice(48, 96) if side == "right" else slice(0, 48)
    other = slice(0, 46) if side == "right" else slice(50, 96)

    def count(label: LabelMap, rows: slice) -> int:
        return int((label[rows] == VENTRICLES).sum())

    assert count(done.label, half) / count(before, half) == pytest.approx(factor, abs=0.05)
    assert count(done.label, other) / count(before, other) == pytest.approx(1, abs=0.1)
    assert done.jacobian_min > 0
    check_kept(before, done.label)


def test_neighbours_are_carried_along() -> None:
    """Grown ventricles press the white matter outwards instead of eating it: its outer edge moves too."""
    before = head(1)
    done = Resize(2.5).apply(before, VENTRICLES, room_of(before), np.random.default_rng(0))
    grown = int((done.label == VENTRICLES).sum() - (before == VENTRICLES).sum())
    lost = int((before == WHITE).sum() - (done.label == WHITE).sum())
    assert 0 < lost < 0.8 * grown


@settings(max_examples=6, deadline=None)
@given(seed=st.integers(0, 10**6), factor=st.floats(1.2, 2.5))
def test_an_image_is_carried_along_with_its_map(seed: int, factor: float) -> None:
    """Painted one grey value per class, image and map say the same after the edit, but where it mixes two classes."""
    before = head(seed)
    done = Resize(factor).apply(before, VENTRICLES, room_of(before), np.random.default_rng(0))
    assert done.deformation is not None
    image = carried_along(before[None].astype(np.float32), done.deformation)[0]
    # A pixel takes its value from the four pixels around psi; the deformation may have stretched them apart.
    row, column = np.floor(done.deformation).astype(int)
    rows, columns = (np.clip([at, at + 1], 0, size - 1) for at, size in zip((row, column), before.shape, strict=True))
    four = np.stack([before[rows[i], columns[j]] for i in (0, 1) for j in (0, 1)])
    pure = (four == four[0]).all(axis=0)
    assert pure.mean() > 0.8
    np.testing.assert_array_equal(done.label[pure], four[0][pure])
    np.testing.assert_allclose(image[pure], four[0][pure], atol=1e-5)
    assert (four.min(axis=0) - 1e-5 <= image).all()
    assert (image <= four.max(axis=0) + 1e-5).all()
    assert float(jacobian(done.deformation).min()) == done.jacobian_min


def test_too_much_is_refused() -> None:
    before = head(2)
    with pytest.raises(CannotReach, match="ask for less"):
        Resize(30.0).apply(before, VENTRICLES, room_of(before), np.random.default_rng(0))
    with pytest.raises(CannotReach, match="ask for less"):
        Shift(90.0, 90.0).apply(before, VENTRICLES, room_of(before), np.random.default_rng(0))
    with pytest.raises(UsageError, match="1 or more"):
        Resize(0.5)
    with pytest.raises(DataError, match="class 9"):
        Resize(2.0).apply(before, 9, room_of(before), np.random.default_rng(0))


def test_nothing_asked_changes_nothing() -> None:
    before = head(3)
    for edit in (Resize(1.0), Resize(1.0, "shrink"), Shift(0.0, 0.0)):
        np.testing.assert_array_equal(
            edit.apply(before, VENTRICLES, room_of(before), np.random.default_rng(0)).label, before
        )


def test_a_fold_has_a_negative_jacobian() -> None:
    """The measure itself: 1 for no movement, a c for a stretch by a and c, below 0 where neighbours change places."""
    psi = np.stack(np.meshgrid(np.arange(6.0), np.arange(7.0), indexing="ij"))
    np.testing.assert_allclose(jacobian(psi), 1)
    np.testing.assert_allclose(jacobian(psi * np.array([0.5, 3.0])[:, None, None]), 1.5)
    folded = psi.copy()
    folded[0, [2, 3]] = folded[0, [3, 2]]
    assert jacobian(folded).min() < 0
    label = head(4)
    grid = np.stack(np.meshgrid(np.arange(96.0), np.arange(112.0), indexing="ij"))
    np.testing.assert_array_equal(warped(label, grid, room_of(label)), label)


def lesions(seed: int) -> tuple[LabelMap, np.ndarray]:
    """A map of lesions alone, and the head they are in."""
    room = room_of(head(seed))
    rng, label = np.random.default_rng(seed), np.zeros((96, 112), np.uint8)
    for _ in range(2):
        label = LesionAdd(40).apply(label, 1, room, rng).label
    return label, room


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10**6), pixels=st.integers(5, 120))
@example(seed=92, pixels=92)  # the first place that has room touches a lesion at a corner
def test_adding_and_removing(seed: int, pixels: int) -> None:
    """One more piece of just that area, inside the head and apart from the others; removing leaves nothing."""
    before, room = lesions(seed)
    done = LesionAdd(pixels).apply(before, 1, room, np.random.default_rng(seed))
    new = (done.label == 1) & (before != 1)
    assert new.sum() == done.reached == pixels
    assert pieces(new) == 1
    assert pieces(done.label == 1) == pieces(before == 1) + 1
    assert not (new & ~room).any()
    assert not LesionRemove().apply(done.label, 1, room, np.random.default_rng(0)).label.any()


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10**6), factor=st.floats(0.4, 1.6))
def test_scaling_lesions(seed: int, factor: float) -> None:
    before, room = lesions(seed)
    try:
        done = LesionScale(factor).apply(before, 1, room, np.random.default_rng(0))
    except CannotReach:  # two lesions that lie close, or a tiny one
        return
    assert done.label.sum() == round(factor * before.sum())
    assert pieces(done.label == 1) == pieces(before == 1)
    smaller, larger = sorted([before, done.label], key=lambda m: int(m.sum()))
    assert not ((smaller == 1) & (larger != 1)).any()


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_moving_lesions(seed: int) -> None:
    before, room = lesions(seed)
    done = LesionMove(5.0).apply(before, 1, room, np.random.default_rng(seed))
    assert done.label.sum() == before.sum()
    assert done.reached == pytest.approx(5.0, abs=0.8)
    moved = np.argwhere(done.label).mean(axis=0) - np.argwhere(before).mean(axis=0)
    assert np.linalg.norm(moved) == pytest.approx(done.reached)


def test_all_edits_keep_the_protocol() -> None:
    every = (
        Resize(2.0),
        Shift(1.0),
        Asymmetry(2.0),
        LesionAdd(9),
        LesionRemove(),
        LesionMove(3.0),
        LesionScale(2.0),
    )
    assert all(isinstance(edit, Edit) for edit in every)
    assert len({edit.kind for edit in every}) == len(every)


def test_an_edit_is_a_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file with `KINDS` beside the others is a word of `--edit`; a word that is taken is refused."""
    (tmp_path / "swell.py").write_text(
        "from mri_minority.anatomy.kinds import FACTOR, Kind\n"
        "from mri_minority.anatomy.resize import Resize\n"
        'KINDS = {"swell": Kind(FACTOR, lambda amount: Resize(amount), 20, (1.0, 2.0))}\n'
    )
    monkeypatch.setattr(mri_minority.anatomy, "__path__", [*mri_minority.anatomy.__path__, str(tmp_path)])
    kinds.cache_clear()
    try:
        assert set(kinds()) == {"swell", "grow", "shrink", "asymmetry", "shift", "scale", "move", "add", "remove"}
        request = parse_edit("ventricles:swell=1.5..9*p95", ("grey", "white", "ventricles"))
        card = {
            "label_names": ["grey", "white", "ventricles"],
            "real_attributes": {"ventricles_share": [[0.0, 1.0]]},
            "strata": {"names": ["all"]},
        }
        edit = request.edit(head(1), VENTRICLES, 0, card, (2.0, 2.0), np.random.default_rng(0))
        assert isinstance(edit, Resize)
        assert 1.5 <= edit.factor <= 2.0
        (tmp_path / "taken.py").write_text("KINDS = {'swell': None}\n")
        kinds.cache_clear()
        with pytest.raises(ValueError, match="swell"):
            kinds()
    finally:
        monkeypatch.undo()
        for name in ("swell", "taken"):
            sys.modules.pop(f"mri_minority.anatomy.{name}", None)
        kinds.cache_clear()
    assert "swell" not in kinds()


LESION = 4


def spot(label: LabelMap, at: tuple[float, float], radius: float) -> np.ndarray:
    """A lopsided spot: a place in units of the head's box, a radius in pixels."""
    box = [np.flatnonzero(room_of(label).any(axis=1 - axis)) for axis in (0, 1)]
    centre = [side[0] + share * (side[-1] - side[0]) for side, share in zip(box, at, strict=True)]
    x, y = np.meshgrid(*[np.arange(n) for n in label.shape], indexing="ij")
    return np.hypot(x - centre[0], (y - centre[1]) / 1.5) < radius * (1 + 0.2 * (x > centre[0]))


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 10**6), across=st.floats(0.3, 0.7), along=st.floats(0.3, 0.7), radius=st.floats(2, 7))
def test_grafting_into_the_same_head_is_the_donors_lesion(
    seed: int, across: float, along: float, radius: float
) -> None:
    before = head(seed)
    donor = spot(before, (across, along), radius)
    done = LesionGraft(donor, room_of(before)).apply(before, LESION, room_of(before), np.random.default_rng(0))
    np.testing.assert_array_equal(done.label == LESION, donor)
    np.testing.assert_array_equal(done.label[~donor], before[~donor])
    assert done.reached == donor.sum()


@settings(max_examples=12, deadline=None)
@given(across=st.floats(0.35, 0.65), along=st.floats(0.35, 0.65), pixels=st.none() | st.integers(20, 200))
def test_grafting_into_another_head_keeps_the_place(across: float, along: float, pixels: int | None) -> None:
    """Twice as coarse and elsewhere in the picture: the lesion's centre is at the same place of the head's box."""
    donor_head = head(3)
    donor = spot(donor_head, (across, along), 8)
    other = np.roll(np.pad(donor_head[::2, ::2], ((20, 28), (30, 26))), (7, -9), axis=(0, 1))
    done = LesionGraft(donor, room_of(donor_head), pixels).apply(
        other, LESION, room_of(other), np.random.default_rng(0)
    )
    found = done.label == LESION
    assert found.sum() == done.reached
    assert found.sum() == (pixels or pytest.approx(donor.sum() / 4, rel=0.15))
    assert pieces(found) == 1
    wanted = np.argwhere(donor).mean(axis=0) / 2 + np.array([20 + 7, 30 - 9])
    np.testing.assert_allclose(np.argwhere(found).mean(axis=0), wanted, atol=1.2)


def test_grafts_that_do_not_fit_are_refused() -> None:
    before, rng = head(5), np.random.default_rng(0)
    room = room_of(before)
    donor = spot(before, (0.5, 0.5), 5)
    with pytest.raises(CannotReach, match="does not fit"):
        LesionGraft(donor, room, pixels=before.size).apply(before, LESION, room, rng)
    taken = np.where(donor, np.uint8(LESION), before)
    with pytest.raises(CannotReach, match="does not fit"):
        LesionGraft(donor, room).apply(taken, LESION, room, rng)
    corner = tuple(np.argwhere(donor).max(axis=0) + 1)  # beyond the box of the round spot: no neighbour
    edge = np.argwhere(donor)[0] - 1  # of the first row's first pixel: adjoins it at a corner
    beside = before.copy()
    beside[corner] = LESION
    assert pieces(LesionGraft(donor, room).apply(beside, LESION, room, rng).label == LESION) == 2
    beside[tuple(edge)] = LESION
    with pytest.raises(CannotReach, match="does not fit"):
        LesionGraft(donor, room).apply(beside, LESION, room, rng)
    with pytest.raises(CannotReach, match="found none"):
        LesionGraft(donor, np.zeros_like(room)).apply(before, LESION, room, rng)
    with pytest.raises(CannotReach, match="does not fit"):
        LesionGraft(np.zeros_like(donor), room).apply(before, LESION, room, rng)
