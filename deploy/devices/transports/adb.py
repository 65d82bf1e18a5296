"""Android devices behind the user's own adb; its environment (ADB_SERVER_SOCKET, ...) is handed on."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import subprocess
from pathlib import Path
from typing import Any

from tfmpq.deploy.devices.errors import (
    AdbServerUnreachable,
    AmbiguousDevice,
    ClientMissing,
    CopyFailed,
    DeviceError,
    LinkLost,
    NoDevice,
    NoSpace,
    Offline,
    Unauthorized,
)
from tfmpq.deploy.devices.transports.remote import CONTROL_SECONDS, COPY_SECONDS, RemoteTransport
from tfmpq.errors import UsageError

WORK_AREA = "/data/local/tmp"
"""The only place that adb may write to and execute from on an unrooted phone."""

BUNDLED = "./bundle/python"
"""Python in a work folder, where a bundle was unpacked."""

_STATES: dict[str, type[DeviceError]] = {
    "unauthorized": Unauthorized,
    "authorizing": Unauthorized,
    "offline": Offline,
    "connecting": Offline,
}
_LINES: tuple[tuple[str, type[DeviceError]], ...] = (
    (r"device unauthorized", Unauthorized),
    (r"device offline", Offline),
    (r"cannot connect to daemon|failed to start daemon", AdbServerUnreachable),
    (r"more than one device", AmbiguousDevice),
)
"""What adb writes, first match first; a device that was there and is gone is a lost link."""


def find_adb(adb: str | Path | None = None) -> str:
    """The adb client: the one given, `$ADB`, the PATH's, or that of `$ANDROID_HOME`.

    Raises:
        ClientMissing: There is none.
    """
    named = adb or os.environ.get("ADB")
    sdk = os.environ.get("ANDROID_HOME")
    found = shutil.which(str(named or "adb"))
    if not found and not named and sdk:
        found = shutil.which(str(Path(sdk, "platform-tools", "adb")))
    if not found:
        raise ClientMissing("adb", f"{named} is no program" if named else "there is no adb on the PATH")
    return found


def adb_devices(adb: str) -> dict[str, str]:
    """Serial numbers and states of what adb sees.

    Raises:
        AdbServerUnreachable: The adb server does not answer.
    """
    try:
        told = subprocess.run(
            [adb, "devices"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=CONTROL_SECONDS,
            env={**os.environ, "LC_ALL": "C"},
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise AdbServerUnreachable("adb", str(error)) from error
    if told.returncode:
        raise AdbServerUnreachable("adb", told.stderr or told.stdout)
    lines = [line.split("\t") for line in told.stdout.splitlines() if "\t" in line]
    return {fields[0]: fields[1].split()[0] for fields in lines}


class AdbTransport(RemoteTransport):
    """An Android device.

    Args:
        serial: Its serial number; None where only one is attached.
        adb: The client; by default found.
        python: A bundle (`.tar`, see docs/devices.md) that is brought there, or the path of one there.

    Raises:
        UsageError: The bundle is not here.
    """

    def __init__(
        self, serial: str | None = None, adb: str | Path | None = None, python: str | None = None
    ) -> None:
        self._bundle = Path(python) if python and python.endswith(".tar") else None
        if self._bundle and not self._bundle.is_file():
            raise UsageError(
                f"--python is a bundle for the phone. Received: {python}, which is no file. Check the path."
            )
        super().__init__(f"adb:{serial}" if serial else "adb", BUNDLED if self._bundle else python or "")
        self._serial, self._given = serial or os.environ.get("ANDROID_SERIAL"), adb
        self._adb = ""

    def target(self) -> dict[str, Any]:
        """Serial number and the client's version."""
        told = subprocess.run([self._adb, "version"], capture_output=True, text=True).stdout
        version = re.search(r"^Version (\S+)", told, re.MULTILINE)
        return {"kind": "adb", "address": self._serial, "client": f"adb {version[1]}" if version else None}

    def _connect(self) -> None:
        self._adb = find_adb(self._given)
        devices = adb_devices(self._adb)
        if not self._serial:
            if not devices:
                raise NoDevice(self.name, "no devices")
            if len(devices) > 1:
                raise AmbiguousDevice(self.name, ", ".join(devices))
            self._serial = next(iter(devices))
            self.name = f"adb:{self._serial}"
        state = devices.get(self._serial)
        if state is None:
            listed = ", ".join(devices) or "none"
            raise NoDevice(self.name, f"device '{self._serial}' not found; attached: {listed}")
        if state != "device":
            raise _STATES.get(state, Offline)(self.name, f"its state is {state}")

    def _disconnect(self) -> None:
        """Nothing: the adb server is the user's."""

    def _shell(self, script: str) -> list[str]:
        return [self._adb, "-s", str(self._serial), "shell", script]

    def _copy(self, source: str, target: str, push: bool) -> list[str]:
        return [self._adb, "-s", str(self._serial), "push" if push else "pull", source, target]

    def _make_folder(self) -> str:
        folder = f"{WORK_AREA}/tfmpq.{secrets.token_hex(4)}"
        return f"mkdir -m 700 {folder} && echo TFMPQ_DIR={folder}"

    def _open_folder(self) -> str:
        said = super()._open_folder()
        if self._bundle:
            self._unpack(self.push(self._bundle))
        return said

    def _unpack(self, name: str) -> None:
        """Unpack a tar file in the work folder; not compressed, because not every tar there knows how."""
        done = self.script(f"cd {self._folder} && tar -xf {name} && rm {name}", COPY_SECONDS)
        if done.code:
            text = done.stderr + done.stdout
            raise (NoSpace if "No space left" in text else CopyFailed)(self.name, text)

    def explain(self, code: int, text: str) -> DeviceError:
        """Read adb's messages; without a known one, the link broke."""
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        for pattern, error in _LINES:
            for line in lines:
                if re.search(pattern, line):
                    return error(self.name, line)
        return LinkLost(self.name, lines[-1] if lines else f"adb ended with exit code {code} without a word")
