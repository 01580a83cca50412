"""Figures drawn as SVG, which follow the page's colours in light, dark and print."""

import html
from typing import Any

import numpy as np

_BARS = 24


_KINDS = {"real": "real", "unguided": "plain", "synthetic": "drawn"}
"""What is shown, and the class that gives it its colour and its line."""


def histogram(name: str, values: dict[str, list[float]]) -> str:
    """Outlines over the same bins, as shares: SVG that follows the page's colours.

    Args:
        name: The attribute.
        values: Of "real", "synthetic" and perhaps "unguided" slices.
    """
    every = [value for of in values.values() for value in of]
    low, high = min(every), max(every)
    edges = np.linspace(low, high if high > low else low + 1, _BARS + 1)
    shares = [np.histogram(of, edges)[0] / max(1, len(of)) for of in values.values()]
    top = max(float(share.max()) for share in shares) or 1.0
    paths = ""
    for kind, share in zip((_KINDS[what] for what in values), shares, strict=True):
        points = [f"{10 + 280 * i / _BARS:.1f},{110 - 95 * v / top:.1f}" for i, v in enumerate(np.append(share, 0))]
        steps = " ".join(f"L{p} h{280 / _BARS:.2f}" for p in points[:-1])
        paths += f'<path class="{kind}" d="M10,110 {steps} L290,110"/>'
    safe = html.escape(name)
    legend = ", ".join(f'<span class="{_KINDS[what]}">{what}</span>' for what in values)
    said = " and ".join(values)
    return (
        f'<figure><svg viewBox="0 0 300 130" role="img" aria-label="Histogram of {safe}, {said}">{paths}'
        f'<line x1="10" y1="110" x2="290" y2="110"/><text x="10" y="125">{low:.3g}</text>'
        f'<text x="290" y="125" text-anchor="end">{high:.3g}</text></svg><figcaption>{safe}: '
        f"{legend}</figcaption></figure>"
    )


def precision_by_rarity(found: dict[str, Any]) -> str:
    """Share of slices inside the real manifold, in bins of how far out an attribute lies: synthetic beside real ones.

    Args:
        found: As in metrics.json: `attribute`, `bins`, and `precision` and `slices` of every set.
    """
    bins, wide = found["bins"], 560 / len(found["bins"])
    marks = ""
    for place, (name, kind) in enumerate((("held-out real", "real"), ("synthetic", "drawn"))):
        for b, (value, count) in enumerate(zip(found["precision"][name], found["slices"][name], strict=True)):
            x, width = 35 + wide * b + wide * (0.12 + 0.39 * place), wide * 0.37
            if value is not None:
                marks += f'<rect class="{kind}" x="{x:.1f}" y="{20 + 140 * (1 - value):.1f}" width="{width:.1f}" '
                marks += f'height="{140 * value:.1f}"/>'
            said = "none" if value is None else f"{value:.0%}"
            y = 154 if value is None else 15 + 140 * (1 - value)
            marks += f'<text x="{x + width / 2:.1f}" y="{y:.1f}" text-anchor="middle">{said}</text>'
            marks += f'<text x="{x + width / 2:.1f}" y="174" text-anchor="middle" class="small">n {count}</text>'
    for b, name in enumerate(bins):
        marks += f'<text x="{35 + wide * (b + 0.5):.1f}" y="192" text-anchor="middle">{html.escape(name)}</text>'
    axis = "".join(
        f'<line x1="35" x2="595" y1="{160 - 140 * v}" y2="{160 - 140 * v}"/>'
        f'<text x="30" y="{164 - 140 * v}" text-anchor="end">{v:.0%}</text>'
        for v in (0.0, 0.5, 1.0)
    )
    safe = html.escape(found["attribute"])
    return (
        f'<figure class="bars"><div class="wide"><svg viewBox="0 0 600 200" role="img" aria-label="Precision against '
        f'rarity">{axis}{marks}</svg></div><figcaption>Precision, the share of slices among real ones in '
        f"{html.escape(found['features'])} features, by the percentile of {safe} among real slices of the stratum: "
        '<span class="real">held-out real</span>, <span class="drawn">synthetic</span></figcaption></figure>'
    )
