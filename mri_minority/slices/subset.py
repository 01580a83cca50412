"""Some of a store's training subjects as a store of their own: what a study with few labelled subjects starts from."""

import hashlib
import shutil
from pathlib import Path

import numpy as np

from mri_minority.core.errors import DataError, UsageError
from mri_minority.slices.select import CutSlices
from mri_minority.slices.store import SliceStore, StoreWriter


def nested_subjects(store: SliceStore, count: int, seed: int, leave_out: frozenset[str] = frozenset()) -> list[str]:
    """Training subjects in an order that the seed fixes, the first `count`: 10 are among the 20, those among the 40.

    Args:
        store: The slices.
        count: How many; 0 for all.
        seed: Of the order.
        leave_out: Subjects that are not to be among them.

    Raises:
        UsageError: There are not so many.
    """
    every = {row.subject for row in store.rows if row.split == "train"} - leave_out
    order = sorted(every, key=lambda subject: hashlib.sha256(f"subset/{seed}/{subject}".encode()).digest())
    if count > len(order):
        raise UsageError(f"expected at most {len(order)} training subjects in {store.folder}, {count} were asked for")
    return order[:count] if count else order


def write_subset(store: SliceStore, subjects: list[str], folder: Path) -> SliceStore:
    """Write the slices of these training subjects and of every held-out one; strata stay as they were cut.

    Interrupting is safe: the same call goes on.

    Raises:
        DataError: The folder holds a store of other subjects.
    """
    wanted = set(subjects)
    # Two files may have one name; their hashes differ.
    series: dict[tuple[str, str], list[int]] = {}
    for position, row in enumerate(store.rows):
        if row.split != "train" or row.subject in wanted:
            series.setdefault((row.sha256, row.series), []).append(position)
    if (folder / "store.json").is_file():
        written = SliceStore(folder)
        same = written.header.get("subset_of", store.sha256) == store.sha256  # earlier versions do not say it
        if not same or {(row.sha256, row.series) for row in written.rows} != set(series):
            raise DataError(
                f"expected these {len(subjects)} subjects of {store.folder} in {folder}, found others, or other maps; "
                "choose another folder"
            )
        return written
    size = tuple(store.header["settings"]["size"])
    writer = StoreWriter(folder, (size[0], size[1]), store.channels)
    done = {(row.sha256, row.series) for row in writer.rows}
    if not done <= set(series):  # an interrupted one of other subjects
        shutil.rmtree(folder)
        writer, done = StoreWriter(folder, (size[0], size[1]), store.channels), set()
    for (sha256, name), positions in series.items():
        if (sha256, name) in done:
            continue
        image, label = store.read(np.array(positions))
        rows = [store.rows[i] for i in positions]
        planes = np.array([row.affine for row in rows]).reshape(-1, 4, 4)
        height, index = np.array([row.height for row in rows]), np.array([row.index for row in rows])
        cut = CutSlices(image, label, height, index, planes, rows[0].scale)
        kind = (rows[0].sequence, rows[0].site)
        writer.append(cut, rows[0].subject, name, sha256, rows[0].split, kind)
    stratum = {(row.sha256, row.series, row.index): row.stratum for row in store.rows}
    header = {key: value for key, value in store.header.items() if key != "format"}
    header |= {"volumes": len(series), "subset_of": store.sha256}
    writer.finish([stratum[row.sha256, row.series, row.index] for row in writer.rows], header)
    return SliceStore(folder)
