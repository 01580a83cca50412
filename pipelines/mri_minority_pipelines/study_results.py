"""From tested runs to tables: means of arms, paired differences with intervals, Dice along rarity."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from mri_minority.evaluate.groups import means_over_patients, quantile_groups
from mri_minority.evaluate.paired import holm, paired_bootstrap
from mri_minority.slices.store import SliceStore
from mri_minority_pipelines.config import StudyConfig
from mri_minority_pipelines.study import OVERSAMPLED, REAL, THEN_REAL

GROUPS = 10
ALL, RAREST, LARGEST = "all slices", "rarest tenth", "largest tenth"
"""Held-out slices that are judged together; the last two inside strata, by rarity and by the attribute."""

CONTROL = "ancestral"
"""Ordinary synthetic slices: what guided ones must be better than."""


@dataclass(frozen=True)
class RunValues:
    """One run's results.

    Args:
        of: Training set.
        arm: Name of the arm.
        ratio: Extra slices per real one.
        seed: Of the run.
        values: Metric -> (N, classes), NaN where undefined.
    """

    of: str
    arm: str
    ratio: float
    seed: int
    values: dict[str, torch.Tensor]


def results_of(
    tested: list[RunValues],
    config: StudyConfig,
    store: SliceStore,
    rarity: npt.NDArray[np.float64],
    attribute: npt.NDArray[np.float64],
) -> dict[str, Any]:
    """Everything that the report shows.

    A value is the mean over a patient's slices of a group; patients count alike, whoever has how many slices.

    Args:
        tested: All runs.
        config: Of the study.
        store: Whose held-out slices were tested.
        rarity: Of all slices in it (N,).
        attribute: The same, of the attribute.

    Returns:
        `means`: per training set, arm, ratio, class, metric and group the mean and the spread between seeds.
        `differences`: paired, see :func:`mri_minority.evaluate.paired.paired_bootstrap`, with `p_holm` over all that
        were asked of one training set, reference and group. `along`: mean Dice by tenth of rarity, of the attribute,
        and by stratum, of all slices and of the rarest tenth in it.
    """
    held = store.indices("holdout")
    strata = store.strata()[held]
    patients = np.unique([store.rows[i].subject for i in held], return_inverse=True)[1].astype(np.int64)
    tenth = {
        "rarity": quantile_groups(rarity[held], strata, GROUPS),
        "attribute": quantile_groups(attribute[held], strata, GROUPS),
    }
    chosen = {
        ALL: np.ones(len(held), dtype=bool),
        RAREST: tenth["rarity"] == GROUPS - 1,
        LARGEST: tenth["attribute"] == GROUPS - 1,
    }
    if np.array_equal(chosen[RAREST], chosen[LARGEST]):  # rarity is the attribute itself: asked once
        del chosen[LARGEST]
    every = len(store.strata_names)
    lines = {name: (groups, GROUPS) for name, groups in tenth.items()}
    lines["stratum"] = (strata, every)
    lines["stratum, rarest tenth"] = (np.where(chosen[RAREST], strata, -1), every)
    names = store.label_names
    table: _Table = {}
    for key in dict.fromkeys((t.of, t.arm, t.ratio) for t in tested):
        runs = sorted((t for t in tested if (t.of, t.arm, t.ratio) == key), key=lambda t: t.seed)
        for metric in runs[0].values:
            stack = np.stack([r.values[metric].double().numpy() for r in runs])  # (S, N, classes)
            for c, name in enumerate(names):
                for group, members in chosen.items():
                    rows = [means_over_patients(one[:, c], patients, members) for one in stack]
                    table[(*key, name, metric, group)] = np.stack(rows)
    return {
        "means": [_mean_row(key, values) for key, values in table.items()],
        "differences": _differences(table, config),
        "along": _along(tested, names, patients, lines),
        "strata": list(store.strata_names),
    }


_Key = tuple[str, str, float, str, str, str]
"""Training set, arm, ratio, class, metric, group."""
_Table = dict[_Key, npt.NDArray[np.float64]]
"""Runs x patients."""


def _mean_row(key: _Key, values: npt.NDArray[np.float64]) -> dict[str, Any]:
    of_seeds = [_mean(row) for row in values]
    known = [v for v in of_seeds if v is not None]
    return {
        **_named(key),
        "mean": _rounded(float(np.mean(known))) if known else None,
        "seeds": [None if v is None else _rounded(v) for v in of_seeds],
        "patients": int((~np.isnan(values)).all(axis=0).sum()),
    }


def _differences(table: _Table, config: StudyConfig) -> list[dict[str, Any]]:
    rows = []
    for against_set, against, of, arm in _questions(table):
        family = []
        for key, values in table.items():
            if (key[0], key[1]) != (of, arm):
                continue
            other = _counterpart(table, key, against_set, against)
            if other is None:
                continue
            found = paired_bootstrap(values, other, config.subset_seed, config.draws)
            numbers = {"difference": found.mean, "low": found.low, "high": found.high, "p": found.p}
            said = {k: None if np.isnan(v) else _rounded(v) for k, v in numbers.items()}
            family.append({**_named(key), "against_set": against_set, "against": against, **said})
            family[-1]["patients"] = found.patients
        rows += family
    _correct(rows)
    return rows


def _questions(table: _Table) -> list[tuple[str, str, str, str]]:
    """Which arm is held against which: everything against `real`, the guided ones against the control (where they end
    on real slices, against the control that does), and `real` with rare subjects against as many ordinary ones.
    """
    arms = list(dict.fromkeys((key[0], key[1]) for key in table))
    asked = [(of, REAL, of, arm) for of, arm in arms if arm != REAL]
    asked += [
        (of, control, of, arm)
        for of, arm in arms
        for control in [CONTROL + THEN_REAL if arm.endswith(THEN_REAL) else CONTROL]
        if arm not in (REAL, OVERSAMPLED, control) and (of, control) in arms
    ]
    sets = {of for of, _ in arms}
    asked += [(f"ordinary:{of}", REAL, of, REAL) for of in sorted(sets) if f"ordinary:{of}" in sets]
    return asked


def _counterpart(table: _Table, key: _Key, of: str, arm: str) -> npt.NDArray[np.float64] | None:
    ratio = 0.0 if arm == REAL else key[2]
    return table.get((of, arm, ratio, *key[3:]))


def _correct(rows: list[dict[str, Any]]) -> None:
    """Holm's correction over all arms, ratios, classes and metrics of one training set, reference and group."""
    families: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for row in rows:
        families.setdefault((row["set"], row["against_set"], row["against"], row["group"]), []).append(row)
    for family in families.values():
        p = np.array([np.nan if row["p"] is None else row["p"] for row in family])
        for row, adjusted in zip(family, holm(p), strict=True):
            row["p_holm"] = None if np.isnan(adjusted) else _rounded(float(adjusted))


def _along(
    tested: list[RunValues],
    names: tuple[str, ...],
    patients: npt.NDArray[np.int64],
    lines: dict[str, tuple[npt.NDArray[np.int64], int]],
) -> list[dict[str, Any]]:
    """Mean Dice over patients and seeds in each group; by what -> group of every slice (-1: in none), and how many."""
    rows = []
    for of, arm, ratio in dict.fromkeys((t.of, t.arm, t.ratio) for t in tested):
        runs = [t.values["dice"].double().numpy() for t in tested if (t.of, t.arm, t.ratio) == (of, arm, ratio)]
        for c, name in enumerate(names):
            for by, (groups, count) in lines.items():
                dice: list[float | None] = []
                for g in range(count):
                    each = [_mean(means_over_patients(run[:, c], patients, groups == g)) for run in runs]
                    known = [v for v in each if v is not None]
                    dice.append(_rounded(float(np.mean(known))) if known else None)
                rows.append({"set": of, "arm": arm, "ratio": ratio, "class": name, "by": by, "dice": dice})
    return rows


def _named(key: _Key) -> dict[str, Any]:
    return dict(zip(("set", "arm", "ratio", "class", "metric", "group"), key, strict=True))


def _mean(values: npt.NDArray[np.float64]) -> float | None:
    return None if np.isnan(values).all() else float(np.nanmean(values))


def _rounded(value: float) -> float:
    return float(f"{value:.5g}")
