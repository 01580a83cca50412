"""Strata: axial level x sequence x site. What is rare is asked inside them, never across."""

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Kind: TypeAlias = tuple[str, str]
"""Sequence and site of a slice; "" where the source does not say."""

UNKNOWN: Kind = ("", "")


@dataclass(frozen=True)
class Strata:
    """How slices are grouped before rarity is asked.

    Args:
        groups: Kinds of slices that are kept together; the group with most training slices comes first.
        edges: For every group the upper ends of its height bins, rising, in (0, 1]; a slice belongs to the first that
            reaches it.
        names: One name per stratum: group by group, in each the lowest first.
        merged: Sentences saying what was too thin and was merged.
    """

    groups: tuple[tuple[Kind, ...], ...]
    edges: tuple[tuple[float, ...], ...]
    names: tuple[str, ...]
    merged: tuple[str, ...]

    def of(self, height: npt.NDArray[np.float64], kinds: Sequence[Kind] | None = None) -> npt.NDArray[np.int64]:
        """Stratum of every slice (N,), by normalised height (N,) and kind; without kinds, in the first group.

        A kind that training did not see goes to the first group of its sequence, else to the first of all.
        """
        kinds = [UNKNOWN] * len(height) if kinds is None else kinds
        firsts = np.cumsum([0, *(len(edges) for edges in self.edges)])
        result = np.zeros(len(height), np.int64)
        for kind in set(kinds):
            group, here = self._group(kind), np.array([one == kind for one in kinds])
            edges = np.array(self.edges[group])
            found = np.searchsorted(edges, height[here], side="left")
            result[here] = firsts[group] + np.minimum(found, len(edges) - 1)
        return result

    def middles(self, lowest: float) -> npt.NDArray[np.float64]:
        """Middle height of every stratum; `lowest` is where the first bins begin."""
        bounds = [np.array([lowest, *edges]) for edges in self.edges]
        return np.concatenate([(b[:-1] + b[1:]) / 2 for b in bounds])

    def _group(self, kind: Kind) -> int:
        exact = [g for g, kinds in enumerate(self.groups) if kind in kinds]
        alike = [g for g, kinds in enumerate(self.groups) if kind[0] in {sequence for sequence, _ in kinds}]
        return [*exact, *alike, 0][0]

    def as_json(self) -> dict[str, Any]:
        """For `store.json` and a model's card."""
        return {
            "groups": [[list(kind) for kind in kinds] for kinds in self.groups],
            "edges": [list(edges) for edges in self.edges],
            "names": list(self.names),
            "merged": list(self.merged),
        }

    @classmethod
    def from_json(cls, said: dict[str, Any]) -> "Strata":
        """Read :meth:`as_json`; older files know one group, whose edges they list directly."""
        groups = tuple(tuple((s, t) for s, t in kinds) for kinds in said.get("groups", [[UNKNOWN]]))
        edges = said["edges"] if "groups" in said else [said["edges"]]
        return cls(groups, tuple(tuple(e) for e in edges), tuple(said["names"]), tuple(said.get("merged", ())))


def fit_strata(
    height: npt.NDArray[np.float64],
    span: tuple[float, float],
    bins: int,
    at_least: int,
    kinds: Sequence[Kind] | None = None,
) -> Strata:
    """Group slices by kind, and divide the height span of every group into equal bins; what is thin is merged.

    A kind with too few slices joins the largest group of its sequence, else the largest of all; a bin with too few
    joins its neighbour.

    Args:
        height: Normalised height within the brain of every training slice (N,), 0 lowest, 1 highest.
        span: Lowest and highest height that were selected.
        bins: Wanted number of bins.
        at_least: Slices that a stratum must have.
        kinds: Sequence and site of every slice (N,); None: all alike.

    Returns:
        The strata; one at least, however few slices there are.
    """
    kinds = [UNKNOWN] * len(height) if kinds is None else list(kinds)
    groups, merged = _groups(kinds, at_least)
    every_edge: list[tuple[float, ...]] = []
    names: list[str] = []
    for group in groups:
        where = _name(group, groups)
        here = height[np.array([kind in group for kind in kinds], dtype=bool)]
        edges, said = _bins(here, span, bins, at_least)
        merged += [f"{sentence}{where}" for sentence in said]
        every_edge.append(tuple(edges[1:]))
        names += [f"height {low:.2f}-{high:.2f}{where}" for low, high in itertools.pairwise(edges)]
    return Strata(tuple(groups), tuple(every_edge), tuple(names), tuple(merged))


def _groups(kinds: list[Kind], at_least: int) -> tuple[list[tuple[Kind, ...]], list[str]]:
    """Kinds that belong together, largest group first, and what was merged."""
    counts = Counter(kinds)
    order = sorted(counts, key=lambda kind: (-counts[kind], kind)) or [UNKNOWN]
    groups = {kind: [kind] for kind in order}
    merged = []
    for kind in reversed(order):
        others = [k for k in order if k in groups and k != kind]
        held = sum(counts[k] for k in groups[kind])
        if held >= at_least or not others:
            continue
        alike = [k for k in others if k[0] == kind[0]]
        home = [*alike, *others][0]
        merged.append(f"{_said(kind)} held {held} slices (under {at_least}): merged with {_said(home)}")
        groups[home] += groups.pop(kind)
    return sorted((tuple(g) for g in groups.values()), key=lambda g: (-sum(counts[k] for k in g), g)), merged


def _bins(
    height: npt.NDArray[np.float64], span: tuple[float, float], bins: int, at_least: int
) -> tuple[list[float], list[str]]:
    """Edges of the height bins of one group, and what was merged."""
    edges = [float(edge) for edge in np.linspace(span[0], span[1], bins + 1)]
    merged: list[str] = []
    while len(edges) > 2:
        counts = _counts(height, edges)
        thin = int(np.argmin(counts))
        if counts[thin] >= at_least:
            break
        upper = thin + 1 if thin == 0 or (thin < len(counts) - 1 and counts[thin + 1] < counts[thin - 1]) else thin
        merged.append(
            f"heights {edges[thin]:.2f} to {edges[thin + 1]:.2f} held {counts[thin]} slices (under {at_least}): merged"
        )
        del edges[upper]
    return edges, merged


def _counts(height: npt.NDArray[np.float64], edges: list[float]) -> list[int]:
    index = np.minimum(np.searchsorted(np.array(edges[1:]), height, side="left"), len(edges) - 2)
    return [int(n) for n in np.bincount(index, minlength=len(edges) - 1)]


def _said(kind: Kind) -> str:
    """A kind in words."""
    sequence, site = kind
    return " of ".join(part for part in (sequence, f"site {site}" if site else "") if part) or "slices of unknown kind"


def _name(group: tuple[Kind, ...], groups: list[tuple[Kind, ...]]) -> str:
    """What tells a group from the others, to follow the heights; nothing where there is but one."""
    if len(groups) < 2:
        return ""
    parts = []
    for at, words in ((0, ""), (1, "site ")):
        if len({kind[at] for other in groups for kind in other}) > 1:
            parts.append(words + "+".join(sorted({kind[at] or "unknown" for kind in group})))
    return ", " + ", ".join(parts)
