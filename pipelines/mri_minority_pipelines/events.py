"""What every stage shares: progress as events, and folders that appear whole."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Event:
    """One step of progress, for the command line to draw or a script to log.

    Args:
        stage: Name of the stage; "note" for a sentence.
        done: Units done.
        total: Units in all; 0 when unknown.
        values: Figures of the moment (loss, rate), or {"text": sentence}.
    """

    stage: str
    done: float
    total: float
    values: dict[str, float | str]


def beside(out: Path, ending: str) -> Path:
    """A hidden place beside a folder that is to be made, `.NAME.ENDING`; beside what a link or `.` leads to."""
    place = out.resolve()
    return place.with_name(f".{place.name}.{ending}")


def publish_folder(building: Path, out: Path) -> None:
    """Move a finished folder into place; an empty `out` gives way."""
    out = out.resolve()
    if out.is_dir():
        out.rmdir()
    building.replace(out)
