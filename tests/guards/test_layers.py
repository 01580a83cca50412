"""Imports go one way; and the check that says so does notice when they do not."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOTS = ("mri_minority", "pipelines/mri_minority_pipelines", "cli/mri_minority_cli")


def lint_imports(tree: Path) -> subprocess.CompletedProcess[str]:
    """Run import-linter on a tree, its own three source roots first on the path."""
    path = os.pathsep.join(str(tree / root) for root in (".", "pipelines", "cli"))
    run = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True))"
    return subprocess.run(
        [sys.executable, "-c", run],
        cwd=tree,
        env=os.environ | {"PYTHONPATH": path, "NO_COLOR": "1", "COLUMNS": "200", "PYTHONIOENCODING": "utf-8"},
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )


@pytest.fixture
def copy_of_tree(repository: Path, tmp_path: Path) -> Path:
    for root in ROOTS:
        shutil.copytree(
            repository / root, tmp_path / root, ignore=shutil.ignore_patterns("__pycache__", "*.safetensors")
        )
    shutil.copy(repository / "pyproject.toml", tmp_path)
    return tmp_path


def test_imports_go_one_way(repository: Path) -> None:
    result = lint_imports(repository)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "4 kept, 0 broken" in result.stdout


@pytest.mark.parametrize(
    ("file", "line", "contract"),
    [
        ("mri_minority/diffusion/kernel.py", "import nibabel", "pure maths does no IO"),
        ("mri_minority/minority/extra.py", "from pathlib import Path", "pure maths does no IO"),
        ("mri_minority/minority/extra.py", "import mri_minority.backbones.monai_unet", "pure maths does no IO"),
        ("mri_minority/core/errors.py", "import mri_minority.volumes", "rooms of the library are layered"),
        ("mri_minority/export/extra.py", "import mri_minority.evaluate", "rooms of the library are layered"),
        ("mri_minority/new_room/__init__.py", "", "rooms of the library are layered"),
        ("mri_minority/report/extra.py", "import rich", "only the CLI knows Typer"),
        ("pipelines/mri_minority_pipelines/extra.py", "import typer", "only the CLI knows Typer"),
        ("mri_minority/report/extra.py", "import mri_minority_pipelines", "one way: cli -> pipelines -> library"),
    ],
)
def test_a_wrong_import_is_noticed(copy_of_tree: Path, file: str, line: str, contract: str) -> None:
    spoilt = copy_of_tree / file
    spoilt.parent.mkdir(exist_ok=True)
    with spoilt.open("a", encoding="utf-8") as source:
        source.write(f"\n{line}\n")
    result = lint_imports(copy_of_tree)
    assert result.returncode == 1, result.stdout + result.stderr
    assert contract in result.stdout
    if line:
        assert f"{contract} BROKEN" in result.stdout
