"""Peak memory of reading and cutting the largest head that is accepted.

    python benchmarks/memory.py --side 363 --spacing 0.672 --channels 1 --label int32

Writes a head of side^3 voxels (0.5 mm) with its label map, reads it in a fresh process and cuts it at a spacing that
leaves almost as many voxels as are allowed. Prints the peak resident memory after importing, reading and cutting.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import nibabel as nib
import numpy as np

SEQUENCES = ("T1", "FLAIR", "T2")
WIDTH_MM = 182.0


def write_head(folder: Path, side: int, channels: int, label: str) -> None:
    """An egg, brighter towards its shell, with some noise; the inner half of it labelled."""
    square = ((np.arange(side) - side / 2) / (0.42 * side)) ** 2
    image, mask = np.empty((side,) * 3, np.int16), np.zeros((side,) * 3, label)
    rng = np.random.default_rng(0)
    for k in range(side):
        radius = square[:, None] + square[None] + square[k]
        image[:, :, k] = np.where(radius < 1, 100 + 50 * radius, 2) + rng.integers(0, 3, radius.shape)
        mask[:, :, k] = (radius < 0.5) * (1 if np.iinfo(label).max < 70000 else 70000)
    affine = np.diag([*[WIDTH_MM / side] * 3, 1.0])
    for sequence in SEQUENCES[:channels]:
        nib.nifti1.Nifti1Image(image, affine).to_filename(folder / f"a_{sequence}.nii.gz")
    nib.nifti1.Nifti1Image(mask, affine, dtype=label).to_filename(folder / "a_seg.nii.gz")


def peak_mib() -> float:
    """Of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(folder: Path, spacing_mm: float, channels: int) -> None:
    """Read and cut what is in a folder, telling the peak after each step."""
    from mri_minority.slices.select import SliceSettings, cut_slices
    from mri_minority.volumes.channels import chosen
    from mri_minority.volumes.discover import discover
    from mri_minority.volumes.read import read_found
    from mri_minority_pipelines.stages import prepare  # what the command imports

    print(f"imported {prepare.__name__.split('.')[-1]}: {peak_mib():.0f} MiB")
    (item,) = chosen(discover([folder]), SEQUENCES[:channels], None)
    volumes = read_found(item)
    print(f"read {len(volumes)} x {volumes[0].image.shape}: {peak_mib():.0f} MiB")
    settings = SliceSettings((spacing_mm,) * 3, (256, 256), "axial", (0.0, 1.0), 1.2, {"inside": (1, 70000)}, "head")
    cut = cut_slices(volumes, settings)
    print(f"cut {cut.image.shape}: {peak_mib():.0f} MiB")


def main() -> None:
    """Write, then measure in another process: its peak is its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", type=int, default=363)
    parser.add_argument("--spacing", type=float, default=0.672)
    parser.add_argument("--channels", type=int, default=1)
    parser.add_argument("--label", default="int32")
    parser.add_argument("--of", type=Path)
    args = parser.parse_args()
    if args.of:
        measure(args.of, args.spacing, args.channels)
        return
    with tempfile.TemporaryDirectory() as folder:
        write_head(Path(folder), args.side, args.channels, args.label)
        words = ["--spacing", str(args.spacing), "--channels", str(args.channels), "--of", folder]
        subprocess.run([sys.executable, __file__, *words], check=True)


if __name__ == "__main__":
    main()
