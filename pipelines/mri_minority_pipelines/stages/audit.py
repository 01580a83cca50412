"""audit: learn to find training slices again, calibrate on held-out subjects, judge sets of slices."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mri_minority.backbones.experts import Network
from mri_minority.core.errors import DataError
from mri_minority.core.rng import generator_for
from mri_minority.diffusion.kernel import add_noise
from mri_minority.diffusion.state import encode
from mri_minority.evaluate.copies import Gallery, Nearest, Search, embed, pictures, principal, twins
from mri_minority.evaluate.disguise import Disguise
from mri_minority.evaluate.embedding import LONG_SIDE, CopyNet, train_embedding
from mri_minority.evaluate.verdict import Thresholds, calibrate, leak, membership_auc
from mri_minority.slices.store import SliceStore
from mri_minority.training.checkpoint import load_tensors, save_tensors
from mri_minority_pipelines.config import AuditConfig
from mri_minority_pipelines.events import Event

FILE = "audit.safetensors"
FORMAT = 2
_BLOCK = 256
_MEMBERSHIP_SIGMAS = (0.1, 0.3)
_MEMBERSHIP_SLICES = 192


@dataclass(frozen=True)
class Auditor:
    """A calibrated audit, ready to judge.

    Args:
        search: Over the training slices.
        thresholds: Per rarity bin.
        twin: Embedding distance below which two slices of a set are duplicates.
        notes: What the file says: held-out subjects, size of slices, hash of the store's table, membership.
    """

    search: Search
    thresholds: Thresholds
    twin: float
    notes: dict[str, Any]

    def judge(self, image: npt.NDArray[np.float32]) -> list[dict[str, Any]]:
        """Verdict and evidence for every slice (N, I, H, W) in [-1, 1]."""
        expected = (self.search.gallery.size[0], *self.notes["size"])
        if image.shape[1:] != expected:
            raise DataError(
                f"expected slices of {expected} channels and pixels, as in training, found {image.shape[1:]}"
            )
        found = self.search(torch.as_tensor(image, dtype=torch.float32))
        rarity = self.search.gallery.rarity[found.match].double().numpy()
        words = self.thresholds.of(found.suspicion.double().numpy(), rarity)
        return [
            {
                "verdict": word,
                "suspicion": round(float(found.suspicion[n]), 4),
                "pixel_ratio": round(float(found.pixel_ratio[n]), 4),
                "embedding_ratio": round(float(found.ratio[n]), 4),
                "authentic": bool(found.authentic[n]),
                "nearest": int(found.match[n]),
            }
            for n, word in enumerate(words)
        ]

    @property
    def leaks(self) -> bool:
        """Whether the model has learnt its training slices by heart."""
        return leak(self.notes["membership"]) == "reject"

    def summary(self, verdicts: list[dict[str, Any]], image: npt.NDArray[np.float32]) -> dict[str, Any]:
        """Counts, authenticity and duplicates of a set."""
        words = [v["verdict"] for v in verdicts]
        pairs = twins(self.search.gallery.net, torch.as_tensor(image, dtype=torch.float32), self.twin)
        return {
            "slices": len(words),
            **{word: words.count(word) for word in ("pass", "review", "reject")},
            "authenticity": round(float(np.mean([v["authentic"] for v in verdicts])), 4) if verdicts else None,
            "authenticity_held_out": self.notes["authenticity_held_out"],
            "duplicates": [list(pair) for pair in pairs],
            "false_alarm": [None if np.isnan(alarm) else alarm for alarm in self.thresholds.false_alarm],
            "caught": list(self.thresholds.caught),
            "held_out_subjects": self.notes["held_out_subjects"],
            "membership": self.notes["membership"],
            "model": leak(self.notes["membership"]),
        }


def run(
    config: AuditConfig,
    store: SliceStore,
    path: Path,
    rarity: npt.NDArray[np.float64] | None,
    net: Network | None,
    tell: Callable[[Event], None],
) -> bool:
    """Write the audit file of a store's training slices, unless it is there; False without a hold-out.

    Args:
        config: Settings.
        store: The slices.
        path: The file to write.
        rarity: A number per slice of the store that grows with rarity; None takes how far its nearest lie.
        net: The trained denoiser, whose membership leak is measured; None leaves that out.
        tell: Receives progress.
    """
    train, held = store.indices("train"), store.indices("holdout")
    if path.is_file():
        return True
    if len(held) < 2 or len(train) < 8:
        return False
    size = tuple(store.header["settings"]["size"])
    torch.manual_seed(config.seed)
    copy_net = CopyNet(config.features, images=store.channels)
    for step, loss in train_embedding(copy_net, store, config.batch, config.max_steps, config.seed):
        tell(Event("audit", step, config.max_steps, {"loss": loss}))
    gallery = _rounded(_gallery(config, copy_net, store, train, rarity, size))
    search = Search(gallery)
    found, planted, twin = _calibration_sets(config, store, search, train, held)
    people = _people(store, found[1])
    thresholds = calibrate(
        found[0].suspicion.double().numpy(),
        gallery.rarity[found[0].match].double().numpy(),
        people,
        planted.suspicion.double().numpy(),
        gallery.rarity[planted.match].double().numpy(),
    )
    notes = {
        "format": FORMAT,
        "size": list(size),
        "picture": list(gallery.size),
        "pool": gallery.pool,
        "features": config.features,
        "slices_sha256": store.sha256,
        "held_out_subjects": len({store.rows[i].subject for i in held}),
        "thresholds": asdict(thresholds),
        "twin": twin,
        "authenticity_held_out": round(float(found[0].authentic.double().mean()), 4),
        # One held-out person may be harder to denoise for a reason of their own.
        "membership": None if net is None or len(np.unique(people)) < 2 else membership(net, store, config.seed),
    }
    save_tensors(path, _packed(gallery), notes)
    tell(Event("note", 0, 0, {"text": f"audit: {_said(thresholds)}"}))
    return True


def load(path: Path, store: SliceStore | None = None) -> Auditor:
    """Read an audit file.

    Args:
        path: The file.
        store: The slices it should be of, if they are at hand.

    Raises:
        DataError: It is missing, damaged, of another format, or of other slices.
    """
    tensors, notes = load_tensors(path)
    if notes.get("format") != FORMAT:
        raise DataError(f"expected audit format {FORMAT}, found {notes.get('format')} in {path}; remove it and train")
    if store is not None and not store.is_known_as(notes["slices_sha256"]):
        raise DataError(f"expected the slices that {path} was made from, {store.folder} holds others; give that store")
    channels, height, width = notes["picture"]
    net = CopyNet(notes["features"], images=channels)
    weights = {k.removeprefix("net."): v.float() for k, v in tensors.items() if k.startswith("net.")}
    net.load_state_dict(weights)
    gallery = Gallery(
        net.eval().requires_grad_(False),
        _unpacked(tensors, "embedding"),
        tensors["mean"].float(),
        _unpacked(tensors, "basis"),
        _unpacked(tensors, "code"),
        tensors["subject"].long(),
        tensors["rarity"].float(),
        (channels, height, width),
        notes["pool"],
    )
    said = {k: tuple(v) for k, v in notes["thresholds"].items()}
    return Auditor(Search(gallery), Thresholds(**said), notes["twin"], notes)


def _people(store: SliceStore, index: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Numbers of the subjects of some slices: a number, not a key, is what the file may hold."""
    number: dict[str, int] = {}
    everyone = np.array([number.setdefault(row.subject, len(number)) for row in store.rows], dtype=np.int64)
    return everyone[index]


def rarity_of_table(folder: Path, count: int) -> npt.NDArray[np.float64] | None:
    """Level per slice from a model's scores, the minority ones if it has them; None if it has none for so many rows."""
    tables = sorted(folder.glob("scores-*.tsv"), key=lambda p: (p.name != "scores-minority.tsv", p.name))
    for table in tables:
        lines = table.read_text(encoding="utf-8").splitlines()
        column = lines[0].split("\t").index("level")
        if len(lines) == count + 1:
            return np.array([float(line.split("\t")[column]) for line in lines[1:]])
    return None


@torch.no_grad()
def membership(net: Network, store: SliceStore, seed: int) -> dict[str, float]:
    """AUC of telling training slices from held-out ones by one-shot denoising error, same noise for all."""
    errors, people = [], []
    for split in ("train", "holdout"):
        index = store.indices(split)
        index = index[np.linspace(0, len(index) - 1, min(len(index), _MEMBERSHIP_SLICES)).astype(int)]
        errors.append(_denoising_errors(net, store, index, seed))
        people.append(_people(store, index))
    return membership_auc(errors[0], people[0], errors[1], people[1], seed)


def _denoising_errors(
    net: Network, store: SliceStore, index: npt.NDArray[np.int64], seed: int
) -> npt.NDArray[np.float64]:
    device, parts = net.gaussian.mean.device, []
    strata = torch.as_tensor(store.strata()[index])
    for start in range(0, len(index), 16):
        image, label = store.read(index[start : start + 16])
        x = encode(torch.as_tensor(image), torch.as_tensor(label), len(store.label_names))
        total = torch.zeros(len(x), dtype=torch.float64)
        for sigma in _MEMBERSHIP_SIGMAS:
            eps = torch.randn((1, *x.shape[1:]), generator=generator_for(seed, "membership")).expand_as(x)
            level = torch.full((len(x), len(net.groups.sizes)), sigma)
            noisy = add_noise(x, level, eps, net.groups).to(device)
            mean = net(noisy, level.to(device), strata[start : start + 16].to(device)).cpu()
            total += ((mean - x) ** 2).mean(dim=(1, 2, 3)).double()
        parts.append(total.numpy())
    return np.concatenate(parts)


def _gallery(
    config: AuditConfig,
    net: CopyNet,
    store: SliceStore,
    train: npt.NDArray[np.int64],
    rarity: npt.NDArray[np.float64] | None,
    size: tuple[int, ...],
) -> Gallery:
    embedded, drawn = [], []
    for start in range(0, len(train), _BLOCK):
        image = torch.as_tensor(store.read(train[start : start + _BLOCK])[0])
        embedded.append(embed(net, image, flips=False)[:, 0])
        drawn.append(pictures(image))
    embedding, picture = torch.cat(embedded), torch.cat(drawn)
    step = max(1, len(picture) // 2048)
    mean, basis = principal(picture[::step], config.codes)
    pool = max(1, round(max(size) / LONG_SIDE))
    subject = torch.as_tensor(_people(store, train))
    score = torch.zeros(len(train)) if rarity is None else torch.as_tensor(rarity[train]).float()
    coarse = (store.channels, size[0] // pool, size[1] // pool)
    return Gallery(net, embedding, mean, basis, (picture - mean) @ basis.T, subject, score, coarse, pool)


def _calibration_sets(
    config: AuditConfig,
    store: SliceStore,
    search: Search,
    train: npt.NDArray[np.int64],
    held: npt.NDArray[np.int64],
) -> tuple[tuple[Nearest, npt.NDArray[np.int64]], Nearest, float]:
    """Search results of held-out slices and of planted copies, and how near two slices of a set may lie."""
    held = held[np.linspace(0, len(held) - 1, min(len(held), config.calibration)).astype(int)]
    image = torch.as_tensor(store.read(held)[0])
    chosen = train[np.linspace(0, len(train) - 1, min(len(train), config.calibration)).astype(int)]
    original = torch.as_tensor(store.read(chosen)[0])
    disguised = Disguise()(original, generator_for(config.seed, "planted"))
    net = search.gallery.net
    rows = embed(net, image, flips=False)[:, 0]
    people = torch.as_tensor(_people(store, held))
    cosine = rows @ rows.T
    cosine[people[:, None] == people[None]] = -1.0
    others = len(people.unique()) > 1  # slices of one person say nothing of how near those of two may lie
    twin = float((1 - cosine.amax(dim=1)).quantile(0.01)) / 2 if others else 0.0
    return (search(image), held), search(disguised), round(twin, 6)


def _packed(gallery: Gallery) -> dict[str, Tensor]:
    """Rows in 8 bits: a step of 1/127 of a row's largest number."""
    tensors = {f"net.{k}": v.half() for k, v in gallery.net.state_dict().items()}
    for name in ("embedding", "basis", "code"):
        rows = getattr(gallery, name)
        scale = rows.abs().amax(dim=1, keepdim=True).clamp(min=1e-12) / 127
        tensors |= {name: (rows / scale).round().to(torch.int8), f"{name}_scale": scale}
    return tensors | {
        "mean": gallery.mean.half(),
        "subject": gallery.subject.to(torch.int32),
        "rarity": gallery.rarity.half(),
    }


def _unpacked(tensors: dict[str, Tensor], name: str) -> Tensor:
    return tensors[name].float() * tensors[f"{name}_scale"]


def _rounded(gallery: Gallery) -> Gallery:
    """The gallery as it will be read back, so that it is calibrated as it is used."""
    tensors = _packed(gallery)
    gallery.net.load_state_dict({k: v.half().float() for k, v in gallery.net.state_dict().items()})
    rows = [_unpacked(tensors, name) for name in ("embedding", "basis", "code")]
    mean, rarity = tensors["mean"].float(), tensors["rarity"].float()
    return Gallery(gallery.net, rows[0], mean, rows[1], rows[2], gallery.subject, rarity, gallery.size, gallery.pool)


def _said(thresholds: Thresholds) -> str:
    """The calibration in one sentence."""
    alarm, caught = np.nanmax([0.0, *thresholds.false_alarm]), min(thresholds.caught)
    return f"{caught:.0%} or more of planted copies caught, {alarm:.1%} or less false alarms, in each rarity bin"
