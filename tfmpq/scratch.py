"""Temporary folders that are removed when nothing refers to them any more."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from pathlib import Path


class Scratch:
    """A temporary folder that lives as long as this object, and never longer than the process.

    Attributes:
        path: The folder.
    """

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="tfmpq-"))
        weakref.finalize(self, shutil.rmtree, self.path, ignore_errors=True)


def folder_or_scratch(out: str | Path | None) -> tuple[Path, tuple[Scratch, ...]]:
    """The folder `out`, or a temporary one and what keeps it."""
    if out is not None:
        return Path(out), ()
    scratch = Scratch()
    return scratch.path, (scratch,)
