"""Feed spoilt NIfTI and DICOM files to discovery, readers and slicing: `python -m tests.fuzz.readers --files 10000`.

Every file must end in slices that other software agrees with, or in a refusal of one line: no traceback, no hang, no
more than 1 GiB of memory. A file that does not is kept, with the seed that made it.
"""

import argparse
import collections
import logging
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path

import nibabel as nib
import numpy as np
import numpy.typing as npt
import pydicom
from pydicom.uid import RLELossless

from mri_minority.core.errors import DataError
from mri_minority.slices.select import SliceSettings, cut_slices
from mri_minority.volumes.channels import chosen
from mri_minority.volumes.discover import Found, discover
from mri_minority.volumes.geometry import MAX_INTENSITY
from mri_minority.volumes.read import read_found
from mri_minority.volumes.volume import Volume
from tests.fuzz.mutate import bomb, mutate
from tests.support.dicoms import TO_LPS, head, write_enhanced, write_series

AFFINE = np.array([[-2.0, 0.1, 0, 12], [0, 2.0, 0.2, -9], [0.1, 0, 3.0, 4], [0, 0, 0, 1.0]])
SQUARE = np.diag([2.0, 2.5, 3.0, 1.0])
MOST_SECONDS, MOST_BYTES = 20, 1024**3
SETTINGS = [
    SliceSettings((4.0, 4.0, 4.0), (16, 16), "axial", (0.1, 0.95), 1.2, {}, "head"),
    SliceSettings((2.0, 2.0, -1.0), (16, 16), "coronal", (0.0, 1.0), 1.2, {"egg": (1,)}, "labels"),
    SliceSettings((-1.0, 2.0, 2.0), (16, 16), "sagittal", (0.0, 1.0), 1.2, {"egg": (1,)}, "head"),
]


def sources(folder: Path) -> dict[str, list[Path]]:
    """Sound files of every sort: name of the sort -> files that are spoilt one at a time; the rest lies beside them."""
    values = head((12, 14, 8))
    made: dict[str, list[Path]] = {}
    for name, dtype in (("a.nii", "<i2"), ("a.nii.gz", "<f4"), ("u8.nii.gz", "u1"), ("big.nii.gz", ">f8")):
        here = folder / f"nifti-{name}"
        here.mkdir(parents=True)
        picture = nib.nifti1.Nifti1Image(np.minimum(values, 255).astype(dtype), AFFINE)
        picture.to_filename(here / name.replace("nii", "nii"))
        made[here.name] = [here / name]
    for name in ("p_T1.nii.gz", "p_seg.nii.gz"):
        here = folder / "nifti-pair"
        here.mkdir(exist_ok=True)
        content = values if "T1" in name else (values > 100).astype(np.uint8)
        nib.nifti1.Nifti1Image(content, AFFINE).to_filename(here / name)
    (folder / "nifti-channels").mkdir()
    for name in ("q_T1.nii.gz", "q_FLAIR.nii.gz"):
        nib.nifti1.Nifti1Image(values, AFFINE).to_filename(folder / "nifti-channels" / name)
        made.setdefault("nifti-channels", []).append(folder / "nifti-channels" / name)
    made["nifti-pair"] = [folder / "nifti-pair" / "p_seg.nii.gz", folder / "nifti-pair" / "p_T1.nii.gz"]
    (folder / "nifti-4d").mkdir()
    four = np.stack([values, values[::-1]], axis=-1)
    nib.nifti2.Nifti2Image(four, AFFINE).to_filename(folder / "nifti-4d" / "f.nii.gz")
    made["nifti-4d"] = [folder / "nifti-4d" / "f.nii.gz"]
    made["dicom-classic"] = write_series(folder / "dicom-classic", values[:, :, :5], SQUARE, slope=2.0)
    made["dicom-rle"] = write_series(folder / "dicom-rle", values[:, :, :4], SQUARE)
    for file in made["dicom-rle"]:
        header = pydicom.dcmread(file)
        header.compress(RLELossless, generate_instance_uid=False)
        header.save_as(file)
    made["dicom-enhanced"] = [write_enhanced(folder / "dicom-enhanced" / "e.dcm", values, SQUARE, slope=2.0)]
    return made


def walk(folder: Path, settings: SliceSettings) -> tuple[str, list[tuple[Found, Volume]]]:
    """Discover, read and cut, as `prepare` does; say what became of it."""
    outcome, volumes = "refused", []
    try:
        joined = folder.name == "nifti-channels"
        found = chosen(discover([folder]), ("T1", "FLAIR") if joined else "", None if joined else 1)
    except DataError as error:
        return _one_line(error), []
    for item in found:
        try:
            channels = read_found(item)
            volumes.append((item.images[0], channels[0]))  # the others may have been resampled
            cut = cut_slices(channels, settings)
            if not np.isfinite(cut.image).all() or np.abs(cut.image).max() > 1 or cut.label.max(initial=0) > 1:
                raise AssertionError("a slice holds values that none may hold")
            outcome = "read"
        except DataError as error:
            _one_line(error)
    return outcome, volumes


def _one_line(error: DataError) -> str:
    message = str(error)
    if len(message.splitlines()) != 1 or not message.isprintable() or len(message) > 1200:
        raise AssertionError(f"a refusal is not one line: {message!r}")
    return "refused"


def check(item: Found, volume: Volume) -> str:
    """Compare what we read with nibabel and pydicom; say whether they could read it."""
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            theirs = _dicom(item) if item.dicom is not None else _nifti(item)
    except Exception as error:
        return f"only we read it ({type(error).__name__})"
    for voxel, world, value in theirs:
        index = np.linalg.solve(volume.affine, [*world, 1.0])[:3]
        whole = tuple(int(n) for n in np.rint(index))
        if np.abs(index - whole).max() > 0.05:
            raise AssertionError(f"voxel {voxel} lies at {index}, between voxels")
        ours, expected = float(volume.image[whole]), value if abs(value) < MAX_INTENSITY else 0.0
        if not np.isclose(ours, np.float32(expected), rtol=1e-4, atol=1e-4 * max(1.0, abs(expected))):
            raise AssertionError(f"voxel {voxel} is {ours}, {expected} for others")
    return "agrees"


def _nifti(item: Found) -> list[tuple[object, npt.NDArray[np.float64], float]]:
    picture: nib.nifti1.Nifti1Image = nib.load(item.image)  # type: ignore[assignment]
    data = np.asarray(picture.dataobj, dtype=np.float64)
    data = data[..., item.channel or 0] if data.ndim == 4 and data.shape[3] > 1 else data.reshape(data.shape[:3])
    rng = np.random.default_rng(0)
    voxels = [tuple(int(rng.integers(n)) for n in data.shape) for _ in range(20)]
    return [(v, nib.affines.apply_affine(picture.affine, v), float(data[v])) for v in voxels]


def _dicom(item: Found) -> list[tuple[object, npt.NDArray[np.float64], float]]:
    assert item.dicom is not None
    result = []
    for frame in item.dicom.frames:
        header = pydicom.dcmread(frame.file)
        if frame.frames > 1:
            position = (
                header.PerFrameFunctionalGroupsSequence[frame.number].PlanePositionSequence[0].ImagePositionPatient
            )
            plane = header.pixel_array[frame.number]
            slope = header.SharedFunctionalGroupsSequence[0].PixelValueTransformationSequence[0].RescaleSlope
            intercept = 0.0
        else:
            position, plane = header.ImagePositionPatient, header.pixel_array
            slope, intercept = header.get("RescaleSlope", 1), header.get("RescaleIntercept", 0)
        world = TO_LPS[:3, :3] @ np.array([float(v) for v in position])
        result.append(((frame.file.name, frame.number), world, float(plane[0, 0]) * float(slope) + float(intercept)))
    return result


class Hang(BaseException):
    """A file took too long; not an Exception, so that nothing swallows it."""


def _ring(signum: int, frame: object) -> None:
    raise Hang


def bombs(folder: Path) -> dict[str, Path]:
    """Files that claim or unpack to far more than they are."""
    small = bytearray(nib.nifti1.Nifti1Image(np.zeros((4, 4, 4), np.uint8), SQUARE).to_bytes())
    result = {}
    for name, sides, megabytes in (
        ("32767", (32767,) * 3, 1),
        ("363", (363,) * 3, 46),
        ("364", (364,) * 3, 47),
        ("tail", (4,) * 3, 80),
    ):
        header = bytearray(small)
        for n, side in enumerate(sides):
            header[42 + 2 * n : 44 + 2 * n] = side.to_bytes(2, "little")
        here = folder / f"bomb-{name}"
        here.mkdir()
        (here / "b.nii.gz").write_bytes(bomb(bytes(header), megabytes))
        result[name] = here
    return result


def main() -> int:
    """Run; exit code 1 when a file was not stood."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, default=Path("fuzz_failures"))
    options = parser.parse_args()
    for sort in (signal.SIGALRM, signal.SIGPROF):
        signal.signal(sort, _ring)
    logging.getLogger("nibabel.global").setLevel(logging.CRITICAL)
    counts: collections.Counter[tuple[str, str]] = collections.Counter()
    failures, start = 0, time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        made = sources(folder)
        for here, files in made.items():
            outcome, volumes = walk(files[0].parent, SETTINGS[0])
            said = [check(item, volume) for item, volume in volumes]
            if outcome != "read" or set(said) != {"agrees"}:
                raise SystemExit(f"{here} is not read before anything is spoilt: {outcome}, {said}")
        baseline = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for here in bombs(folder).values():
            outcome, problem = _guarded(here, SETTINGS[0], compare=False)  # others would unpack them
            counts[("bomb", outcome)] += 1
            failures += problem is not None
        for number in range(options.files):
            rng = random.Random(f"{options.seed}/{number}")
            sort = rng.choice(list(made))
            target = rng.choice(made[sort])
            sound = target.read_bytes()
            target.write_bytes(mutate(sound, sort.split("-")[0], rng))
            outcome, problem = _guarded(target.parent, rng.choice(SETTINGS))
            counts[(sort, outcome)] += 1
            if problem:
                failures += 1
                kept = options.keep / f"{options.seed}-{number}-{sort}"
                shutil.copytree(target.parent, kept, dirs_exist_ok=True)
                print(f"{kept}: {problem}", file=sys.stderr)
            target.write_bytes(sound)
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - baseline) * 1024
    for (sort, outcome), count in sorted(counts.items()):
        print(f"{sort:16} {outcome:32} {count}")
    print(
        f"{options.files} spoilt files, {failures} failures, {time.monotonic() - start:.0f} s, "
        f"memory grew by {grown / 2**20:.0f} MiB"
    )
    return 1 if failures or grown > MOST_BYTES else 0


def _guarded(folder: Path, settings: SliceSettings, compare: bool = True) -> tuple[str, str | None]:
    """Walk and check under an alarm; outcome, and what went wrong."""
    signal.setitimer(signal.ITIMER_PROF, MOST_SECONDS)  # of the processor: a busy machine is no hang
    signal.alarm(30 * MOST_SECONDS)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # a warning would be said beside the one line
            outcome, volumes = walk(folder, settings)
        said = {check(item, volume) for item, volume in volumes} if compare else set()
        return (f"{outcome}, {', '.join(sorted(said))}" if said else outcome), None
    except Hang:
        return "hang", f"more than {MOST_SECONDS} s"
    except (Exception, RecursionError):
        return "FAILED", traceback.format_exc()
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.alarm(0)


if __name__ == "__main__":
    sys.exit(main())
