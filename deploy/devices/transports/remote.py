"""What ssh and adb have in common: a shell there, whose exit code cannot be trusted, and a work folder."""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn

from tfmpq.deploy.devices.errors import CopyFailed, DeviceError, LinkLost, NoSpace, TimedOut
from tfmpq.deploy.devices.transports.base import Finished

CONTROL_SECONDS = 60.0
"""For commands that only look or clean up."""
COPY_SECONDS = 600.0
_SENTINEL = re.compile(r"\n?^TFMPQ_RC=(\d+)\s*$", re.MULTILINE)

# The command gets no input. A watcher reads the input of the session instead: its end means that the client
# is gone, and then the command must go as well. It reads by itself, because a child that is left with the
# input keeps adbd waiting. The command is not put under `timeout`: that of toybox 0.8.9 sometimes says 127
# for programs that end at once.
_GUARDED = """cd {folder} || exit 1
exec 3<&0
( while read -r x; do :; done <&3; kill $(cat .pid) ) >/dev/null 2>&1 &
w=$!
sh -c 'echo $$ > .pid; exec "$@"' sh {command} </dev/null 3<&-
rc=$?
exec 2>/dev/null
kill -9 $w
echo
echo TFMPQ_RC=$rc"""

_CLEAN = """kill $(cat {folder}/.pid) 2>/dev/null
rm -rf -- {folder}"""


class RemoteTransport(ABC):
    """A device behind a client program of this machine.

    Args:
        name: The device, as `--on` names it.
        python: How Python is called there.
    """

    def __init__(self, name: str, python: str) -> None:
        self.name, self.python = name, python
        self.left_behind = ""
        self._folder = ""
        self._pushed = 0

    @abstractmethod
    def target(self) -> dict[str, Any]:
        """What the device is reached through."""

    @abstractmethod
    def _connect(self) -> None:
        """Reach the device, or say why not."""

    @abstractmethod
    def _disconnect(self) -> None:
        """Leave nothing of the connection behind; must not fail."""

    @abstractmethod
    def _shell(self, script: str) -> list[str]:
        """The client's command line that runs a script in the device's shell."""

    @abstractmethod
    def _copy(self, source: str, target: str, push: bool) -> list[str]:
        """The client's command line that copies a file there (push) or here."""

    @abstractmethod
    def _make_folder(self) -> str:
        """A script that makes a new folder and prints TFMPQ_DIR=folder."""

    @abstractmethod
    def explain(self, code: int, text: str) -> DeviceError:
        """The failure of the link that the client's exit code and messages mean."""

    def __enter__(self) -> RemoteTransport:
        self._folder = ""
        self._connect()
        try:
            self._open_folder()
        except BaseException as error:
            if self._folder:
                self.__exit__(type(error), error, None)
            else:
                self._disconnect()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.left_behind = "" if self._removed() else f"{self.name}:{self._folder}"
        if isinstance(error, DeviceError):
            error.left_behind = self.left_behind
        self._disconnect()

    def push(self, path: Path) -> str:
        """Copy a file into the work folder and compare its SHA-256 there."""
        self._refuse_large(path.stat().st_size)
        self._pushed += 1
        name = f"{self._pushed}_{re.sub(r'[^A-Za-z0-9._-]', '_', path.name)}"
        code, text = self._call_copy(self._copy(str(path), f"{self._folder}/{name}", push=True))
        if code:
            self._copy_failed(code, text, path.stat().st_size)
        told = self.script(f"sha256sum {self._folder}/{name}", COPY_SECONDS)
        if hashlib.sha256(path.read_bytes()).hexdigest() not in told.stdout:
            self._copy_failed(0, f"{path.name} arrived with another SHA-256", path.stat().st_size)
        return name

    def pull(self, name: str, path: Path) -> None:
        """Copy a file of the work folder here and compare its SHA-256."""
        code, text = self._call_copy(self._copy(f"{self._folder}/{name}", str(path), push=False))
        if code:
            self._copy_failed(code, text, 0)
        told = self.script(f"sha256sum {self._folder}/{name}", COPY_SECONDS)
        if hashlib.sha256(path.read_bytes()).hexdigest() not in told.stdout:
            raise CopyFailed(self.name, f"{name} came back with another SHA-256")

    def run(self, arguments: Sequence[str], timeout: float) -> Finished:
        """Run a program in the work folder."""
        script = _GUARDED.format(folder=self._folder, command=shlex.join(arguments))
        return self._finished(self._shell(script), timeout)

    def script(self, text: str, timeout: float) -> Finished:
        """Run lines of shell there.

        Raises:
            DeviceError: The link broke before they ended.
        """
        return self._finished(self._shell(f"{text}\nrc=$?\necho\necho TFMPQ_RC=$rc"), timeout)

    def _finished(self, argv: list[str], timeout: float) -> Finished:
        code, stdout, stderr = self._call(argv, timeout)
        ends = list(_SENTINEL.finditer(stdout.replace("\r\n", "\n")))
        if not ends:
            raise self.explain(code, f"{stderr}\n{stdout[-500:]}")
        text = stdout.replace("\r\n", "\n")
        return Finished(int(ends[-1][1]), text[: ends[-1].start()], stderr)

    def _call(self, argv: list[str], timeout: float) -> tuple[int, str, str]:
        """Run a client with an open input, in a group of its own, so that Ctrl-C ends it after us only."""
        reader, writer = os.pipe()
        try:
            process = subprocess.Popen(
                argv,
                stdin=reader,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
                text=True,
                errors="replace",
                env={**os.environ, "LC_ALL": "C"},
            )
        finally:
            os.close(reader)
        with process:  # its pipes are closed, however this ends
            try:
                stdout, stderr = process.communicate(timeout=timeout)
            except subprocess.TimeoutExpired as error:
                raise TimedOut(self.name, f"no result in {timeout:.0f} s") from error
            finally:
                os.close(writer)
                if process.poll() is None:
                    process.kill()
                    process.communicate()
        return process.returncode, stdout, stderr

    def _call_copy(self, argv: list[str]) -> tuple[int, str]:
        code, stdout, stderr = self._call(argv, COPY_SECONDS)
        return code, f"{stderr}\n{stdout}"

    def _open_folder(self) -> str:
        """Make the work folder; returns what the device said meanwhile."""
        done = self.script(self._make_folder(), CONTROL_SECONDS)
        made = re.search(r"^TFMPQ_DIR=(/[\w./-]+)$", done.stdout, re.MULTILINE)
        if not made:
            text = f"no work folder could be made: {done.stderr}"
            raise (NoSpace if "No space left" in text else CopyFailed)(self.name, text)
        self._folder = made[1]
        return done.stdout

    def _removed(self) -> bool:
        """Whether the work folder could be removed, if need be over a new connection."""
        clean = _CLEAN.format(folder=self._folder)
        for attempt in range(2):
            with suppress(DeviceError):
                if attempt:
                    self._disconnect()
                    self._connect()
                return self.script(clean, CONTROL_SECONDS).code == 0
        return False

    def _free_bytes(self) -> int | None:
        """Room in the work folder."""
        lines = self.script(f"df -Pk {self._folder}", CONTROL_SECONDS).stdout.splitlines()
        fields = lines[-1].split() if lines else []
        return 1024 * int(fields[3]) if len(fields) > 4 and fields[3].isdigit() else None

    def _refuse_large(self, size: int) -> None:
        free = self._free_bytes()
        if free is not None and free <= size:
            raise NoSpace(self.name, f"{free} bytes free in {self._folder}, {size} needed")

    def _copy_failed(self, code: int, text: str, size: int) -> NoReturn:
        """Say why a copy failed; clients are vague about full disks."""
        if "No space left" in text:
            raise NoSpace(self.name, text)
        explained = self.explain(code, text)
        if not isinstance(explained, LinkLost):
            raise explained
        try:
            self._refuse_large(size)
        except NoSpace:
            raise
        except DeviceError:
            raise explained from None  # the link is gone indeed
        raise CopyFailed(self.name, text)
