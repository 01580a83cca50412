"""pass, review or reject: thresholds from held-out real slices, rarity bin by rarity bin."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

Verdict = Literal["pass", "review", "reject"]
LEAK_REVIEW, LEAK_REJECT = 0.6, 0.75
_SMALLEST_BIN = 40
_MOST_BINS = 5

Numbers = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Thresholds:
    """What is suspicious in each bin of rarity; a slice's bin is that of the training slice it is nearest to.

    Args:
        edges: Inner edges of the bins (B - 1,).
        review: Suspicion from which a person should look (B,): held-out real slices reach it in 1 case of 20.
        reject: Suspicion from which a slice is taken for a copy (B,).
        held_out: Held-out slices in each bin (B,).
        false_alarm: Share of held-out real slices that are rejected, measured on subjects that did not set the
            threshold (B,).
        caught: Share of disguised training slices that are rejected (B,).
    """

    edges: tuple[float, ...]
    review: tuple[float, ...]
    reject: tuple[float, ...]
    held_out: tuple[int, ...]
    false_alarm: tuple[float, ...]
    caught: tuple[float, ...]

    def of(self, suspicion: Numbers, rarity: Numbers) -> list[Verdict]:
        """The verdict on every slice."""
        bins = np.searchsorted(np.array(self.edges), rarity, side="right")
        words: list[Verdict] = []
        for value, b in zip(suspicion, bins, strict=True):
            words.append("reject" if value >= self.reject[b] else "review" if value >= self.review[b] else "pass")
        return words


def calibrate(
    held: Numbers, held_rarity: Numbers, held_subject: npt.NDArray[np.int64], planted: Numbers, planted_rarity: Numbers
) -> Thresholds:
    """Set the thresholds.

    In each bin the limit is the 99th percentile of held-out real slices; where disguised copies lie clear of it, half
    way to their 1st percentile, which lowers the false alarms and loses no copy.

    Args:
        held: Suspicion of held-out real slices (N,).
        held_rarity: Rarity of the training slices they are nearest to (N,).
        held_subject: Their subjects (N,): the false alarms are measured on every other subject.
        planted: Suspicion of disguised training slices (M,).
        planted_rarity: Their rarity (M,).

    Raises:
        ValueError: Fewer than two held-out slices or no planted copy.
    """
    if len(held) < 2 or len(planted) < 1:
        raise ValueError(f"expected two or more held-out slices and a planted copy, got {len(held)} and {len(planted)}")
    bins = int(np.clip(len(held) // _SMALLEST_BIN, 1, _MOST_BINS))
    edges = np.unique(np.quantile(held_rarity, np.arange(1, bins) / bins)) if bins > 1 else np.zeros(0)
    edges = edges[(edges > held_rarity.min()) & (edges <= held_rarity.max())]
    of_held = np.searchsorted(edges, held_rarity, side="right")
    of_planted = np.searchsorted(edges, planted_rarity, side="right")
    _, order = np.unique(held_subject, return_inverse=True)
    rows = []
    for b in range(len(edges) + 1):
        real = held[of_held == b]
        copies = planted[of_planted == b] if (of_planted == b).any() else planted
        limit = _limit(real, copies)
        alarms = []
        for half in (0, 1):
            sets, tests = held[(of_held == b) & (order % 2 == half)], held[(of_held == b) & (order % 2 != half)]
            if len(sets) and len(tests):
                alarms.append(tests >= _limit(sets, copies))
        alarm = float(np.concatenate(alarms).mean()) if alarms else float("nan")
        review = min(float(np.quantile(real, 0.95)), limit)
        rows.append((review, limit, len(real), alarm, float((copies >= limit).mean())))
    review_, reject, count, alarm_, caught = zip(*rows, strict=True)
    return Thresholds(tuple(edges.tolist()), review_, reject, count, alarm_, caught)


def _limit(real: Numbers, copies: Numbers) -> float:
    highest, lowest = float(np.quantile(real, 0.99)), float(np.quantile(copies, 0.01))
    return max(highest, (highest + lowest) / 2)


def membership_auc(
    train: Numbers, train_subject: npt.NDArray[np.int64], held: Numbers, held_subject: npt.NDArray[np.int64], seed: int
) -> dict[str, float]:
    """How well a model's own error tells training slices from held-out ones: AUC with a 95 % interval.

    0.5 is no leak. The interval is a bootstrap over subjects.

    Args:
        train: Denoising error of training slices (N,).
        train_subject: Their subjects (N,).
        held: The same of held-out slices (M,).
        held_subject: Their subjects (M,).
        seed: Of the bootstrap.

    Reference: Carlini et al. 2023, section 5 (loss-threshold attack); the AUC is Mann-Whitney's.
    """
    rng = np.random.default_rng(seed)
    draws = [auc(_resampled(train, train_subject, rng), _resampled(held, held_subject, rng)) for _ in range(200)]
    low, high = np.quantile(draws, [0.025, 0.975])
    return {"auc": round(auc(train, held), 4), "low": round(float(low), 4), "high": round(float(high), 4)}


def leak(membership: dict[str, float] | None) -> Verdict | None:
    """The verdict on a model, from the lower end of its membership AUC's interval; None where it was not measured.

    A model that is surely above 0.75 tells three of four training slices from strangers' and has learnt them by heart;
    from 0.6 on a person should look. Ordinary training ends at 0.5 to 0.6.
    """
    if membership is None:
        return None
    low = membership["low"]
    return "reject" if low >= LEAK_REJECT else "review" if low >= LEAK_REVIEW else "pass"


def auc(smaller: Numbers, larger: Numbers) -> float:
    """Probability that a number of the first set is below one of the second; ties count half."""
    order = np.sort(larger)
    above = len(order) - np.searchsorted(order, smaller, side="right")
    ties = np.searchsorted(order, smaller, side="right") - np.searchsorted(order, smaller, side="left")
    return float((above + ties / 2).mean() / len(order))


def _resampled(values: Numbers, subject: npt.NDArray[np.int64], rng: np.random.Generator) -> Numbers:
    groups = [values[subject == s] for s in np.unique(subject)]
    return np.concatenate([groups[i] for i in rng.integers(len(groups), size=len(groups))])
