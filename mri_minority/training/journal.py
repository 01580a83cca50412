"""What a training run says about itself: one line of JSON per entry, and the same for TensorBoard."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tensorboardX import SummaryWriter

from mri_minority.volumes.atomic import write_text_atomic


class Journal:
    """Appends to FOLDER/NAME_log.jsonl and to TensorBoard event files in FOLDER/tensorboard/NAME.

    Args:
        folder: The model folder.
        name: What is trained.
        step: Where the run goes on; what an earlier run logged after its last checkpoint is taken back.
    """

    def __init__(self, folder: Path, name: str, step: int) -> None:
        """Open both logs."""
        self._file = folder / f"{name}_log.jsonl"
        if self._file.is_file():
            lines = self._file.read_text(encoding="utf-8").split("\n")[:-1]
            kept = [line for line in lines if json.loads(line)["step"] <= step]
            write_text_atomic(self._file, "".join(f"{line}\n" for line in kept))
        self._events = SummaryWriter(
            str(folder / "tensorboard" / name), purge_step=step + 1, filename_suffix=f".{step}"
        )

    def numbers(self, step: int, **values: Any) -> None:
        """Log numbers, or (nested) tables of numbers, at a step."""
        with self._file.open("a", encoding="utf-8") as log:
            log.write(json.dumps({"step": step, **values}) + "\n")
        for name, value in _flat(values):
            self._events.add_scalar(name, value, step)

    def picture(self, step: int, name: str, pixels: npt.NDArray[np.uint8]) -> None:
        """Show a picture (H, W, 3) at a step."""
        self._events.add_image(name, pixels, step, dataformats="HWC")
        self._events.flush()

    def close(self) -> None:
        """Flush and close."""
        self._events.close()


def _flat(values: dict[str, Any], prefix: str = "") -> list[tuple[str, float]]:
    """Numbers of nested tables under slash-separated names."""
    found = []
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict):
            found += _flat(value, f"{name}/")
        elif isinstance(value, list | tuple):
            found += _flat({str(number): v for number, v in enumerate(value)}, f"{name}/")
        elif isinstance(value, bool | int | float):
            found.append((name, float(value)))
    return found
