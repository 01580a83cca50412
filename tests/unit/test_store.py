"""The slice store: a changed byte is noticed, and several processes may read it at once."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import zarr

from mri_minority.core.errors import DataError
from mri_minority.slices.store import SliceStore, _hash_of
from mri_minority.volumes.atomic import sha256_of, write_json_atomic
from tests.support.drawn import write_store


@pytest.mark.parametrize("array", ["image.zarr", "label.zarr"])
def test_a_changed_byte_in_a_chunk_is_noticed(array: str, tmp_path: Path) -> None:
    """Wherever it is: the chunk either fails its checksum or cannot be unpacked."""
    store = write_store(tmp_path / "store")
    everything = np.arange(len(store.rows))
    before = store.read(everything)
    chunk = next(p for p in sorted((store.folder / array).rglob("*")) if p.is_file() and p.name != "zarr.json")
    data = chunk.read_bytes()
    for at in np.linspace(8, len(data) - 1, 25).astype(int):
        spoilt = bytearray(data)
        spoilt[at] ^= 0x10
        chunk.write_bytes(spoilt)
        with pytest.raises(DataError, match="damaged chunk"):
            SliceStore(store.folder).read(everything)
    chunk.write_bytes(data)
    np.testing.assert_array_equal(SliceStore(store.folder).read(everything)[0], before[0])


def test_a_single_slice_is_the_slice(tmp_path: Path) -> None:
    store = write_store(tmp_path / "store")
    image, label = store.read(np.arange(len(store.rows)))
    for n in (0, 7, 8, 23):
        one, its_label = store.read(np.array([n]))
        np.testing.assert_array_equal(one[0], image[n])
        np.testing.assert_array_equal(its_label[0], label[n])


def test_several_processes_read_at_once(tmp_path: Path) -> None:
    store = write_store(tmp_path / "store")
    code = (
        "import sys, numpy as np; from pathlib import Path; from mri_minority.slices.store import SliceStore; "
        "s = SliceStore(Path(sys.argv[1])); print(float(s.read(np.arange(len(s.rows)))[0].sum()))"
    )
    words = [sys.executable, "-c", code, str(store.folder)]
    running = [subprocess.Popen(words, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    sums = {process.communicate()[0] for process in running}
    assert len(sums) == 1
    assert float(sums.pop()) == pytest.approx(float(store.read(np.arange(len(store.rows)))[0].sum()))


def test_slices_prepared_again_are_known_by_their_older_hash(tmp_path: Path) -> None:
    """Tables without sequence and site, as the first format wrote them, name the same slices; other rows do not."""
    store = write_store(tmp_path / "store")
    table = store.folder / "slices.tsv"
    rows = [line.split("\t") for line in table.read_text(encoding="utf-8").splitlines()]
    kept = [n for n, name in enumerate(rows[0]) if name not in ("sequence", "site")]
    older = "".join("\t".join(row[n] for n in kept) + "\n" for row in rows)
    noted = hashlib.sha256(older.encode()).hexdigest()
    assert len(kept) == len(rows[0]) - 2
    assert store.is_known_as(noted)
    assert store.is_known_as(store.sha256)
    assert not store.is_known_as("0" * 64)
    table.write_text(table.read_text(encoding="utf-8").replace("\ttrain\t", "\tholdout\t", 1), encoding="utf-8")
    assert not SliceStore(store.folder).is_known_as(noted)


def test_other_label_maps_are_other_slices(tmp_path: Path) -> None:
    """Though the table is the same; a model of an earlier version, which noted the table's hash alone, still fits."""
    store = write_store(tmp_path / "a")
    other = write_store(tmp_path / "b")
    assert other.sha256 == store.sha256
    labels = zarr.open_array(tmp_path / "b" / "label.zarr", mode="r+")
    labels[3] = 1 - np.minimum(np.asarray(labels[3]), 1)
    header = json.loads((tmp_path / "b" / "store.json").read_text(encoding="utf-8"))
    assert _hash_of(labels) != header["labels_sha256"]
    header["labels_sha256"] = _hash_of(labels)
    write_json_atomic(tmp_path / "b" / "store.json", header)
    other = SliceStore(tmp_path / "b")
    assert not other.is_known_as(store.sha256)
    assert other.is_known_as(sha256_of(tmp_path / "a" / "slices.tsv"))
