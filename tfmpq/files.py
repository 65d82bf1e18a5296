"""Files that are never half-written, and JSON read back with a clear error."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tfmpq.errors import TfmpqError

_TEMPORARY = ".tmp-"
"""What the names of unfinished files contain."""


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Have `write` fill a temporary file beside `path`, then move it there: nothing half-written is seen."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}{_TEMPORARY}", suffix=path.suffix)
    os.close(handle)
    temporary = Path(name)
    try:
        write(temporary)
        temporary.chmod(0o644)
        # The name must not reach the disk before the content does.
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def refuse_unwritable(path: Path) -> None:
    """Refuse a place where no file can be written, before long work.

    Raises:
        TfmpqError: The folder, or the first one above it that is there, cannot be written to.
    """
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise TfmpqError(
            f"Results need a folder that can be written to. Received: {path}, in {folder}, which cannot. "
            "Name another path."
        )


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""

    def write(temporary: Path) -> None:
        temporary.write_text(text, encoding="utf-8")

    write_atomically(path, write)


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically."""
    write_text(path, json.dumps(value, indent=2, sort_keys=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file of a run folder.

    Raises:
        TfmpqError: Missing or damaged.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise TfmpqError(
            f"A run folder holds '{path.name}'. Received: {path.parent}, which has none."
        ) from error
    except (ValueError, OSError) as error:
        raise TfmpqError(f"'{path.name}' of a run folder is JSON. Received: {path}: {error}.") from error
