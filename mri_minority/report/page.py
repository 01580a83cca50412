"""report.html: one file that opens offline, in light and dark, on paper and on a telephone."""

import base64
import html
import io
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from mri_minority.export.dataset import is_of_nobody
from mri_minority.report.charts import histogram, precision_by_rarity
from mri_minority.report.document import write_document
from mri_minority.report.figures import tile
from mri_minority.report.scorecard import scorecard
from mri_minority.report.viewer import viewer

_SHOWN = 24
_LEAK = {
    "pass": "",
    "review": ": <strong>it knows some of them better than it should</strong>",
    "reject": ": <strong>it has learnt them by heart; do not hand it on, nor what it draws</strong>",
}


@dataclass(frozen=True)
class Page:
    """What the page is made of.

    Args:
        metrics: As in metrics.json.
        manifest: Of the data set.
        card: Its data card.
        image: float32 (N, I, H, W) in [-1, 1].
        label: uint8 (N, H, W), or None.
        suspicious: Positions of the most suspicious slices, worst first (K,).
        matches: The training slice nearest to each of them (K, H, W).
        values: Attribute -> values of "real", "synthetic" and perhaps "unguided" slices.
        with_viewer: Whether niivue is inlined, 1.1 MB of the page.
    """

    metrics: dict[str, Any]
    manifest: dict[str, Any]
    card: str
    image: npt.NDArray[np.float32]
    label: npt.NDArray[np.uint8] | None
    suspicious: npt.NDArray[np.int64]
    matches: npt.NDArray[np.float32]
    values: dict[str, dict[str, list[float]]]
    with_viewer: bool = True


def write_page(path: Path, page: Page) -> None:
    """Write the page."""
    parts = [
        ("made", "What was made, and how", _made(page)),
        ("scorecard", "In seven questions", _scorecard(page.metrics)),
        ("slices", "The slices, by level", _slices(page)),
        *([("viewer", "Slice by slice", _viewer(page))] if page.with_viewer else []),
        ("copies", "Copies", _copies(page)),
        ("anatomy", "Anatomy", _anatomy(page)),
        ("fidelity", "Close to real slices?", _fidelity(page.metrics)),
        ("card", "Data card", f"<pre>{html.escape(page.card)}</pre>"),
    ]
    write_document(
        path,
        "Report on synthetic brain MRI slices",
        f"{_lead(page.manifest)} The real slices shown beside the most suspicious ones <strong>are of people</strong>: "
        "treat this page like your volumes.",
        parts,
    )


def _lead(manifest: dict[str, Any]) -> str:
    """Of whom the slices are."""
    if manifest.get("derived"):
        return "<strong>The slices on this page are derived from people's scans</strong>; they are no synthetic data."
    if is_of_nobody(manifest["slices"]):
        return "Every synthetic slice on this page was generated; none is of a person."
    return "Every image of a synthetic slice was generated; label maps were given, and may be people's."


def _made(page: Page) -> str:
    manifest = page.manifest
    said = [
        ("Slices", page.metrics["slices"]),
        ("Method", manifest.get("method")),
        ("Rarity", manifest.get("rarity")),
        ("Class wanted", manifest.get("wanted")),
        ("Levels", manifest.get("levels")),
        ("Seed", manifest.get("seed")),
        ("Labels", ", ".join(manifest.get("label_names", []))),
        ("Written by version", manifest.get("version")),
        ("Model", str(manifest.get("model_sha256") or "")[:16]),
    ]
    rows = "".join(f'<tr><th scope="row">{k}</th><td>{html.escape(str(v))}</td></tr>' for k, v in said if v)
    return f"<table>{rows}</table>"


def _scorecard(metrics: dict[str, Any]) -> str:
    rows = "".join(
        f'<dt>{name} <span class="asks">{html.escape(asks)}</span></dt><dd>{html.escape(answer)}</dd>'
        for name, asks, answer in scorecard(metrics)
    )
    return f"<dl>{rows}</dl>"


def _slices(page: Page) -> str:
    """First slices, plain and outlined, grouped by the levels they were drawn at."""
    groups: dict[str, list[int]] = {}
    for n, row in enumerate(page.manifest["slices"]):
        levels = row.get("trace", {}).get("levels") or page.manifest.get("levels")
        said = "no wanted level"
        if levels:
            said = f"levels {levels[0]} to {levels[-1]}" if len(levels) > 1 else f"level {levels[0]}"
        groups.setdefault(f"{said}, {page.manifest.get('method', 'unknown method')}", []).append(n)
    text = ""
    for title, members in sorted(groups.items(), key=lambda group: _first_level(group[0])):
        text += f"<h3>{html.escape(title)} ({len(members)} slices)</h3><div class='sheet'>"
        for n in members[:_SHOWN]:
            name = str(page.manifest["slices"][n]["name"])
            text += f"<figure>{_picture(page.image[n], None, name)}"
            if page.label is not None:
                text += _picture(page.image[n], page.label[n], f"{name}, labels outlined")
            text += f"<figcaption>{html.escape(name)}</figcaption></figure>"
        text += "</div>"
    return text


def _first_level(title: str) -> int:
    found = re.match(r"levels? (\d+)", title)
    return int(found[1]) if found else -1


def _viewer(page: Page) -> str:
    names = [str(row["name"]) for row in page.manifest["slices"]]
    first = _picture(page.image[0], None, f"{names[0]}, until the viewer is open")
    channels = range(page.image.shape[1])
    beside = np.concatenate([page.image[:, c] for c in channels], axis=1)
    label = None if page.label is None else np.concatenate([page.label for _ in channels], axis=1)
    return viewer(beside, label, names, first, page.manifest.get("label_names", []))


def _copies(page: Page) -> str:
    audit = page.metrics["audit"]
    alarm = [value for value in audit["false_alarm"] if value is not None]
    said = f"at most {max(alarm):.1%} of held-out real slices would be rejected in any bin of rarity" if alarm else ""
    member = audit["membership"]
    leak = (
        f" Its denoising error tells training slices from held-out ones with an AUC of {member['auc']:.2f} "
        f"({member['low']:.2f} to {member['high']:.2f}; 0.5 is no leak){_LEAK[audit['model']]}."
        if member
        else ""
    )
    text = (
        f"<p><strong>{audit['pass']} passed, {audit['review']} to review, {audit['reject']} rejected.</strong> "
        f"Thresholds come from {audit['held_out_subjects']} subjects the model never saw; {said}. "
        f"{len(audit['duplicates'])} pairs within the set are duplicates.{leak} "
        "Passing is evidence, not anonymity.</p><h3>Most suspicious first, beside the nearest training slice</h3>"
        "<div class='sheet'>"
    )
    for place, n in enumerate(page.suspicious):
        name = str(page.manifest["slices"][n]["name"])
        verdict = audit["verdicts"][name]
        text += (
            f"<figure class='{verdict['verdict']}'>{_picture(page.image[n], None, name)}"
            f"{_picture(page.matches[place], None, f'real slice nearest to {name}')}<figcaption>{html.escape(name)}: "
            f"<strong>{verdict['verdict']}</strong>, suspicion {verdict['suspicion']:.2f}; right: real"
            "</figcaption></figure>"
        )
    return text + "</div>"


def _anatomy(page: Page) -> str:
    if not page.metrics["attributes"]:
        return "<p>The set has no label maps, so its anatomy was not measured.</p>"
    rarity = page.metrics.get("precision_by_rarity")
    bars = precision_by_rarity(rarity) if rarity else ""
    rows = "".join(
        f'<tr><th scope="row">{name}</th><td>{v["mean_real"]:.4g}</td><td>{v["mean_synthetic"]:.4g}</td>'
        f"<td>{v['beyond_real_p95']:.0%}{_percents(v['interval_95'].get('beyond_real_p95'))}</td></tr>"
        for name, v in page.metrics["attributes"].items()
    )
    figures = "".join(histogram(name, values) for name, values in page.values.items())
    table = (
        "<div class='wide'><table><thead><tr><th>attribute</th><th>real</th><th>synthetic</th>"
        f"<th>beyond the real 95th percentile (5 % of real)</th></tr></thead><tbody>{rows}</tbody></table></div>"
    )
    return f"{_agreement(page.metrics)}{bars}<div class='charts'>{figures}</div>{table}"


def _agreement(metrics: dict[str, Any]) -> str:
    agreement = metrics["agreement"]
    if not agreement:
        return "<p>No segmenter was at hand, so image and label map were not compared independently.</p>"
    said = ", ".join(
        f"{name} {_number(v['synthetic'])} (held-out real {_number(v['held-out real'])})"
        for name, v in agreement["dice"].items()
    )
    verdict = (
        f"{len(agreement['below_gate'])} slices lie below the gate of {agreement['gate']}."
        if agreement["judged_by"]
        else "It finds no label well enough in held-out real slices to judge by it, so no slice was judged."
    )
    return (
        f"<p>A segmenter of real slices reads the images and agrees with the label maps, Dice: {html.escape(said)}. "
        f"{verdict}</p>"
    )


def _fidelity(metrics: dict[str, Any]) -> str:
    columns = ("n", "kid", "fid", "precision", "recall", "density", "coverage", "avg_knn", "lof", "rarity_undefined")
    head = "".join(f"<th>{name}</th>" for name in ("features", "slices", *columns))
    rows = ""
    for space, sets in metrics["fidelity"].items():
        for which, figures in sets.items():
            cells = "".join(f"<td>{_number(figures[c])}{_between(figures['interval_95'].get(c))}</td>" for c in columns)
            rows += f"<tr><th scope='row'>{space}</th><td>{which}</td>{cells}</tr>"
    both = metrics["diversity_ms_ssim"]
    return (
        f"<p>Against {metrics['real_slices']} training slices of the same strata. The row of held-out real slices says "
        "what a perfect generator would get; FID falls with the number of slices, so compare only equal n. In small "
        "print 95 % intervals over subjects and slices.</p>"
        f"<div class='wide'><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>"
        f"<p>Similarity of random pairs (lower is more diverse): synthetic {_mean(both['synthetic'])}, "
        f"real {_mean(both['real'])}.</p>"
    )


def _mean(figure: dict[str, Any]) -> str:
    return f"{figure['mean']:.2f}{_between(figure['interval_95'].get('mean'))}"


def _between(interval: list[float] | None) -> str:
    return "" if interval is None else f" <small>{_number(interval[0])} to {_number(interval[1])}</small>"


def _percents(interval: list[float] | None) -> str:
    return "" if interval is None else f" <small>{interval[0]:.0%} to {interval[1]:.0%}</small>"


def _number(value: float | int | None) -> str:
    return "none" if value is None else f"{value:.3g}"


def _picture(image: npt.NDArray[np.float32], label: npt.NDArray[np.uint8] | None, says: str) -> str:
    data = io.BytesIO()
    Image.fromarray(tile(image, label)).save(data, format="PNG")
    text = base64.b64encode(data.getvalue()).decode("ascii")
    return f'<img alt="{html.escape(says)}" src="data:image/png;base64,{text}">'
