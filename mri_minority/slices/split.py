"""Hold out whole subjects, never slices."""

import hashlib
import math
from collections.abc import Iterable


def held_out_subjects(subjects: Iterable[str], share: float, seed: int) -> frozenset[str]:
    """Choose the subjects that training never sees.

    The choice ranks subjects by a hash of (seed, subject), so it does not depend on the order of files, and a
    subject added later moves few others.

    Args:
        subjects: Subject keys; repeats are ignored.
        share: Wanted share of subjects, in [0, 1); at least one subject is held out when share > 0 and there are two.
        seed: The split's seed.
    """
    unique = sorted(set(subjects), key=lambda name: hashlib.sha256(f"{seed}/{name}".encode()).digest())
    if share <= 0 or len(unique) < 2:
        return frozenset()
    return frozenset(unique[: min(len(unique) - 1, max(1, math.floor(share * len(unique) + 0.5)))])
