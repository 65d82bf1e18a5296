"""Whether the file that a result is about still has the bytes that it had."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path


def places(path: str, source: Path) -> tuple[Path, Path]:
    """Where the file of a result may be: where it was, and of its name beside the result.

    Args:
        path: The file, as the result has it.
        source: File of the result.
    """
    return Path(path), source.parent / Path(path).name


def digests(files: Iterable[Path]) -> list[str]:
    """SHA-256 of those files that can be read."""
    made = []
    for path in files:
        try:
            made.append(hashlib.sha256(path.read_bytes()).hexdigest())
        except OSError:
            continue
    return made


def replaced(sha256: str | None, files: Iterable[Path]) -> bool:
    """Whether files are at hand, but none with the bytes that a result is about; False if it records none."""
    if sha256 is None:
        return False
    found = digests(files)
    return bool(found) and sha256 not in found
