"""The command line answers at once, because nothing heavy is imported before a command runs."""

import json
import subprocess
import sys

import pytest

HEAVY = ("torch", "monai", "nibabel", "matplotlib", "numpy", "scipy", "skimage", "sklearn", "zarr", "pydicom", "PIL")
REPORT = f"import json, sys; print(json.dumps([m for m in {HEAVY!r} if m in sys.modules]), file=sys.stderr)"


def heavy_modules_after(code: str) -> list[str]:
    """Which heavy modules are loaded in a fresh interpreter after it ran the code."""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    loaded: list[str] = json.loads(result.stderr.splitlines()[-1])
    return loaded


def test_import_is_light() -> None:
    assert heavy_modules_after(f"import mri_minority_cli.app\n{REPORT}") == []


@pytest.mark.parametrize("arguments", [["--help"], ["synthesize", "--help"], ["recipes", "--help"]])
def test_help_is_light(arguments: list[str]) -> None:
    code = f"""
import sys
sys.argv = ["mri-minority", *{arguments!r}]
from mri_minority_cli.app import main
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
{REPORT}
"""
    assert heavy_modules_after(code) == []


def test_the_guard_sees() -> None:
    assert heavy_modules_after(f"import numpy\n{REPORT}") == ["numpy"]
