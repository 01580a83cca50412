"""A recipe small enough to walk the whole way in seconds."""

from typing import Any

TINY: dict[str, Any] = {
    "name": "tiny",
    "about": "for tests",
    "prepare": {
        "spacing_mm": [4.0, 4.0, 4.0],
        "size": [48, 64],
        "heights": [0.3, 0.8],
        "strata": 2,
        "stratum_min_slices": 20,
        "labels": {"grey_matter": [1], "white_matter": [2], "ventricles": [3]},
    },
    "denoiser": {
        "rank": 8,
        "channels": [32, 32],
        "attention": [False, False],
        "head": 8,
        "compile": "no",
        "batch": 4,
        "precision": "float32",
        "max_steps": 12,
        "log_steps": 1,
        "minutes": 60,
        "checkpoint_seconds": 0,
    },
    "score": {"draws": 2},
    "classifier": {
        "precision": "float32",
        "channels": [32, 32],
        "levels": 3,
        "batch": 4,
        "max_steps": 8,
        "minutes": 60,
    },
    "discriminator": {
        "precision": "float32",
        "channels": [32, 32],
        "batch": 4,
        "max_steps": 4,
        "fakes": 6,
        "minutes": 60,
    },
    "audit": {"batch": 16, "max_steps": 30, "calibration": 40, "segmenter_steps": 4},
    "sample": {"steps": 3, "precision": "float32"},
}


def silent(event: object) -> None:
    """Hear nothing."""
