"""How the program speaks: a live bar on a terminal, plain lines otherwise, JSON for scripts, one line per error."""

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from mri_minority.core.errors import MriMinorityError
from mri_minority.training.stopping import asked_to_stop_is_interrupted

if TYPE_CHECKING:
    from mri_minority_pipelines.events import Event

_PLAIN_SECONDS = 20.0
INTERRUPTED = 130


class Speech:
    """Draws events and results.

    Args:
        as_json: The result goes to stdout as JSON.
    """

    def __init__(self, as_json: bool) -> None:
        """Prepare a console on stderr; the bar appears with the first event."""
        self.as_json = as_json
        self.console = Console(stderr=True, highlight=False)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f}% {task.fields[figures]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(elapsed_when_finished=True),
            console=self.console,
        )
        self._tasks: dict[str, TaskID] = {}
        self._said: dict[str, float] = {}

    def tell(self, event: "Event") -> None:
        """Show one event of a stage."""
        if event.stage == "note":
            self.console.print(str(event.values["text"]), markup=False)
            return
        figures = " ".join(f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in event.values.items())
        if self.console.is_terminal:
            if event.stage not in self._tasks:
                self._bar.start()
                self._tasks[event.stage] = self._bar.add_task(event.stage, total=event.total, figures="")
            self._bar.update(self._tasks[event.stage], completed=event.done, total=event.total, figures=figures)
            return
        now, finished = time.monotonic(), event.done >= event.total
        if finished or now - self._said.get(event.stage, -_PLAIN_SECONDS) >= _PLAIN_SECONDS:
            self._said[event.stage] = now
            share = event.done / event.total if event.total else 0.0
            self.console.print(f"{event.stage}: {share:4.0%} {figures}".rstrip(), markup=False)

    def close(self) -> None:
        """Put the bar away, if it was ever shown (stopping one that was not prints an empty line)."""
        if self._tasks:
            self._bar.stop()

    def result(self, value: dict[str, Any], sentences: list[str]) -> None:
        """Print what came out: JSON, or sentences for people."""
        self.close()
        if self.as_json:
            typer.echo(json.dumps(value, indent=2, default=str))
        else:
            for sentence in sentences:
                typer.echo(sentence)


@contextmanager
def speaking(as_json: bool, debug: bool) -> Iterator[Speech]:
    """Run a verb: errors made on purpose become one line and their exit code, being asked to stop one of its own."""
    speech = Speech(as_json)
    try:
        with asked_to_stop_is_interrupted():
            yield speech
    except MriMinorityError as error:
        speech.close()
        if debug:
            raise
        line = " ".join(str(error).split())
        typer.echo(f"error: {line}", err=True)
        raise typer.Exit(error.exit_code) from error
    except KeyboardInterrupt as interrupt:
        speech.close()
        typer.echo("interrupted: the same command goes on from here", err=True)
        raise typer.Exit(INTERRUPTED) from interrupt
    except OSError as error:
        speech.close()
        if debug:
            raise
        typer.echo(f"error: {error.strerror or error}: {error.filename or ''}".rstrip(": "), err=True)
        raise typer.Exit(3) from error
    finally:
        speech.close()


def dry_run(settings: dict[str, Any]) -> None:
    """Print resolved settings as JSON."""
    json.dump(settings, sys.stdout, indent=2, default=str)
    typer.echo()
