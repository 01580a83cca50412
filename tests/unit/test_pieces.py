"""Shared work: every piece once, whoever does it, and again when its worker was killed."""

import os
import time
from multiprocessing import get_context
from pathlib import Path

from mri_minority_pipelines.pieces import Piece, forget_locks, work_through


def pieces(folder: Path, names: str, slow: bool = False) -> list[Piece]:
    """Each piece notes who began it, and writes its result last."""

    def do(name: str) -> None:
        with (folder / f"{name}.begun").open("a", encoding="utf-8") as file:
            file.write(f"{os.getpid()}\n")
        if slow and not (folder / "resurrected").exists():
            time.sleep(60)
        (folder / f"{name}.done").write_text("done", encoding="utf-8")

    return [Piece(folder / f"{name}.done", lambda name=name: do(name)) for name in names]  # type: ignore[misc]


def _work(folder: Path, names: str, slow: bool = False) -> None:
    work_through(pieces(folder, names, slow), lambda done: None)


def begun(folder: Path) -> dict[str, int]:
    """How often each piece was begun."""
    return {f.stem: len(f.read_text(encoding="utf-8").splitlines()) for f in sorted(folder.glob("*.begun"))}


def test_four_processes_do_every_piece_once(tmp_path: Path) -> None:
    names = "abcdefghijklmnop"
    workers = [get_context("fork").Process(target=_work, args=(tmp_path, names)) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    assert begun(tmp_path) == dict.fromkeys(names, 1)


def test_what_is_done_stays_done(tmp_path: Path) -> None:
    _work(tmp_path, "ab")
    _work(tmp_path, "abc")
    assert begun(tmp_path) == {"a": 1, "b": 1, "c": 1}


def test_a_killed_workers_piece_is_redone(tmp_path: Path) -> None:
    """Killed in the middle of its first piece: the piece has no result, its lock is gone, somebody else does it."""
    worker = get_context("fork").Process(target=_work, args=(tmp_path, "ab", True))
    worker.start()
    while not (tmp_path / "a.begun").exists():
        time.sleep(0.01)
    worker.kill()
    worker.join()
    assert not (tmp_path / "a.done").exists()
    (tmp_path / "resurrected").touch()
    _work(tmp_path, "ab", True)
    assert begun(tmp_path) == {"a": 2, "b": 1}


def test_progress_is_told_and_locks_go(tmp_path: Path) -> None:
    told: list[int] = []
    work_through(pieces(tmp_path, "abc"), told.append)
    assert told == [1, 2, 3]
    forget_locks(tmp_path)
    assert not list(tmp_path.glob(".*"))
