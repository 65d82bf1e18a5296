"""What every way to a device offers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class Finished:
    """A command that ended by itself.

    Attributes:
        code: Its exit code; 128 + N after signal N, as shells count.
        stdout: What it wrote there.
        stderr: What it wrote there.
    """

    code: int
    stdout: str
    stderr: str


class Transport(Protocol):
    """A device with a work folder on it; a context manager, which makes the folder and removes it.

    Every method raises `DeviceError` where the device or the way to it fails.

    Attributes:
        name: The device, as `--on` names it.
        python: How Python is called there; empty where there is none.
        left_behind: Work folder that could not be removed at the end; empty otherwise.
    """

    name: str
    python: str
    left_behind: str

    def __enter__(self) -> Transport:
        """Connect and make the work folder."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove the work folder, end what still runs there, and disconnect."""

    def target(self) -> dict[str, Any]:
        """What the device is reached through, for the record: kind, address, client."""

    def push(self, path: Path) -> str:
        """Bring a file there, proved by its SHA-256; returns how commands in the work folder name it."""

    def pull(self, name: str, path: Path) -> None:
        """Fetch a file of the work folder."""

    def run(self, arguments: Sequence[str], timeout: float) -> Finished:
        """Run a program in the work folder, ended after `timeout` seconds or when this process goes away."""
