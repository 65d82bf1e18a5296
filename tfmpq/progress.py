"""How long work reports on itself; the command line supplies the pretty implementation."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Protocol


class Reporter(Protocol):
    """Receives progress of long work. Implementations write to stderr, never to stdout."""

    def log(self, message: str) -> None:
        """Say one line of text."""

    def start(self, stage: str, total: int) -> None:
        """Begin a stage of `total` steps (0 if nobody knows): `start("search", epochs * steps)`."""

    def advance(self, steps: int = 1, metrics: Mapping[str, float] | None = None) -> None:
        """Move the running stage on and show the newest metrics (loss, accuracy, bits, ...)."""

    def finish(self) -> None:
        """End the running stage."""


class SilentReporter:
    """Says nothing; the default of the Python API."""

    def log(self, message: str) -> None:
        """Ignore the message."""

    def start(self, stage: str, total: int) -> None:
        """Ignore the stage."""

    def advance(self, steps: int = 1, metrics: Mapping[str, float] | None = None) -> None:
        """Ignore the progress."""

    def finish(self) -> None:
        """Ignore the end."""


class PlainReporter(SilentReporter):
    """Prints messages, one a line, to stderr."""

    def log(self, message: str) -> None:
        """Print the message to stderr."""
        print(message, file=sys.stderr, flush=True)
