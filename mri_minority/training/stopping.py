"""Being asked to stop: schedulers send SIGTERM or SIGUSR1, people press Ctrl-C."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

_NAMES = ("SIGTERM", "SIGUSR1", "SIGINT")


@contextmanager
def asked_to_stop_is_interrupted() -> Iterator[None]:
    """Within the block SIGTERM and SIGUSR1 raise KeyboardInterrupt, as Ctrl-C does.

    Schedulers send them, and what they ended without a word would not be queued again.
    """

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = {}
    if threading.current_thread() is threading.main_thread():
        numbers = [getattr(signal, name) for name in _NAMES[:2] if name in signal.Signals.__members__]
        before = {number: signal.signal(number, interrupt) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def stop_requests() -> Iterator[Callable[[], bool]]:
    """Within the block a signal only raises a flag; the given function reads it.

    A second Ctrl-C acts at once. Outside the main thread signals cannot be caught, and the flag stays down.
    """
    asked = False

    def ask(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        if asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        asked = True

    before = {}
    if threading.current_thread() is threading.main_thread():
        # SIGUSR1 does not exist everywhere.
        numbers = [getattr(signal, name) for name in _NAMES if name in signal.Signals.__members__]
        before = {number: signal.signal(number, ask) for number in numbers}
    try:
        yield lambda: asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
