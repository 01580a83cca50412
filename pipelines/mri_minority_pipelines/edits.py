"""From "ventricles:grow=1.5..3" to an edit: which structure, which kind, and what range its parameter comes from."""

import re
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from mri_minority.anatomy.edit import CannotReach, Edit, LabelMap
from mri_minority.anatomy.kinds import AREA, FACTOR, LENGTH, NOTHING, kinds
from mri_minority.core.errors import DataError, UsageError
from mri_minority.evaluate.attributes import measure, size_attribute

_END = re.compile(r"(?:(?P<times>\d+(?:\.\d+)?)\*)?p95|(?P<number>\d+(?:\.\d+)?)")


@dataclass(frozen=True)
class End:
    """One end of a range.

    Args:
        number: A number, or what the 95th percentile is multiplied with.
        quantile: Whether it means the real 95th percentile of the structure's size in the slice's stratum.
    """

    number: float
    quantile: bool


@dataclass(frozen=True)
class EditRequest:
    """What was asked for.

    Args:
        structure: Name of the class.
        kind: One of :func:`mri_minority.anatomy.kinds.kinds`.
        low: Least amount.
        high: Largest amount.
        text: As it was typed.
    """

    structure: str
    kind: str
    low: End
    high: End
    text: str

    @property
    def least_pixels(self) -> int:
        """How large the structure must be in a map."""
        return kinds()[self.kind].least_pixels

    def edit(
        self,
        label: LabelMap,
        value: int,
        stratum: int,
        card: dict[str, Any],
        pixel_mm: tuple[float, float],
        rng: np.random.Generator,
    ) -> Edit:
        """The edit of one slice: its amount drawn evenly from the range.

        Args:
            label: The map to edit (H, W).
            value: The structure's class.
            stratum: The slice's stratum.
            card: The model's card, for real percentiles.
            pixel_mm: Sides of a pixel.
            rng: Of this slice.

        Raises:
            DataError: A size is wanted of a structure that is not in the map or has no real percentile.
            UsageError: The amount does not suit the kind of edit.
        """
        low, high = (self._amount(end, label, stratum, card, pixel_mm) for end in (self.low, self.high))
        if self.low.quantile or self.high.quantile:
            low, high = _possible(kinds()[self.kind].factors, low, high)
        amount = float(rng.uniform(min(low, high), max(low, high)))
        unit = kinds()[self.kind].unit
        if unit == LENGTH:
            amount /= float(np.sqrt(pixel_mm[0] * pixel_mm[1]))
        elif unit == AREA:
            amount /= pixel_mm[0] * pixel_mm[1]
        return kinds()[self.kind].make(amount)

    def _amount(
        self, end: End, label: LabelMap, stratum: int, card: dict[str, Any], pixel_mm: tuple[float, float]
    ) -> float:
        if not end.quantile:
            return end.number
        attribute = size_attribute(self.structure, card["label_names"])
        limit = float(card["real_attributes"][attribute][stratum][1])
        now = float(measure(attribute, label[None], card["label_names"], pixel_mm[0] * pixel_mm[1])[0])
        if limit <= 0 or now == 0:
            name = card["strata"]["names"][stratum]
            raise DataError(
                f"expected {self.structure} in the slice and in 5 % or more of real slices at {name}, found none; "
                "choose other --heights or give factors"
            )
        return end.number * limit / now


def parse_edit(text: str, label_names: tuple[str, ...]) -> EditRequest:
    """Read `STRUCTURE:KIND=LOW..HIGH`, `STRUCTURE:KIND=AMOUNT` or `STRUCTURE:remove`.

    An end is a number (a factor; millimetres for shift and move; square millimetres for add), or for kinds with a
    factor `p95` or `2*p95`: the wanted share, in units of the real 95th percentile of the structure's share in that
    stratum.

    Raises:
        UsageError: It is none of these, the structure is none of the model's, or the kind does not exist.
    """
    match = re.fullmatch(r"([^:=]+):([a-z]+)(?:=(.+))?", text)
    if not match or match[2] not in kinds():
        raise UsageError(
            f"expected --edit STRUCTURE:KIND=LOW..HIGH with a kind among {', '.join(kinds())}, found {text!r}"
        )
    if match[1] not in label_names:
        raise UsageError(f"expected a structure among {', '.join(label_names)} in --edit, found {match[1]!r}")
    unit = kinds()[match[2]].unit
    if (match[3] is None) != (unit == NOTHING):
        raise UsageError(
            f"expected {'no' if unit == NOTHING else 'an'} amount for {match[2]} in --edit, found {text!r}"
        )
    ends = [_end(part, text, unit) for part in (match[3] or "0").split("..")]
    if len(ends) > 2:
        raise UsageError(f"expected one amount or LOW..HIGH in --edit, found {text!r}")
    return EditRequest(match[1], match[2], ends[0], ends[-1], text)


def _possible(factors: tuple[float, float], low: float, high: float) -> tuple[float, float]:
    """The part of a range of factors that suits the kind: a structure that is beyond it already needs no growing."""
    low, high = min(low, high), max(low, high)
    if high < factors[0] or low > factors[1]:
        raise CannotReach(f"the structure is beyond the wanted share already ({low:.3g} to {high:.3g} times)")
    return max(low, factors[0]), min(high, factors[1])


def described(edit: Edit) -> dict[str, Any]:
    """An edit with its parameters, for the trace; masks are not copied there: the slices they come from are named."""
    parameters: dict[str, Any] = asdict(edit)  # type: ignore[call-overload]
    return {
        "class": type(edit).__name__,
        **{name: value for name, value in parameters.items() if not isinstance(value, np.ndarray)},
    }


def _end(text: str, whole: str, unit: str) -> End:
    match = _END.fullmatch(text.strip())
    if not match or (match["number"] is None and unit != FACTOR):
        raise UsageError(f"expected a number, p95 or such as 2*p95 (for factors) in --edit {whole!r}, found {text!r}")
    if match["number"] is not None:
        return End(float(match["number"]), False)
    return End(float(match["times"] or 1), True)
