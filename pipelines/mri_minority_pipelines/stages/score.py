"""score: the minority score of every slice of a store."""

import csv
import io
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch

from mri_minority.backbones.monai_unet import UNetDenoiser
from mri_minority.diffusion.state import encode
from mri_minority.minority.score import MinorityScores, channel_errors, combine, lost_parts, part_weights
from mri_minority.slices.store import SliceStore
from mri_minority.training.checkpoint import load_tensors, save_tensors
from mri_minority.training.precision import autocast, bfloat16_pays
from mri_minority.volumes.atomic import write_text_atomic
from mri_minority_pipelines.config import ScoreConfig
from mri_minority_pipelines.events import Event
from mri_minority_pipelines.pieces import Piece, forget_locks, work_through

_BLOCK = 64


def lost_parts_of_store(
    config: ScoreConfig,
    net: UNetDenoiser,
    store: SliceStore,
    work: Path,
    device: torch.device,
    tell: Callable[[Event], None],
) -> torch.Tensor:
    """What denoising loses of every slice, (N, draws, 1 + classes).

    Works in shards, each a file in `work`: an interrupted run goes on, several processes share the shards.
    """
    fast, shard = bfloat16_pays(device), 16 * _BLOCK
    total = len(store.rows)
    pieces = []
    for start in range(0, total, shard):
        file = work / f"score-{config.sigma:g}-{config.draws}-{config.seed}-{start:09d}.safetensors"
        index = np.arange(start, min(start + shard, total))
        pieces.append(Piece(file, partial(_score_shard, config, net, store, index, file, device, fast)))
    work_through(pieces, lambda done: tell(Event("score", min(done * shard, total), total, {})))
    forget_locks(work)
    return torch.cat([load_tensors(piece.result)[0]["lost"] for piece in pieces])


def _score_shard(
    config: ScoreConfig,
    net: UNetDenoiser,
    store: SliceStore,
    index: np.ndarray,
    file: Path,
    device: torch.device,
    fast: bool,
) -> None:
    strata, classes = torch.as_tensor(store.strata()), len(store.label_names)
    blocks = []
    for first in range(0, len(index), _BLOCK):
        rows = index[first : first + _BLOCK]
        image, label = store.read(rows)
        x_0 = encode(torch.as_tensor(image), torch.as_tensor(label), classes).to(device)
        stratum, items = strata[rows].to(device), rows.tolist()
        with autocast(device, fast):
            lost = lost_parts(
                net, x_0, stratum, config.sigma, items, config.draws, config.seed, net.groups, channel_errors
            )
        blocks.append(lost.cpu())
    save_tensors(file, {"lost": torch.cat(blocks)}, {})


def scores_of(config: ScoreConfig, parts: torch.Tensor, store: SliceStore) -> MinorityScores:
    """Weigh the parts as configured; weights come from the training slices alone."""
    strata = torch.as_tensor(store.strata())
    train = torch.as_tensor(store.indices("train"))
    weights = part_weights(parts[train], strata[train], len(store.strata_names), config.distance)
    return combine(parts, weights, strata)


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
