"""Runs and files that a verb is given, as a path or as the result of another verb."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tfmpq.errors import UsageError
from tfmpq.results import Result


def run_of(source: Any, what: str) -> Path:
    """The run folder of a path or of a result.

    Args:
        source: A path, or what `search`, `finetune` or `run` returned.
        what: What the verb takes, for the message.

    Raises:
        UsageError: It is neither.
    """
    if isinstance(source, str | Path):
        return Path(source)
    source = getattr(source, "finetune", source)
    found = getattr(source, "run", None) if isinstance(source, Result) else None
    if not isinstance(found, str):
        raise UsageError(f"{what} Received: {type(source).__name__}. Give one of these.")
    return Path(found)


def file_of(source: Any, what: str) -> Path:
    """The run folder or file of a path or of a result; of an export the file that it wrote.

    Raises:
        UsageError: It is neither.
    """
    written = getattr(source, "export", source)
    path = getattr(written, "path", None) if isinstance(written, Result) else None
    return Path(path) if isinstance(path, str) else run_of(source, what)


def kept_by(*sources: Any) -> tuple[Any, ...]:
    """What has to live as long as what is made from these: their temporary folders, the user's data."""
    return tuple(part for source in sources if isinstance(source, Result) for part in source.kept)
