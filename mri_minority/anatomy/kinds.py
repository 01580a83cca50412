"""The kinds of edits there are: every module of this package that has `KINDS` is asked for them.

To add an edit, add a file with its class and its `KINDS`; nothing else has to know.
"""

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import mri_minority.anatomy
from mri_minority.anatomy.edit import Edit

FACTOR, LENGTH, AREA, NOTHING = "factor", "mm", "mm2", ""
"""Units of an edit's amount; lengths and areas reach the edit in pixels."""

DEFORMED = 20
"""Fewest pixels of a structure that can be deformed: a speck has no shape."""


@dataclass(frozen=True)
class Kind:
    """One word of `--edit`.

    Args:
        unit: Of its amount.
        make: Amount, in pixels or as a factor -> the edit.
        least_pixels: How large the structure must be in a map.
        factors: Least and largest factor that make sense; only for FACTOR.
    """

    unit: str
    make: Callable[[float], Edit]
    least_pixels: int
    factors: tuple[float, float] = (0.0, float("inf"))


@cache
def kinds() -> dict[str, Kind]:
    """Every kind, by name.

    Raises:
        ValueError: Two files have a kind of the same name.
    """
    found: dict[str, Kind] = {}
    for module in sorted(info.name for info in pkgutil.iter_modules(mri_minority.anatomy.__path__)):
        own = getattr(importlib.import_module(f"mri_minority.anatomy.{module}"), "KINDS", {})
        if found.keys() & own:
            raise ValueError(f"two files of anatomy have edits called {', '.join(found.keys() & own)}")
        found |= own
    return found
