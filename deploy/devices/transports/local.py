"""This machine, as a device."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from tfmpq.deploy.devices.errors import NoPython, TimedOut
from tfmpq.deploy.devices.transports.base import Finished


class LocalTransport:
    """Runs programs here, in a temporary folder; files stay where they are.

    Args:
        python: The Python that runs models; this one by default.
    """

    name = "local"
    left_behind = ""

    def __init__(self, python: str | None = None) -> None:
        self.python = python or sys.executable

    def __enter__(self) -> LocalTransport:
        self._folder = Path(tempfile.mkdtemp(prefix="tfmpq."))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)

    def target(self) -> dict[str, Any]:
        """Only the kind."""
        return {"kind": "local", "address": None, "client": None}

    def push(self, path: Path) -> str:
        """Its absolute path."""
        return str(path.resolve())

    def pull(self, name: str, path: Path) -> None:
        """Copy a file of the work folder."""
        shutil.copyfile(self._folder / name, path)

    def run(self, arguments: Sequence[str], timeout: float) -> Finished:
        """Run a program; `subprocess` ends it where this process is interrupted."""
        try:
            done = subprocess.run(
                list(arguments),
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=timeout,
                text=True,
                errors="replace",
            )
        except subprocess.TimeoutExpired as error:
            raise TimedOut(self.name, f"no result in {timeout:.0f} s") from error
        except OSError as error:
            raise NoPython(self.name, f"{arguments[0]}: {error.strerror}") from error
        code = done.returncode if done.returncode >= 0 else 128 - done.returncode
        return Finished(code, done.stdout, done.stderr)
