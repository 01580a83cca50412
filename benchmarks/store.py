"""The slice store against plain npy and MONAI's PersistentDataset: size, writing, random reading.

    python benchmarks/store.py brains.store --slices 2000

Takes slices of a store made by `prepare`, writes them again in every way, and reads them in a random order, one by one
and in batches of 16, from a warm page cache. Rates are per second of processor time, so that a busy machine says the
same: what is compared is the work of packing and unpacking, not the disk.
"""

import argparse
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import zarr
from monai.data import PersistentDataset
from monai.transforms import Transform

from mri_minority.slices.store import SliceStore

Reader = Callable[[npt.NDArray[np.int64]], tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8]]]
Image, Label = npt.NDArray[np.float32], npt.NDArray[np.uint8]


def as_zarr(folder: Path, image: Image, label: Label, dtype: str, chunk: int, packed: bool) -> Reader:
    """Zarr v3, as the store does it, with another dtype, chunk or no compression."""
    arrays = []
    for name, data in (("image", image.astype(dtype)), ("label", label)):
        options = {} if packed else {"compressors": None}
        shape = (0, *data.shape[1:])
        array = zarr.create_array(
            folder / name, shape=shape, chunks=(chunk, *data.shape[1:]), dtype=data.dtype, **options
        )
        for start in range(0, len(data), 64):  # volume by volume, as prepare does
            array.resize((min(len(data), start + 64), *data.shape[1:]))
            array[start : start + 64] = data[start : start + 64]
        arrays.append(zarr.open_array(folder / name, mode="r"))

    def read(index: npt.NDArray[np.int64]) -> tuple[Image, Label]:
        one, two = arrays[0].oindex[index], arrays[1].oindex[index]
        return np.asarray(one).astype(np.float32), np.asarray(two).astype(np.uint8)

    return read


def as_npy(folder: Path, image: Image, label: Label) -> Reader:
    """Two npy files of float32 and uint8, mapped into memory."""
    folder.mkdir()
    np.save(folder / "image.npy", image)
    np.save(folder / "label.npy", label)
    one, two = np.load(folder / "image.npy", mmap_mode="r"), np.load(folder / "label.npy", mmap_mode="r")
    return lambda index: (np.array(one[index]), np.array(two[index]))


def as_persistent(folder: Path, image: Image, label: Label) -> Reader:
    """MONAI's PersistentDataset: one file of tensors per slice, made when it is first asked for."""

    class Load(Transform):  # what is no Transform would not be kept on disk
        def __call__(self, item: dict[str, int]) -> dict[str, torch.Tensor]:
            n = item["n"]
            return {"image": torch.tensor(image[n]), "label": torch.tensor(label[n])}

    dataset = PersistentDataset([{"n": n} for n in range(len(image))], Load(), cache_dir=folder)
    for n in range(len(image)):
        dataset[n]

    def read(index: npt.NDArray[np.int64]) -> tuple[Image, Label]:
        items = [dataset[int(n)] for n in index]
        return np.stack([i["image"].numpy() for i in items]), np.stack([i["label"].numpy() for i in items])

    return read


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("store", type=Path)
    parser.add_argument("--slices", type=int, default=2000)
    options = parser.parse_args()
    source = SliceStore(options.store)
    count = min(options.slices, len(source.rows))
    image, label = source.read(np.arange(count))
    ways: dict[str, Callable[[Path], Reader]] = {
        "zarr float16, chunks of 8, zstd (the store)": lambda f: as_zarr(f, image, label, "float16", 8, True),
        "zarr float16, chunks of 1, zstd": lambda f: as_zarr(f, image, label, "float16", 1, True),
        "zarr float16, chunks of 32, zstd": lambda f: as_zarr(f, image, label, "float16", 32, True),
        "zarr float16, chunks of 8, uncompressed": lambda f: as_zarr(f, image, label, "float16", 8, False),
        "zarr float32, chunks of 8, zstd": lambda f: as_zarr(f, image, label, "float32", 8, True),
        "npy float32, memory-mapped": lambda f: as_npy(f, image, label),
        "MONAI PersistentDataset, float32": lambda f: as_persistent(f, image, label),
    }
    order = np.random.default_rng(0).permutation(count)
    print(f"{count} slices of {image.shape[1]} x {image.shape[2]}, {torch.get_num_threads()} threads\n")
    print("| way | size (MB) | files | written (slices/s) | read singly (slices/s) | read in 16s (slices/s) | error |")
    print("|---|---|---|---|---|---|---|")
    for name, write in ways.items():
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary) / "data"
            start = time.process_time()
            read = write(folder)
            written = count / (time.process_time() - start)
            files = [p for p in folder.rglob("*") if p.is_file()]
            size = sum(p.stat().st_size for p in files) / 1e6
            got, got_label = read(np.sort(order[:64]))
            wrong = float(np.abs(got - image[np.sort(order[:64])]).max())
            assert np.array_equal(got_label, label[np.sort(order[:64])])
            singles = _rate([order[n : n + 1] for n in range(min(count, 500))], read)
            sixteens = _rate([np.sort(order[n : n + 16]) for n in range(0, count - 15, 16)], read)
            print(
                f"| {name} | {size:.1f} | {len(files)} | {written:.0f} | {singles:.0f} | {sixteens:.0f} | {wrong:.1g} |"
            )
            shutil.rmtree(folder)


def _rate(batches: list[npt.NDArray[np.int64]], read: Reader) -> float:
    start = time.process_time()
    for batch in batches:
        read(batch)
    return sum(map(len, batches)) / (time.process_time() - start)


if __name__ == "__main__":
    main()
