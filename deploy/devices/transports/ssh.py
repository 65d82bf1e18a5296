"""Devices behind the user's own ssh: configuration, agent, jump hosts and known hosts as they are."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from tfmpq.deploy.devices.errors import (
    AuthFailed,
    ClientMissing,
    DeviceError,
    HostKeyChanged,
    HostKeyUnknown,
    LinkLost,
    Unreachable,
)
from tfmpq.deploy.devices.transports.remote import CONTROL_SECONDS, RemoteTransport
from tfmpq.errors import UsageError

_LINES: tuple[tuple[str, type[DeviceError]], ...] = (
    (r"HOST IDENTIFICATION HAS CHANGED", HostKeyChanged),
    (r"host key is known for|Host key verification failed", HostKeyUnknown),
    (r"Permission denied \(|Too many authentication failures", AuthFailed),
    (r"Could not resolve hostname|Connection refused|No route to host|is unreachable", Unreachable),
    (r"Connection timed out|timed out during banner|Operation timed out", Unreachable),
    (r"Bad configuration option|Can't open user config file|terminating, \d+ bad", Unreachable),
)
"""What OpenSSH's client writes, first match first."""

_CANNOT_SHARE = re.compile(
    r"getsockname failed|Not a socket|multiplexing .*not supported|unknown option -- [MS]", re.IGNORECASE
)
"""What clients say that have no sharing of connections: Windows' OpenSSH, and builds without sockets."""

_NOISE = re.compile(r"^(@|Warning: Permanently added|mux_client|Control socket)")
_OUR_SETTINGS = {
    # Only where the user's configuration says nothing: (value of an unset option, what is used then).
    "connecttimeout": ("none", ("-o", "ConnectTimeout=10")),
    "serveraliveinterval": ("0", ("-o", "ServerAliveInterval=5", "-o", "ServerAliveCountMax=3")),
}

SETUP_FOLDER = "$HOME/.local/share/tfmpq/venv"
"""Where `tfmpq devices --setup` makes an environment on a device."""


class SshTransport(RemoteTransport):
    """A Linux machine that is reached by ssh.

    Args:
        address: `HOST` or `USER@HOST`; HOST may be an alias of the ssh configuration.
        config: Another configuration file, handed on as `ssh -F`.
        python: How Python is called there; by default the one of `devices --setup`, else `python3`.

    Raises:
        UsageError: The address is none.
    """

    def __init__(self, address: str, config: Path | None = None, python: str | None = None) -> None:
        if not re.fullmatch(r"(?!-)[\w.@:%-]+", address):
            raise UsageError(
                f"--on ssh:HOST names a host or user@host. Received: '{address}'. Write --on ssh:pi."
            )
        super().__init__(f"ssh:{address}", python or "python3")
        self._address, self._default_python = address, python is None
        self._options = ["-F", str(config)] if config else []
        self._options += ["-o", "BatchMode=yes"]
        self._master: subprocess.Popen[bytes] | None = None
        self._sockets: tempfile.TemporaryDirectory[str] | None = None
        self._settings: dict[str, str] | None = None
        self._can_share = os.name == "posix"

    def target(self) -> dict[str, Any]:
        """The address, what the configuration makes of it, and the client's version."""
        settings = self._settings or {}
        version = subprocess.run(["ssh", "-V"], capture_output=True, text=True).stderr.strip()
        told = {
            "kind": "ssh",
            "address": self._address,
            "host": settings.get("hostname"),
            "client": version.partition(",")[0],
        }
        if not self._can_share:
            told["connections"] = "one for each command, since this client shares none; each logs in anew"
        return told

    def _connect(self) -> None:
        if self._settings is None:
            self._settings = self._read_settings()
            for key, (unset, options) in _OUR_SETTINGS.items():
                if self._settings.get(key, unset) == unset:
                    self._options += options
        # A connection that the user shares already may have been opened by hand with a password.
        if self._settings.get("controlpath", "none") == "none" and self._can_share:
            self._start_master()

    def _read_settings(self) -> dict[str, str]:
        """The configuration as the user's client understands it for this host."""
        try:
            told = subprocess.run(
                ["ssh", *self._options, "-G", self._address], capture_output=True, text=True, timeout=30
            )
        except FileNotFoundError as error:
            raise ClientMissing(self.name, "there is no ssh on the PATH") from error
        except subprocess.TimeoutExpired as error:
            raise Unreachable(self.name, "ssh -G does not end") from error
        if told.returncode:
            raise self.explain(told.returncode, told.stderr)
        return dict(line.split(" ", 1) for line in told.stdout.splitlines() if " " in line)

    def _start_master(self) -> None:
        """One connection for all that follows: one login, and one place where its end is reported."""
        self._sockets = tempfile.TemporaryDirectory(prefix="tfmpq-")
        socket = Path(self._sockets.name, "s")
        log = Path(self._sockets.name, "log")
        with log.open("wb") as stderr:
            self._master = subprocess.Popen(
                # Not -N: cat ends with its input, so the connection ends when this process does, anyhow.
                ["ssh", *self._options, "-M", "-S", str(socket), "-T", self._address, "cat >/dev/null"],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=stderr,
                start_new_session=True,
                env={**os.environ, "LC_ALL": "C"},
            )
        end = time.monotonic() + CONTROL_SECONDS
        while not socket.exists():
            if self._master.poll() is not None or time.monotonic() > end:
                said = (
                    log.read_text(encoding="utf-8", errors="replace")
                    or f"no connection in {CONTROL_SECONDS:.0f} s"
                )
                error = self.explain(255, said)
                self._disconnect()
                if _CANNOT_SHARE.search(said):
                    self._can_share = False
                    return
                raise error
            time.sleep(0.01)

    def _disconnect(self) -> None:
        if self._master is not None:
            self._master.terminate()
            if self._master.stdin:
                self._master.stdin.close()
            try:
                self._master.wait(5)
            except subprocess.TimeoutExpired:
                self._master.kill()
                self._master.wait()
            self._master = None
        if self._sockets is not None:
            self._sockets.cleanup()
            self._sockets = None

    def _shared(self) -> list[str]:
        if self._sockets is None:
            return self._options
        return [*self._options, "-o", f"ControlPath={self._sockets.name}/s", "-o", "ControlMaster=no"]

    def _shell(self, script: str) -> list[str]:
        # Through sh, because the login shell may be fish or csh; only single quotes are the same in all.
        quoted = "'" + script.replace("'", "'\\''") + "'"
        return ["ssh", *self._shared(), "-T", self._address, f"exec sh -c {quoted}"]

    def _copy(self, source: str, target: str, push: bool) -> list[str]:
        user, at, host = self._address.rpartition("@")
        there = f"{user}{at}[{host}]:" if ":" in host else f"{self._address}:"
        ends = [source, there + target] if push else [there + source, target]
        return ["scp", "-q", *self._shared(), *ends]

    def _make_folder(self) -> str:
        return (
            f'p="{SETUP_FOLDER}/bin/python"; [ -x "$p" ] && echo "TFMPQ_PYTHON=$p"; '
            'umask 077; d=$(mktemp -d "${TMPDIR:-/tmp}/tfmpq.XXXXXXXX") && echo "TFMPQ_DIR=$d"'
        )

    def _open_folder(self) -> str:
        said = super()._open_folder()
        if self._default_python and (found := re.search(r"^TFMPQ_PYTHON=(.+)$", said, re.MULTILINE)):
            self.python = found[1]
        return said

    def explain(self, code: int, text: str) -> DeviceError:
        """Read OpenSSH's messages; without a known one, the link broke."""
        if self._sockets is not None and (log := Path(self._sockets.name, "log")).exists():
            text += "\n" + log.read_text(encoding="utf-8", errors="replace")
        lines = [line.strip() for line in text.splitlines()]
        for pattern, error in _LINES:
            for line in lines:
                if re.search(pattern, line):
                    return error(self.name, line.strip("@ "))
        said = [line for line in lines if line and not _NOISE.match(line)]
        return LinkLost(self.name, said[-1] if said else f"ssh ended with exit code {code}")
