"""Being asked to stop: schedulers send SIGTERM or SIGUSR1, people press Ctrl-C."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

_NAMES = ("SIGTERM", "SIGUSR1", "SIGINT")


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
