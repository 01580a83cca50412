"""A voxel keeps its world coordinate from the source file to the exported slice, whatever the orientation.

Oracles: the affine the source was written with, nibabel and SimpleITK as readers of what is exported.
"""

from pathlib import Path

import nibabel as nib
import numpy as np
import numpy.typing as npt
import pytest
import SimpleITK
from hypothesis import given, settings
from hypothesis import strategies as st
from nibabel.orientations import axcodes2ornt, inv_ornt_aff

from mri_minority.core.errors import DataError
from mri_minority.export.dataset import write_manifest
from mri_minority.export.nifti import export_slice
from mri_minority.volumes.dicom import find_series
from mri_minority.volumes.dicom_volume import read_dicom_volume
from mri_minority.volumes.geometry import lift_thickness, plane_affine
from mri_minority.volumes.nifti import axis_codes, read_volume
from mri_minority.volumes.volume import Volume
from mri_minority_pipelines.stages import export
from tests.support.dicoms import write_enhanced, write_series
from tests.support.tiny import silent

SHAPE = (6, 7, 5)
MARK = 1000.0
TOLERANCE_MM = 1e-3
RAS = np.array([[0.9, 0, 0, -61.3], [0, 1.1, 0, 45.6], [0, 0, 0.7, 7.85], [0, 0, 0, 1.0]])


def stored_as(codes: str) -> npt.NDArray[np.float64]:
    """The affine of a volume whose axes are stored in another order and direction."""
    return RAS @ inv_ornt_aff(axcodes2ornt(tuple(codes)), SHAPE)


def turned(axis: int, degrees: float) -> npt.NDArray[np.float64]:
    """Rotation about a world axis."""
    a, (i, j) = np.deg2rad(degrees), [n for n in range(3) if n != axis]
    result = np.eye(4)
    result[[i, i, j, j], [i, j, i, j]] = np.cos(a), -np.sin(a), np.sin(a), np.cos(a)
    return result


def sheared(row: int, column: int) -> npt.NDArray[np.float64]:
    """A volume whose axis `column` leans towards axis `row`, as a tilted gantry makes it."""
    shear = np.eye(4)
    shear[row, column] = 0.25
    return RAS @ shear


ORIENTATIONS = {
    **{codes: stored_as(codes) for codes in ("RAS", "LAS", "LPS", "PSR", "ASL", "RPI", "LAI", "IRP")},
    "oblique": turned(0, 17) @ turned(1, -9) @ turned(2, 24) @ RAS,
    "oblique PSR": turned(0, -31) @ turned(2, 12) @ stored_as("PSR"),
    "flipped oblique": turned(1, 20) @ stored_as("LPI"),
    "sheared slices": sheared(1, 2),
    "sheared in plane": sheared(0, 1),
}


def squarely(affine: npt.NDArray[np.float64]) -> bool:
    """Whether all three axes are perpendicular."""
    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    return bool(np.allclose(axes.T @ axes, np.eye(3), atol=1e-5))


def world_in_itk(path: Path) -> npt.NDArray[np.float64]:
    """Where SimpleITK sees the brightest pixel, in RAS+ millimetres (ITK's world is LPS+)."""
    picture = SimpleITK.ReadImage(str(path))
    values = SimpleITK.GetArrayFromImage(picture)
    z, y, x = np.unravel_index(int(values.argmax()), values.shape)
    return np.array(picture.TransformIndexToPhysicalPoint((int(x), int(y), int(z)))) * [-1, -1, 1]


def world_in_nibabel(path: Path) -> npt.NDArray[np.float64]:
    """Where nibabel sees the brightest pixel, in RAS+ millimetres."""
    picture = nib.nifti1.load(path)
    values = np.asarray(picture.dataobj)
    return nib.affines.apply_affine(picture.affine, np.unravel_index(int(values.argmax()), values.shape))


def cropped(plane: npt.NDArray[np.generic], start: tuple[int, int]) -> npt.NDArray[np.generic]:
    """12 x 12 pixels from a start that may lie outside."""
    return np.pad(plane, 12)[12 + start[0] : 24 + start[0], 12 + start[1] : 24 + start[1]]


@pytest.mark.parametrize("name", ORIENTATIONS)
@settings(max_examples=12)
@given(
    voxel=st.tuples(*[st.integers(0, n - 1) for n in SHAPE]),
    axis=st.integers(0, 2),
    before=st.tuples(st.integers(0, 11), st.integers(0, 11)),
)
def test_a_voxel_keeps_its_world_coordinate(
    name: str,
    tmp_path_factory: pytest.TempPathFactory,
    voxel: tuple[int, int, int],
    axis: int,
    before: tuple[int, int],
) -> None:
    folder = tmp_path_factory.mktemp("geometry")
    affine = ORIENTATIONS[name]
    expected_mm = nib.affines.apply_affine(affine, voxel)
    values = np.zeros(SHAPE, np.float32)
    values[voxel] = MARK
    nib.nifti1.Nifti1Image(values, affine).to_filename(folder / "image.nii.gz")
    nib.nifti1.Nifti1Image((values > 0).astype(np.int16) * 7, affine).to_filename(folder / "label.nii.gz")

    volume = read_volume(folder / "image.nii.gz", folder / "label.nii.gz", "subject", "series")
    assert axis_codes(volume.affine) == "RAS"
    where = tuple(int(n) for n in np.argwhere(volume.image == MARK)[0])
    assert volume.label is not None
    assert volume.label[where] == 7
    assert nib.affines.apply_affine(volume.affine, where) == pytest.approx(expected_mm, abs=TOLERANCE_MM)

    in_plane = [where[a] for a in range(3) if a != axis]
    start = (in_plane[0] - before[0], in_plane[1] - before[1])
    image = cropped(volume.image.take(where[axis], axis=axis), start).astype(np.float32)
    label = cropped(volume.label.take(where[axis], axis=axis), start).astype(np.uint8)
    plane = plane_affine(volume.affine, axis, where[axis], start)
    row = export_slice(folder, "slice", image[None], label, plane, {})

    for file in (row["image"], row["label"]):
        assert file is not None
        assert world_in_nibabel(folder / file) == pytest.approx(expected_mm, abs=TOLERANCE_MM)
        # ITK holds a direction of perpendicular axes only. A slice through a sheared volume is such a one, because
        # its third axis may be chosen; a slice that is itself sheared is not, and only nibabel can say where it is.
        if squarely(plane):
            assert world_in_itk(folder / file) == pytest.approx(expected_mm, abs=TOLERANCE_MM)


def read_back(kind: str, folder: Path, values: npt.NDArray[np.float32], affine: npt.NDArray[np.float64]) -> Volume:
    """Write a volume in one of the formats that can come in, and read it."""
    if kind == "nifti":
        nib.nifti1.Nifti1Image(values, affine).to_filename(folder / "image.nii.gz")
        return read_volume(folder / "image.nii.gz", None, "subject", "series")
    if kind == "dicom":
        write_series(folder / "in", values.astype(np.int16), affine, order=[3, 1, 4, 0, 2])
    else:
        write_enhanced(folder / "in" / "volume", values.astype(np.int16), affine, order=[3, 1, 4, 0, 2])
    (series,), broken = find_series(folder / "in")
    assert broken == []
    return read_dicom_volume(series)


@pytest.mark.parametrize("name", ORIENTATIONS)
@pytest.mark.parametrize("kind", ["dicom", "enhanced", "nifti"])
@settings(max_examples=4)
@given(voxel=st.tuples(*[st.integers(0, n - 1) for n in SHAPE]), axis=st.integers(0, 2))
def test_a_voxel_keeps_its_world_coordinate_from_every_reader_to_every_exporter(
    name: str, kind: str, tmp_path_factory: pytest.TempPathFactory, voxel: tuple[int, int, int], axis: int
) -> None:
    affine = ORIENTATIONS[name]
    if kind != "nifti" and name == "sheared in plane":
        return  # rows and columns of a DICOM image are perpendicular
    folder = tmp_path_factory.mktemp("geometry")
    expected_mm = nib.affines.apply_affine(affine, voxel)
    values = np.zeros(SHAPE, np.float32)
    values[voxel] = MARK
    volume = read_back(kind, folder, values, affine)
    assert axis_codes(volume.affine) == "RAS"
    where = tuple(int(n) for n in np.argwhere(volume.image == MARK)[0])
    assert nib.affines.apply_affine(volume.affine, where) == pytest.approx(expected_mm, abs=TOLERANCE_MM)

    plane = plane_affine(volume.affine, axis, where[axis])
    image = np.ascontiguousarray(volume.image.take(where[axis], axis=axis))
    row = export_slice(folder / "drawn", "synth_00000", image[None], (image > 0).astype(np.uint8), plane, {})
    header = {"label_names": ["mark"], "white": MARK}
    write_manifest(folder / "drawn", header, [row])
    for layout in export.LAYOUTS:
        out = folder / layout
        if layout == "dicom" and not squarely(plane):
            with pytest.raises(DataError, match="perpendicular"):
                export.run(folder / "drawn", layout, out, silent)
            assert not out.exists()
            continue
        export.run(folder / "drawn", layout, out, silent)
        for file in sorted(out.rglob("*.nii.gz")):
            assert world_in_nibabel(file) == pytest.approx(expected_mm, abs=TOLERANCE_MM)
        files = [*out.rglob("*.nii.gz"), *out.rglob("image.dcm")]
        assert files
        for file in files if squarely(plane) else []:
            assert world_in_itk(file) == pytest.approx(expected_mm, abs=TOLERANCE_MM)


def test_which_slices_itk_can_hold() -> None:
    """The exemption above is not wider than it says."""
    held = {
        (name, axis)
        for name, affine in ORIENTATIONS.items()
        for axis in range(3)
        if squarely(plane_affine(affine, axis, 0))
    }
    all_of_them = {(name, axis) for name in ORIENTATIONS for axis in range(3)}
    # Axis 0 fixed: the slice holds axes 1 and 2. "sheared slices" leans axis 2 towards 1, "in plane" axis 1 towards 0.
    assert all_of_them - held == {("sheared slices", 0), ("sheared in plane", 2)}


@pytest.mark.parametrize("name", ORIENTATIONS)
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_the_third_column_is_the_normal(name: str, axis: int) -> None:
    affine = ORIENTATIONS[name]
    plane = plane_affine(affine, axis, 3, (2, -4))
    assert plane[:3, 2] @ plane[:3, :2] == pytest.approx([0, 0], abs=1e-9)
    # The distance between planes is the voxel's volume over its base.
    base = np.linalg.norm(np.cross(plane[:3, 0], plane[:3, 1]))
    assert np.linalg.norm(plane[:3, 2]) == pytest.approx(abs(np.linalg.det(affine[:3, :3])) / base)
    # It points to the next plane, not to the one before.
    assert plane[:3, 2] @ affine[:3, axis] > 0


@given(
    spacing_mm=st.tuples(*[st.floats(0.1, 20)] * 3),
    degrees=st.floats(-180, 180),
    pixel=st.tuples(st.integers(-50, 300), st.integers(-50, 300)),
)
def test_lifting_moves_no_pixel(spacing_mm: tuple[float, float, float], degrees: float, pixel: tuple[int, int]) -> None:
    affine = turned(1, degrees) @ np.diag([*spacing_mm, 1.0])
    lifted, true_mm = lift_thickness(affine)
    assert true_mm == pytest.approx(spacing_mm[2])
    assert nib.affines.apply_affine(lifted, (*pixel, 0)) == pytest.approx(nib.affines.apply_affine(affine, (*pixel, 0)))
    lengths_mm = np.linalg.norm(lifted[:3, :3], axis=0)
    assert lengths_mm[:2] == pytest.approx(spacing_mm[:2])
    assert lengths_mm[2] == pytest.approx(max(spacing_mm))
