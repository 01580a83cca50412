"""Record what the package stlpips_pytorch itself says about 20 pairs of pictures.

    python tests/golden/record_stlpips.py

Needs stlpips_pytorch 0.0.2 and torch. The package imports torchvision, torchsummary and IPython, of which the
shift-tolerant AlexNet uses nothing: where they are absent, empty stand-ins let the import pass.
"""

import importlib
import json
import sys
import types
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

GOLDEN = Path(__file__).with_name("stlpips.json")


def pair(number: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Two pictures (1, 1 or 3, H, W) in [-1, 1]: blocks, one disturbed by noise, a shift, contrast or other blocks."""
    rng = np.random.default_rng(1000 + number)
    channels, size = (1, 3)[number % 2], ((64, 64), (96, 112), (48, 80))[number % 3]
    blocks = rng.uniform(-1, 1, (channels, size[0] // 8, size[1] // 8))
    a = np.kron(blocks, np.ones((8, 8)))
    kind = number % 4
    if kind == 0:
        b = a + 0.3 * rng.standard_normal(a.shape)
    elif kind == 1:
        b = np.roll(a, 1 + number % 3, axis=-1)
    elif kind == 2:
        b = 0.6 * a - 0.1
    else:
        b = np.kron(rng.uniform(-1, 1, blocks.shape), np.ones((8, 8)))
    return torch.as_tensor(a)[None].float(), torch.as_tensor(b.clip(-1, 1))[None].float()


def main() -> None:
    stand_ins = ("torchvision", "torchvision.models", "torchsummary", "IPython")
    for name in stand_ins:
        try:
            importlib.import_module(name)
        except (ImportError, RuntimeError):
            module = types.ModuleType(name)
            module.__dict__.update({"summary": None, "embed": None, "models": types.ModuleType("models")})
            sys.modules[name] = module
    stlpips = importlib.import_module("stlpips_pytorch.stlpips")
    torch.set_num_threads(1)
    metric = stlpips.LPIPS(net="alex", variant="shift_tolerant", verbose=False).eval()
    values = []
    with torch.no_grad():
        for number in range(20):
            a, b = (x.expand(-1, 3, -1, -1) for x in pair(number))
            values.append(float(metric(a, b)))
    content = {
        "tool": f"stlpips_pytorch {version('stlpips_pytorch')}, LPIPS(net='alex', variant='shift_tolerant')",
        "torch": torch.__version__,
        "command": "python tests/golden/record_stlpips.py",
        "values": values,
    }
    GOLDEN.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
