"""No file of the project names a folder of somebody's machine."""

import shutil
import subprocess
from pathlib import Path

import pytest

FOLDERS = ("tmp", "work", "root", "home")
FORBIDDEN = tuple(f"/{folder}/" for folder in FOLDERS)
"""Put together from pieces, so that this file passes its own check."""


def files_of_the_project(repository: Path) -> list[Path]:
    """Tracked files, and those that the next commit could add."""
    if shutil.which("git") is None or not (repository / ".git").exists():
        pytest.skip("not a git checkout: there is no list of the project's files")
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=repository,
        capture_output=True,
        check=True,
    )
    names = [name for name in listed.stdout.decode().split("\0") if name]
    return [repository / name for name in names if (repository / name).is_file()]


def machine_paths(text: str) -> list[tuple[int, str]]:
    """Line number and line of every place where such a folder is named."""
    return [(n, line) for n, line in enumerate(text.splitlines(), 1) if any(path in line for path in FORBIDDEN)]


def test_no_machine_paths(repository: Path) -> None:
    found = []
    for file in files_of_the_project(repository):
        try:
            text = file.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue  # an image or weights
        found += [f"{file.relative_to(repository)}:{n}: {line.strip()[:120]}" for n, line in machine_paths(text)]
    assert not found, "paths of a machine (use tmp_path, or a path relative to the repository):\n" + "\n".join(found)


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_guard_sees(folder: str) -> None:
    assert machine_paths(f"first\nopen('/{folder}/somebody/x')") == [(2, f"open('/{folder}/somebody/x')")]
