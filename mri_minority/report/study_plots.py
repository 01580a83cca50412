"""The plots of a study, as SVG that follows the page's colours: differences with intervals, and lines of arms."""

import html
from dataclasses import dataclass

import numpy as np

_LEFT, _WIDTH, _ROW, _TOP = 150, 440, 22, 10
_HEIGHT = 190


@dataclass(frozen=True)
class Interval:
    """A row of a forest plot.

    Args:
        label: What is compared.
        mean: The difference.
        low: Lower end of its interval.
        high: Upper end.
        sure: Whether it stays below 0.05 after correction.
    """

    label: str
    mean: float
    low: float
    high: float
    sure: bool


def forest(title: str, unit: str, rows: list[Interval]) -> str:
    """Differences with their intervals about a line at zero, which is always in the picture."""
    low, high = min(0.0, *(r.low for r in rows)), max(0.0, *(r.high for r in rows))
    pad = 0.08 * (high - low) or 1.0
    low, high = low - pad, high + pad

    def x(value: float) -> float:
        return _LEFT + (_WIDTH - _LEFT - 10) * (value - low) / (high - low)

    bottom = _TOP + _ROW * len(rows)
    marks = f'<line class="zero" x1="{x(0):.1f}" y1="{_TOP}" x2="{x(0):.1f}" y2="{bottom}"/>'
    for number, row in enumerate(rows):
        y = _TOP + _ROW * (number + 0.5)
        kind = "sure" if row.sure else "open"
        marks += (
            f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{html.escape(row.label)}</text>'
            f'<line class="whisker" x1="{x(row.low):.1f}" y1="{y}" x2="{x(row.high):.1f}" y2="{y}"/>'
            f'<circle class="{kind}" cx="{x(row.mean):.1f}" cy="{y}" r="4.5"/>'
        )
    for value in _ticks(low, high):
        marks += f'<text x="{x(value):.1f}" y="{bottom + 14}" text-anchor="middle">{_signed(value)}</text>'
    says = "; ".join(f"{r.label} {r.mean:+.3g} ({r.low:+.3g} to {r.high:+.3g})" for r in rows)
    return _figure(title, f"{title}: {says}", f"0 0 {_WIDTH} {bottom + 20}", marks, unit)


def lines(
    title: str, axis: str, at: list[str], curves: dict[str, list[float | None]], position: list[float] | None = None
) -> str:
    """One line per arm.

    Args:
        title: Below the picture.
        axis: What runs to the right.
        at: Names of the points along it.
        curves: Arm -> a value at each point, None where there is none.
        position: Where the points lie, 0 to 1; evenly without it.
    """
    place = position or list(np.linspace(0, 1, len(at)))
    known = [v for values in curves.values() for v in values if v is not None]
    if not known:
        return ""
    pad = max(0.05 * (max(known) - min(known)), 0.002)
    low, high = min(known) - pad, max(known) + pad
    left, right, bottom = 46, _WIDTH - 14, _HEIGHT - 36

    def x(share: float) -> float:
        return left + (right - left) * share

    def y(value: float) -> float:
        return bottom - (bottom - _TOP) * (value - low) / (high - low)

    marks = f'<line x1="{left}" y1="{bottom}" x2="{right}" y2="{bottom}"/>'
    for value in _ticks(low, high):
        marks += (
            f'<line class="grid" x1="{left}" y1="{y(value):.1f}" x2="{right}" y2="{y(value):.1f}"/>'
            f'<text x="{left - 5}" y="{y(value) + 4:.1f}" text-anchor="end">{value:.3g}</text>'
        )
    for share, name in zip(place, at, strict=True):
        marks += f'<text x="{x(share):.1f}" y="{bottom + 14}" text-anchor="middle">{html.escape(name)}</text>'
    marks += f'<text x="{(left + right) / 2}" y="{_HEIGHT - 6}" text-anchor="middle">{html.escape(axis)}</text>'
    for number, values in enumerate(curves.values()):
        points = [(x(share), y(v)) for share, v in zip(place, values, strict=True) if v is not None]
        path = " ".join(f"{'L' if n else 'M'}{px:.1f},{py:.1f}" for n, (px, py) in enumerate(points))
        marks += f'<path class="arm{number % 8}" d="{path}"/>'
        marks += "".join(f'<circle class="arm{number % 8}" cx="{a:.1f}" cy="{b:.1f}" r="2.5"/>' for a, b in points)
    legend = ", ".join(f'<span class="arm{n % 8}">{html.escape(name)}</span>' for n, name in enumerate(curves))
    says = "; ".join(f"{n}: {', '.join('none' if v is None else f'{v:.3g}' for v in c)}" for n, c in curves.items())
    return _figure(title, f"{title}: {says}", f"0 0 {_WIDTH} {_HEIGHT}", marks, legend)


def _figure(title: str, says: str, box: str, marks: str, below: str) -> str:
    return (
        f'<figure><svg viewBox="{box}" role="img" aria-label="{html.escape(says)}">{marks}</svg>'
        f"<figcaption><strong>{html.escape(title)}</strong><br>{below}</figcaption></figure>"
    )


def _signed(value: float) -> str:
    return f"{value:+.3g}" if value else "0"


def _ticks(low: float, high: float) -> list[float]:
    """Three to six round numbers inside the range."""
    rough = (high - low) / 4
    step = 10 ** np.floor(np.log10(rough))
    step *= min((m for m in (1, 2, 5, 10)), key=lambda m: abs(rough - m * step))
    return [round(float(k * step), 10) for k in range(int(np.ceil(low / step)), int(np.floor(high / step)) + 1)]
