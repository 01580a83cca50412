"""ST-LPIPS against the values of the package whose weights it reads."""

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest
import torch

from mri_minority_pipelines.perceptual import shift_tolerant_lpips

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def recorder() -> ModuleType:
    """The script that recorded the golden values; it knows how to make the pairs."""
    spec = importlib.util.spec_from_file_location("record_stlpips", HERE / "record_stlpips.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_twenty_pairs(recorder: ModuleType) -> None:
    golden = json.loads((HERE / "stlpips.json").read_text(encoding="utf-8"))
    assert golden["tool"].startswith("stlpips_pytorch 0.0.2")
    assert len(golden["values"]) == 20
    metric = shift_tolerant_lpips()
    with torch.no_grad():
        found = [float(metric(*recorder.pair(number))) for number in range(20)]
    torch.testing.assert_close(torch.tensor(found), torch.tensor(golden["values"]), atol=1e-6, rtol=1e-4)
    assert min(golden["values"]) < 0.1 < max(golden["values"])


def test_pairs_in_one_batch_are_the_same(recorder: ModuleType) -> None:
    """Pairs 0, 6, 12, 18 are of one size and one channel: together they give what each gives alone."""
    metric = shift_tolerant_lpips()
    a, b = (torch.cat(side) for side in zip(*(recorder.pair(n) for n in (0, 6, 12, 18)), strict=True))
    with torch.no_grad():
        together = metric(a, b)
        alone = torch.cat([metric(x[None], y[None]) for x, y in zip(a, b, strict=True)])
    torch.testing.assert_close(together, alone, atol=1e-6, rtol=1e-5)
