"""label: label maps for unlabelled slices, with a per-pixel spread over several draws. For research only."""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from mri_minority import __version__
from mri_minority.backbones.experts import Network
from mri_minority.core.errors import DataError, UsageError
from mri_minority.diffusion.given import IMAGE, LABEL, draw_given, held
from mri_minority.diffusion.kernel import sigma_path
from mri_minority.diffusion.solvers import SOLVERS
from mri_minority.diffusion.state import decode, encode
from mri_minority.export.labels import drop_specks
from mri_minority.slices.store import SliceStore
from mri_minority.slices.strata import Strata
from mri_minority.volumes.atomic import sha256_of, shown, write_json_atomic, write_text_atomic
from mri_minority.volumes.discover import write_quarantine
from mri_minority.volumes.nifti import write_nifti
from mri_minority_pipelines.config import SampleConfig
from mri_minority_pipelines.events import Event, beside, publish_folder
from mri_minority_pipelines.given_sources import check_fit
from mri_minority_pipelines.label_maps import mean_maps, nearest_stratum
from mri_minority_pipelines.model_folder import ModelFolder, channel_names
from mri_minority_pipelines.scans import Place, Scan, read_scan

_BATCH = 16
_LOOKS = 2
"""How often a scan's labelled area is looked for before the scan is labelled, each time about the last one's find.

Dice of grey matter, white matter, ventricles in five held-out IXI heads (8 steps, one draw): 0.74, 0.80, 0.35 without a
look; 0.79, 0.83, 0.81 with one; 0.83, 0.87, 0.89 with two or three; 0.84, 0.88, 0.89 about the true labels."""

Draws = Callable[[npt.NDArray[np.float32], npt.NDArray[np.int64]], npt.NDArray[np.uint8]]
"""Images (n, I, H, W) and strata (n,) -> one draw of their label maps (n, H, W)."""
_DESCRIPTION = f"LABELS drawn, research use only, mri-minority {__version__}"
_README = """# Label maps drawn by a model: research use only

**Not for diagnosis, and no reference standard.** `labels/NAME.nii.gz` is the commonest class over {draws} draws from
p(label | image); `spread/NAME.nii.gz` is the share of draws that say something else, pixel by pixel (0: all agree).
Agreement between draws says what the model is sure of, not that it is right. The slices are of people: treat this
folder like the scans.

Classes: {classes}
"""


@dataclass(frozen=True)
class Picture:
    """One slice to label.

    Args:
        name: Of its files.
        image: float32 (I, H, W) in [-1, 1].
        stratum: The model's.
        affine: float64 (4, 4), pixel (i, j, 0) -> RAS+ millimetres.
        source: What the table says of it.
    """

    name: str
    image: npt.NDArray[np.float32]
    stratum: int
    affine: npt.NDArray[np.float64]
    source: dict[str, Any]


def label_images(
    net: Network,
    image: npt.NDArray[np.float32],
    stratum: npt.NDArray[np.int64],
    config: SampleConfig,
    draws: int,
    seed: int,
    device: torch.device,
    first: int = 0,
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]]:
    """Label maps of images by sampling p(label | image) several times.

    Args:
        net: The denoiser, on the device.
        image: float32 (n, I, H, W) in [-1, 1].
        stratum: (n,).
        config: Solver, steps and noise levels.
        draws: How many draws each pixel's vote is over.
        seed: Of the run.
        device: Where to compute.
        first: Number of the first item, which names the noise.

    Returns:
        uint8 (n, H, W), the commonest class; float32 (n, H, W), the share of draws that say another one.
    """
    classes = net.groups.sizes[LABEL]
    blank = torch.zeros(image[:, 0].shape, dtype=torch.uint8)
    known = encode(torch.as_tensor(image), blank, classes)
    path = held(sigma_path(config.sigma_max, config.sigma_min, config.steps, 2), IMAGE)
    votes = np.zeros((classes + 1, *blank.shape), np.int64)
    for number in range(draws):
        items = [draws * (first + i) + number for i in range(len(image))]
        states = draw_given(
            net,
            SOLVERS[config.solver],
            path,
            known,
            items,
            torch.as_tensor(stratum),
            seed,
            net.groups,
            device,
        )
        label = np.stack([drop_specks(plane) for plane in decode(states.cpu(), classes)[1].numpy()])
        for value in range(classes + 1):
            votes[value] += label == value
    best = votes.argmax(axis=0).astype(np.uint8)
    return best, (1 - votes.max(axis=0) / draws).astype(np.float32)


def run(
    source: Path,
    model: ModelFolder,
    out: Path,
    config: SampleConfig,
    draws: int,
    seed: int,
    device: torch.device,
    tell: Callable[[Event], None],
) -> dict[str, Any]:
    """Label every slice of a store, or of the NIfTI files in a folder, and write maps, spreads and a manifest.

    A file that cannot be used stops nothing: `OUT.quarantine.tsv`, beside the maps because names may say who is shown,
    lists it. Interrupting is safe, but the same command begins anew.

    Returns:
        Where they are, how many, the mean spread inside the labelled area, and how many files were refused.

    Raises:
        UsageError: The model draws no labels.
        DataError: There are no images, they do not fit the model, or `out` holds something. Nothing is written then.
    """
    card = model.card()
    if not card["label_names"]:
        raise UsageError("expected a model with label maps, this one knows images alone")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(f"expected an empty or new folder for the label maps, {out} holds something")
    net, rows, spreads = model.denoiser().to(device), [], []

    def drawn(image: npt.NDArray[np.float32], stratum: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
        return label_images(net, image, stratum, config, 1, seed, device)[0]

    is_store = (source / "store.json").is_file()
    refused: list[tuple[str, str]] = []
    pictures = list(_of_store(source, card) if is_store else _of_files(source, model, drawn, tell, refused))
    if refused:
        write_quarantine(out.resolve().with_name(f"{out.resolve().name}.quarantine.tsv"), refused)
    if not pictures:
        reasons = "; ".join(dict.fromkeys(reason for _, reason in refused)) or "none; check the path"
        raise DataError(f"expected usable images (.nii or .nii.gz) in {shown(source)}, found {reasons[:400]}")
    building = beside(out, "building")
    if building.exists():  # an interrupted run may have been about other images: nothing of it is taken over
        shutil.rmtree(building)
    tell(Event("label", 0, len(pictures), {}))
    for first in range(0, len(pictures), _BATCH):
        part = pictures[first : first + _BATCH]
        image, stratum = np.stack([p.image for p in part]), np.array([p.stratum for p in part])
        label, spread = label_images(net, image, stratum, config, draws, seed, device, first)
        for number, picture in enumerate(part):
            rows.append(_write(building, picture, label[number], spread[number]))
        spreads.append(spread[label > 0])
        tell(Event("label", first + len(part), len(pictures), {}))
    classes = ", ".join(f"{n} {name}" for n, name in enumerate(("background", *card["label_names"])))
    write_text_atomic(building / "README.md", _README.format(draws=draws, classes=classes))
    header = {"research_use_only": True, "synthetic": False, "version": __version__, "draws": draws, "seed": seed}
    header["model_sha256"] = sha256_of(model.path / "denoiser.safetensors")
    header["label_names"] = card["label_names"]
    write_json_atomic(building / "labels.json", {**header, "slices": rows})
    publish_folder(building, out)
    inside = np.concatenate(spreads)
    return {
        "out": str(out),
        "slices": len(rows),
        "mean_spread": round(float(inside.mean()), 4) if inside.size else None,
        "refused": len(refused),
        "research_use_only": True,
    }


def _of_store(folder: Path, card: dict[str, Any]) -> Iterator[Picture]:
    store = SliceStore(folder)
    check_fit(store, card)
    strata = Strata.from_json(card["strata"]).of(store.heights(), store.kinds())
    for at, row in enumerate(store.rows):
        stratum = int(strata[at])
        affine = np.array(row.affine).reshape(4, 4)
        source = {"source_sha256": row.sha256, "source_index": row.index}
        yield Picture(f"slice_{at:05d}", store.read(np.array([at]))[0][0], stratum, affine, source)


def _of_files(
    folder: Path,
    model: ModelFolder,
    drawn: Draws,
    tell: Callable[[Event], None],
    refused: list[tuple[str, str]],
) -> Iterator[Picture]:
    """Slices of NIfTI files; of those that cannot be used file and reason go to `refused`.

    Each goes to the stratum whose mean image it resembles most; but where training measured heights in the head, slices
    of a volume go where theirs puts them.
    """
    card, means = model.card(), mean_maps(model)
    channels = channel_names(card)
    if len(channels) > 1:
        raise DataError(
            f"expected a slice store for a model of {len(channels)} image channels ({', '.join(channels)}), found "
            "files; run `mri-minority prepare` on them with the model's recipe"
        )
    settings = card["recipe"]["prepare"]
    inside = folder / "images" if (folder / "images").is_dir() else folder
    files = [inside] if inside.is_file() else sorted([*inside.glob("*.nii"), *inside.glob("*.nii.gz")])
    for number, path in enumerate(files):
        tell(Event("read", number, len(files), {}))
        try:
            scan = read_scan(path, settings)
            place = _place(scan, settings, means, drawn)
        except DataError as error:
            refused.append((str(path), str(error)))
            continue
        by_head = settings.get("foreground", "labels") == "head" and len(scan.planes) > 1
        strata = Strata.from_json(card["strata"]).of(scan.heights())
        for index in range(len(scan.planes)):
            image, stratum, affine = _slice(scan, index, place, settings, means)
            stratum = int(strata[index]) if by_head else stratum
            name = f"image_{number:04d}_{index:03d}"
            yield Picture(name, image, stratum, affine, {"source_sha256": scan.sha256, "source_index": index})


def _place(scan: Scan, settings: dict[str, Any], means: npt.NDArray[np.float32], drawn: Draws) -> Place:
    """Scale and centre of a scan, as the model's training slices had them.

    Where these were measured in the labelled area, which a scan to be labelled does not come with, some of its slices
    are labelled first: the middle of a head lies a centimetre from that of its brain, and scalp is brighter.
    """
    size = (int(settings["size"][0]), int(settings["size"][1]))
    place = scan.by_head(size)
    if scan.is_cut or settings.get("foreground", "labels") == "head":
        return place
    filled = np.flatnonzero(scan.head.any(axis=(1, 2)))
    some = np.unique(filled[np.linspace(0, len(filled) - 1, _BATCH + 2).round().astype(np.int64)[1:-1]])
    for _ in range(_LOOKS):
        slices = [_slice(scan, int(index), place, settings, means) for index in some]
        image, stratum = np.stack([one[0] for one in slices]), np.array([one[1] for one in slices])
        place = scan.by_labels(some, drawn(image, stratum), place)
    return place


def _slice(
    scan: Scan, index: int, place: Place, settings: dict[str, Any], means: npt.NDArray[np.float32]
) -> tuple[npt.NDArray[np.float32], int, npt.NDArray[np.float64]]:
    """Image (1, H, W), stratum and affine of one plane."""
    size = (int(settings["size"][0]), int(settings["size"][1]))
    plane, affine = scan.cut(index, place, size, float(settings["ceiling"]))
    return plane[None], nearest_stratum(plane[None], means[:, :1], list(range(len(means)))), affine


def _write(
    folder: Path, picture: Picture, label: npt.NDArray[np.uint8], spread: npt.NDArray[np.float32]
) -> dict[str, Any]:
    trace = {**picture.source, "stratum": picture.stratum, "research_use_only": True}
    row: dict[str, Any] = {"name": picture.name, **trace}
    for kind, plane in (("labels", label), ("spread", spread)):
        path = folder / kind / f"{picture.name}.nii.gz"
        write_nifti(path, plane[:, :, None], picture.affine, _DESCRIPTION, trace)
        row[f"{kind}_sha256"] = sha256_of(path)
    return row
