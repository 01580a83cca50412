"""A network that was trained too long on too little: are its slices caught?

    python benchmarks/overfit.py --store STORE --audit MODEL/audit.safetensors --work WORK --minutes 15

Trains the recipe's denoiser on 64 slices of STORE only, draws as many, and audits them with the audit of the whole
store: the copies are to be found among all its training slices, and to be the very 64. Beside it the denoising error on
the 64 and on held-out slices, which says how far the network is overfitted. Goes on from its checkpoint.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from lightning_fabric import Fabric
from rare_yield import CPU, quiet

from mri_minority.backbones.monai_unet import UNetDenoiser
from mri_minority.diffusion.kernel import sigma_path
from mri_minority.diffusion.sampling import draw_slices
from mri_minority.diffusion.solvers import SOLVERS
from mri_minority.diffusion.state import decode, encode
from mri_minority.export.labels import drop_specks
from mri_minority.report.figures import contact_sheet
from mri_minority.slices.store import SliceStore
from mri_minority.training.checkpoint import load_tensors
from mri_minority.training.precision import autocast, bfloat16_pays
from mri_minority_pipelines.config import DenoiserConfig, SampleConfig, load_recipe
from mri_minority_pipelines.model_folder import build_denoiser, load_world
from mri_minority_pipelines.stages import audit, train_denoiser

SIGMAS = (0.1, 0.3, 1.0, 3.0)


class Few(SliceStore):
    """A store that offers `count` of its training slices, spread over subjects and heights."""

    def __init__(self, folder: Path, count: int) -> None:
        """Open the store."""
        super().__init__(folder)
        train = super().indices("train")
        train = train[np.argsort(self.strata()[train], kind="stable")]  # every stratum needs some
        self.few = np.sort(train[np.linspace(0, len(train) - 1, count).astype(int)])

    def indices(self, split: str) -> np.ndarray:
        """Positions of a split's slices."""
        return self.few if split == "train" else super().indices(split)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("store", "audit", "work"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--count", type=int, default=64)
    parser.add_argument("--minutes", type=float, default=15.0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    few = Few(args.store, args.count)
    settings = load_recipe("brain_t1_2mm").denoiser
    # One network, and an average short enough for so few minutes.
    changes = {"rank": min(48, args.count // 2), "minutes": args.minutes, "ema": 0.998, "fine": None}
    config = settings.model_copy(update=changes)
    args.work.mkdir(parents=True, exist_ok=True)
    fabric = Fabric(accelerator="cpu", devices=1)
    fabric.launch()
    train_denoiser.run(config, few, args.work, fabric, quiet)
    net = learnt(config, few, args.work)
    leak = audit.membership(net, few, 0)
    print(f"\nmembership: its error tells the {args.count} from held-out slices with AUC ", end="")
    print("{auc:.3f} [{low:.3f}, {high:.3f}]".format(**leak))
    image, label = drawn(net, few)
    auditor = audit.load(args.audit, SliceStore(args.store))
    verdicts = auditor.judge(image)
    rows = SliceStore(args.store).indices("train")
    own = np.mean([rows[v["nearest"]] in set(few.few.tolist()) for v in verdicts])
    words = [v["verdict"] for v in verdicts]
    print(f"copies: {words.count('reject')} of {len(words)} rejected, {words.count('review')} to review; ", end="")
    print(f"the match is one of the {args.count} slices in {own:.0%}")
    matches = few.read(np.array([rows[v["nearest"]] for v in verdicts[:16]]))
    contact_sheet(
        args.work / "overfit.png", [("drawn", image[:16], label[:16]), ("the training slices found", *matches)]
    )


@torch.no_grad()
def learnt(config: DenoiserConfig, few: Few, folder: Path) -> UNetDenoiser:
    """The overfitted network. Prints its errors."""
    classes = len(few.label_names)
    net = build_denoiser(load_world(folder / "world.safetensors", classes), config)
    tensors, notes = load_tensors(folder / "denoiser.safetensors")
    net.load_state_dict(tensors)
    net.eval()
    fast = bfloat16_pays(CPU)
    print(f"{notes['step']} steps of {config.batch} slices\n\n| denoising error of the image at sigma | ", end="")
    print(" | ".join(map(str, SIGMAS)) + " |\n|---|" + "---|" * len(SIGMAS))
    held = few.indices("holdout")
    for name, index in (("the 64", few.few), ("held out", held[np.linspace(0, len(held) - 1, 64).astype(int)])):
        image, label = few.read(index)
        x_0, stratum = encode(torch.as_tensor(image), torch.as_tensor(label), classes), few.strata()[index]
        errors = []
        for sigma in SIGMAS:
            noisy = x_0 + sigma * torch.randn(x_0.shape, generator=torch.Generator().manual_seed(1))
            level = torch.full((len(x_0), len(net.groups.sizes)), sigma)
            with autocast(CPU, fast):
                error = net(noisy, level, torch.as_tensor(stratum)) - x_0
            errors.append(f"{float(error[:, 0].square().mean().sqrt()):.3f}")
        print(f"| {name} | {' | '.join(errors)} |")
    return net.requires_grad_(False)


@torch.no_grad()
def drawn(net: UNetDenoiser, few: Few) -> tuple[np.ndarray, np.ndarray]:
    """As many slices as it learnt from, in the same strata: images (N, 1, H, W) in [-1, 1], label maps (N, H, W)."""
    sample, classes, count = SampleConfig(), len(few.label_names), len(few.few)
    path = sigma_path(sample.sigma_max, sample.sigma_min, sample.steps, len(net.groups.sizes))
    stratum = torch.as_tensor(few.strata()[few.few])
    size = few.header["settings"]["size"]
    shape = (1 + classes, int(size[0]), int(size[1]))
    with autocast(CPU, bfloat16_pays(CPU)):
        x = draw_slices(net, SOLVERS[sample.solver], path, list(range(count)), stratum, shape, 5, net.groups, CPU)
    image, label = decode(x, classes)
    return image.numpy(), np.stack([drop_specks(m) for m in label.numpy()])


if __name__ == "__main__":
    main()
