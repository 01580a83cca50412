"""Files appear whole or not at all: temporary name in the same folder, fsync, rename."""

import hashlib
import json
import os
import secrets
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from mri_minority.core.errors import DataError


def write_atomic(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a temporary file beside `path`, then put it in place.

    The file gets the permissions that the user's umask gives any new file, so a private folder stays private.

    Args:
        path: Where the file shall appear; its folder is made.
        write: Called with the temporary path; whatever it raises leaves nothing behind.

    Raises:
        DataError: The folder cannot be made or written to, or the disk is full. What was at `path` is untouched.
    """
    temporary = path.parent / f".partial-{secrets.token_hex(8)}{path.suffix}"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        try:
            write(temporary)
            _sync(temporary)
            os.replace(temporary, path)
        finally:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise DataError(
            f"expected to be able to write {shown(path)}, found: {reason}; check the folder, its permissions and the "
            "free space"
        ) from error


def write_bytes_atomic(path: Path, data: bytes) -> None:
    """Write bytes; see :func:`write_atomic`."""
    write_atomic(path, lambda temporary: _write_bytes(temporary, data))


def write_text_atomic(path: Path, text: str) -> None:
    """Write UTF-8 text with line feeds; see :func:`write_atomic`."""
    write_bytes_atomic(path, text.encode("utf-8"))


def write_json_atomic(path: Path, value: Any) -> None:
    """Write JSON with sorted keys, indented by two, so that equal values give equal bytes; see :func:`write_atomic`."""
    write_text_atomic(path, json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n")


def sha256_of(path: Path) -> str:
    """Hash of a file's bytes (hex), read in pieces.

    Raises:
        DataError: The file cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise DataError(f"expected a readable file at {shown(path)}, found: {reason}; check the path") from error


def shown(path: Path | str) -> str:
    """A path as one line of text: as it is when it can be printed, else quoted with its odd characters escaped."""
    text = str(path)
    return text if text.isprintable() else ascii(text)


def _write_bytes(path: Path, data: bytes) -> None:
    path.write_bytes(data)


def _sync(path: Path) -> None:
    """Wait until a file's bytes are on the disk, so that the rename never comes before them."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
