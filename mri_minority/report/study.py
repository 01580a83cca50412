"""report.html of a study: does it help a segmenter?"""

import html
from pathlib import Path
from typing import Any

from mri_minority.report.document import write_document
from mri_minority.report.study_plots import Interval, forest, lines

_UNITS = {
    "dice": "Dice; right of zero is better",
    "hd95_mm": "95th-percentile surface distance, mm; left of zero is better",
}
_SHOWN = ("dice", "hd95_mm")

Row = dict[str, Any]


def write_study(path: Path, results: Row) -> None:
    """Write the page.

    Args:
        path: Where.
        results: As in results.json.
    """
    parts = [
        ("compared", "What was compared", _compared(results)),
        ("differences", "Paired differences", _forests(results, against=("real",))),
        ("control", "Against ordinary synthetic slices", _forests(results, against=("ancestral",))),
        ("cost", "What rare anatomy costs", _cost(results)),
        ("along", "Dice from common to rare", _along(results)),
        ("curve", "Number of labelled subjects", _curve(results)),
        ("numbers", "Every number", _numbers(results)),
    ]
    write_document(
        path,
        "Does it help a segmenter?",
        f"Tested on {results['test']['slices']} slices of {results['test']['subjects']} real subjects that neither the "
        "segmenters nor, as far as could be checked, the generators learnt from. Every arm had the same number of "
        f"gradient steps ({results['config']['steps']}).",
        [part for part in parts if part[2]],
    )


def label_of(row: Row) -> str:
    """Name of an arm, with its ratio where it has one."""
    return f"{row['arm']} x{row['ratio']:g}" if row["ratio"] else str(row["arm"])


def _compared(results: Row) -> str:
    knows = {None: "real slices only", True: "yes", False: "not checked: the model was not at hand"}
    rows = "".join(
        f'<tr><th scope="row">{html.escape(arm["name"])}</th><td>{html.escape(arm["set"])}</td>'
        f"<td>{results['sets'][arm['set']]['subjects']}</td><td>{results['sets'][arm['set']]['slices']}</td>"
        f"<td>{knows[arm['generator_knows_only_this_set']]}</td></tr>"
        for arm in results["arms"]
    )
    config = results["config"]
    said = (
        f"Network {config['network']}, batches of {config['batch']}, seeds {', '.join(map(str, config['seeds']))}, "
        f"extra slices per real slice {', '.join(f'{r:g}' for r in config['ratios'])}"
        f"{', each in place of one of its own height' if config['matched'] else ''}. Rare: {results['rarity']}; "
        f"attribute: {results['attribute']}."
    )
    return (
        f"<p>{html.escape(said)}</p><div class='wide'><table><thead><tr><th>arm</th><th>training set</th>"
        "<th>subjects</th><th>slices</th><th>generator saw only these subjects</th></tr></thead>"
        f"<tbody>{rows}</tbody></table></div>"
    )


def _forests(results: Row, against: tuple[str, ...]) -> str:
    """A forest plot per training set, group, metric and class."""
    found = [r for r in results["differences"] if r["against"] in against and r["against_set"] == r["set"]]
    text = ""
    for of, group in dict.fromkeys((r["set"], r["group"]) for r in found):
        here = [r for r in found if (r["set"], r["group"]) == (of, group)]
        plots = ""
        for metric in _SHOWN:
            for name in results["label_names"]:
                rows = [r for r in here if (r["metric"], r["class"]) == (metric, name) and r["difference"] is not None]
                if rows:
                    plots += forest(f"{name}, {group}", _UNITS[metric], [_interval(r) for r in rows])
        if plots:
            text += (
                f"<h3>{html.escape(group)}; training set: {html.escape(of)}</h3><div class='charts study'>{plots}</div>"
            )
    groups = {key: html.escape(results[key]) for key in ("rarity", "attribute")}
    return _HOW.format(against=html.escape(against[0]), **groups) + text if text else ""


_HOW = (
    "<p>Each arm minus <em>{against}</em>, patient by patient. Bars: 95 % bootstrap interval over patients and "
    "training runs, not corrected. Filled: still below 0.05 after Holm's correction over the arms, ratios, "
    "classes and metrics of the same training set and group. Rarest tenth: of the test slices by {rarity}; "
    "largest tenth: by {attribute}; both inside strata. The bootstrap knows only the training runs that there "
    "are: with one it says nothing about another run, and with two or three its intervals are too narrow; so "
    "they are with fewer than some eight patients.</p>"
)


def _interval(row: Row) -> Interval:
    return Interval(label_of(row), row["difference"], row["low"], row["high"], row["p_holm"] < 0.05)


def _cost(results: Row) -> str:
    """Real slices with rare subjects against as many ordinary ones; and how much of the gap each arm closes."""
    found = [r for r in results["differences"] if r["against_set"] != r["set"] and r["metric"] in _SHOWN]
    if not found:
        return ""
    plots = ""
    for metric in _SHOWN:
        for group in dict.fromkeys(r["group"] for r in found):
            rows = [r for r in found if (r["metric"], r["group"]) == (metric, group) and r["difference"] is not None]
            marks = [Interval(f"{r['class']}", r["difference"], r["low"], r["high"], r["p_holm"] < 0.05) for r in rows]
            if marks:
                plots += forest(f"{group}", _UNITS[metric], marks)
    return (
        "<p>Real slices of as many subjects, rare ones among them, minus real slices of ordinary subjects only. What "
        f"synthetic slices should make up for.</p><div class='charts study'>{plots}</div>"
    )


def _along(results: Row) -> str:
    axis = {
        "rarity": f"tenth of {results['rarity']} inside the stratum, 10 is rarest",
        "attribute": f"tenth of {results['attribute']} inside the stratum, 10 is largest",
        "stratum": f"stratum, from {results['strata'][0]} to {results['strata'][-1]}",
        "stratum, rarest tenth": "stratum; only its rarest tenth",
    }
    # Where rarity is the attribute itself, the second picture would be the first one again.
    same = results["rarity"] == f"attribute:{results['attribute']}"
    shown = [by for by in axis if not (same and by == "rarity")]
    plots = ""
    for of in results["sets"]:
        for by in shown:
            for name in results["label_names"]:
                rows = [r for r in results["along"] if (r["set"], r["by"], r["class"]) == (of, by, name)]
                for ratio in _ratios(rows):
                    curves = {label_of(r): r["dice"] for r in rows if r["ratio"] in (0, ratio)}
                    points = [str(n) for n in range(1, len(rows[0]["dice"]) + 1)]
                    plots += lines(f"{name}; training set: {of}", axis[by], points, curves)
    return f"<p>Mean over patients and seeds.</p><div class='charts study'>{plots}</div>"


def _curve(results: Row) -> str:
    """Dice against the number of subjects, for training sets drawn from all subjects."""
    plain = {name: s["subjects"] for name, s in results["sets"].items() if not name.startswith("ordinary")}
    order = sorted(plain, key=lambda name: plain[name])
    if len(order) < 2:
        return ""
    means = [r for r in results["means"] if r["metric"] == "dice" and r["set"] in plain]
    plots = ""
    for group in dict.fromkeys(r["group"] for r in means):
        for name in results["label_names"]:
            rows = [r for r in means if (r["group"], r["class"]) == (group, name)]
            for ratio in _ratios(rows):
                curves = {
                    label: [
                        next((r["mean"] for r in rows if (r["set"], label_of(r)) == (s, label)), None) for s in order
                    ]
                    for label in dict.fromkeys(label_of(r) for r in rows if r["ratio"] in (0, ratio))
                }
                plots += lines(f"{name}, {group}", "labelled subjects", [str(plain[s]) for s in order], curves)
    return f"<div class='charts study'>{plots}</div>"


def _ratios(rows: list[Row]) -> list[float]:
    """Ratios of the arms that have one, a picture each; 0 alone where only real slices were compared."""
    return sorted({r["ratio"] for r in rows if r["ratio"]}) or [0.0]


def _numbers(results: Row) -> str:
    means = "".join(
        f"<tr><th scope='row'>{html.escape(label_of(r))}</th><td>{html.escape(r['set'])}</td><td>{r['class']}</td>"
        f"<td>{r['group']}</td><td>{r['metric']}</td><td>{_number(r['mean'])}</td>"
        f"<td>{', '.join(_number(v) for v in r['seeds'])}</td><td>{r['patients']}</td></tr>"
        for r in results["means"]
    )
    differences = "".join(
        f"<tr><th scope='row'>{html.escape(label_of(r))}</th><td>{html.escape(r['set'])}</td>"
        f"<td>{html.escape(r['against'])} ({html.escape(r['against_set'])})</td><td>{r['class']}</td>"
        f"<td>{r['group']}</td>"
        f"<td>{r['metric']}</td><td>{_number(r['difference'])}</td><td>{_number(r['low'])} to {_number(r['high'])}</td>"
        f"<td>{_number(r['p'])}</td><td>{_number(r['p_holm'])}</td><td>{r['patients']}</td></tr>"
        for r in results["differences"]
    )
    return (
        "<details><summary>Means of every arm</summary><div class='wide'><table><thead><tr><th>arm</th><th>set</th>"
        "<th>class</th><th>slices</th><th>metric</th><th>mean</th><th>by seed</th><th>patients</th></tr></thead>"
        f"<tbody>{means}</tbody></table></div></details>"
        "<details><summary>Every paired difference</summary><div class='wide'><table><thead><tr><th>arm</th>"
        "<th>set</th><th>minus</th><th>class</th><th>slices</th><th>metric</th><th>difference</th><th>95 %</th>"
        f"<th>p</th><th>p, Holm</th><th>patients</th></tr></thead><tbody>{differences}</tbody></table></div></details>"
    )


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.4g}"
