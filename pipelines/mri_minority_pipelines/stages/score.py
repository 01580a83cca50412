"""score: the minority score of every slice of a store."""

import csv
import io
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch

from mri_minority.backbones.experts import Network
from mri_minority.core.errors import DataError
from mri_minority.diffusion.state import encode
from mri_minority.minority.score import Distance, MinorityScores, combine, lost_parts, part_weights
from mri_minority.slices.store import SliceStore
from mri_minority.training.checkpoint import load_tensors, save_tensors
from mri_minority.training.precision import autocast, bfloat16_pays
from mri_minority.training.processes import is_first
from mri_minority.volumes.atomic import write_text_atomic
from mri_minority_pipelines.config import ScoreConfig
from mri_minority_pipelines.distances import distance_of, is_perceptual
from mri_minority_pipelines.events import Event
from mri_minority_pipelines.pieces import Piece, forget_locks, work_through

_BLOCK = 64
WEIGHTS = "score-weights.safetensors"
"""In the model folder: how much each part of the score counts in every stratum."""


def lost_parts_of_store(
    config: ScoreConfig,
    net: Network,
    store: SliceStore,
    work: Path,
    device: torch.device,
    tell: Callable[[Event], None],
) -> torch.Tensor:
    """What denoising loses of every slice of the training store, (N, draws, P).

    Works in shards, each a file in `work`, a folder inside the model folder: an interrupted run goes on, several
    processes share the shards. The weights of the parts are kept in the model folder, so that other slices can be
    scored on the same scale.
    """
    parts = lost_parts_of(config, net, store, torch.as_tensor(store.strata()), work, device, tell)
    if is_first():
        weights = part_weights_of(config, parts, store)
        save_tensors(work.parent / WEIGHTS, {"weights": weights}, {"score": config.model_dump(mode="json")})
    return parts


def lost_parts_of(
    config: ScoreConfig,
    net: Network,
    store: SliceStore,
    strata: torch.Tensor,
    work: Path,
    device: torch.device,
    tell: Callable[[Event], None],
) -> torch.Tensor:
    """What denoising loses of every slice of any store, (N, draws, P); one network call per slice and draw.

    Args:
        config: Noise level, draws, distance.
        net: The denoiser, on the device.
        store: The slices; memory does not grow with their number, but for the result.
        strata: The model's stratum of each (N,).
        work: Where finished shards are kept.
        device: Where to compute.
        tell: Receives progress.
    """
    fast, distance, shard = bfloat16_pays(device), distance_of(config, device, store.channels), 16 * _BLOCK
    looks = f"-{config.distance_sha256 or config.distance}"[:17] if is_perceptual(config) else ""
    total = len(store.rows)
    pieces = []
    for start in range(0, total, shard):
        file = work / f"score-{config.sigma:g}-{config.draws}-{config.seed}{looks}-{start:09d}.safetensors"
        index = np.arange(start, min(start + shard, total))
        pieces.append(
            Piece(file, partial(_score_shard, config, net, store, strata, distance, index, file, device, fast))
        )
    work_through(pieces, lambda done: tell(Event("score", min(done * shard, total), total, {})))
    forget_locks(work)
    return torch.cat([load_tensors(piece.result)[0]["lost"] for piece in pieces])


def _score_shard(
    config: ScoreConfig,
    net: Network,
    store: SliceStore,
    strata: torch.Tensor,
    distance: Distance,
    index: np.ndarray,
    file: Path,
    device: torch.device,
    fast: bool,
) -> None:
    classes = len(store.label_names)
    blocks = []
    for first in range(0, len(index), _BLOCK):
        rows = index[first : first + _BLOCK]
        image, label = store.read(rows)
        x_0 = encode(torch.as_tensor(image), torch.as_tensor(label), classes).to(device)
        stratum, items = strata[rows].to(device), rows.tolist()
        with autocast(device, fast):
            lost = lost_parts(net, x_0, stratum, config.sigma, items, config.draws, config.seed, net.groups, distance)
        blocks.append(lost.cpu())
    save_tensors(file, {"lost": torch.cat(blocks)}, {})


def scores_of(config: ScoreConfig, parts: torch.Tensor, store: SliceStore) -> MinorityScores:
    """Weigh the parts as configured; weights come from the training slices alone."""
    return weighed(parts, part_weights_of(config, parts, store), torch.as_tensor(store.strata()))


def weighed(parts: torch.Tensor, weights: torch.Tensor, strata: torch.Tensor) -> MinorityScores:
    """Scores from parts (N, draws, P) and the weights of every stratum (T, P).

    Raises:
        DataError: A score is not finite: the model is broken there, and it must not fall silently into a level.
    """
    try:
        return combine(parts, weights, strata)
    except ValueError as error:
        raise DataError(
            f"the minority score failed: {error}; train the denoiser again, or lower score.sigma"
        ) from error


def part_weights_of(config: ScoreConfig, parts: torch.Tensor, store: SliceStore) -> torch.Tensor:
    """How much every part counts in every stratum (T, P), from the training slices of a store."""
    strata = torch.as_tensor(store.strata())
    train = torch.as_tensor(store.indices("train"))
    kind = "both" if is_perceptual(config) else config.distance
    return part_weights(parts[train], strata[train], len(store.strata_names), kind, store.channels)


def write_scores(path: Path, store: SliceStore, columns: dict[str, torch.Tensor]) -> None:
    """Write one line per slice: where it is in the store, its stratum and split, and the given columns."""
    text = io.StringIO()
    writer = csv.writer(text, delimiter="\t", lineterminator="\n")
    writer.writerow(["row", "stratum", "split", *columns])
    values = [column.tolist() for column in columns.values()]
    for number, row in enumerate(store.rows):
        cells = [format(v[number], ".6g") for v in values]
        writer.writerow([number, row.stratum, row.split, *cells])
    write_text_atomic(path, text.getvalue())
