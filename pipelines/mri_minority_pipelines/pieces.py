"""Work in pieces that any number of processes share: each piece is done once, a killed process's piece is redone."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

_WAIT_SECONDS = 0.2


@dataclass(frozen=True)
class Piece:
    """A part of some work.

    Args:
        result: The file whose presence says that it is done; written atomically, last.
        do: Does it.
    """

    result: Path
    do: Callable[[], None]


def work_through(pieces: list[Piece], step: Callable[[int], None]) -> None:
    """Return when every piece is done, by this process or another.

    A piece is claimed by a lock on a file beside its result. The operating system lets go of a lock when its holder
    dies, so nothing has to be cleaned up by hand.

    Args:
        pieces: The whole work, the same list in every process.
        step: Told after each piece how many are done.
    """
    while missing := [piece for piece in pieces if not piece.result.is_file()]:
        mine = 0
        for piece in missing:
            lock = FileLock(piece.result.with_name(f".{piece.result.name}.lock"))
            try:
                with lock.acquire(blocking=False):
                    # Somebody may have finished it between the look and the lock.
                    if not piece.result.is_file():
                        piece.do()
                        mine += 1
                        step(sum(p.result.is_file() for p in pieces))
            except Timeout:
                continue
        if not mine:
            step(sum(p.result.is_file() for p in pieces))
            time.sleep(_WAIT_SECONDS)


def forget_locks(folder: Path) -> None:
    """Remove the lock files of finished work."""
    for lock in folder.glob(".*.lock"):
        lock.unlink(missing_ok=True)
