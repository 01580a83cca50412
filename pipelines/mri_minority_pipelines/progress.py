"""How far a study is, and how long the rest will take."""

import time
from collections.abc import Callable

from mri_minority_pipelines.events import Event


class Progress:
    """Runs done, and how long the rest will take at the pace of this process.

    Args:
        total: Runs in all.
        steps: Of each.
        tell: Receives progress.
    """

    def __init__(self, total: int, steps: int, tell: Callable[[Event], None]) -> None:
        """Nothing is done yet."""
        self.total, self.steps, self.tell = total, steps, tell
        self.done = self.first = 0
        self.begun = time.monotonic()

    def begin(self, done: int) -> None:
        """Say what is there already."""
        self.done = self.first = done
        self.begun = time.monotonic()
        self.tell(Event("augment", done, self.total, {}))

    def finished(self, done: int) -> None:
        """A run is finished."""
        self.done = done
        self.tell(Event("augment", done, self.total, self._left(done)))

    def within(self, title: str, step: int, loss: float) -> None:
        """A step of a run is done."""
        now = self.done + min(step / self.steps, 0.999)
        self.tell(Event("augment", now, self.total, {"run": title, "loss": loss, **self._left(now)}))

    def _left(self, now: float) -> dict[str, float | str]:
        if now <= self.first:
            return {}
        seconds = (time.monotonic() - self.begun) / (now - self.first) * (self.total - now)
        return {"minutes_left": round(seconds / 60, 1)}
