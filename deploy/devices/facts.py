"""What a device and its runtime are now, to be compared with what was measured there before."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path
from typing import Any

from tfmpq.deploy.devices.android import device_facts
from tfmpq.deploy.devices.pushed_runner import RUNTIMES, device
from tfmpq.deploy.devices.python_runner import PythonRunner
from tfmpq.deploy.devices.transports import transport
from tfmpq.deploy.devices.transports.adb import AdbTransport


def present(on: str, ssh_config: str | Path | None = None) -> tuple[dict[str, Any] | None, dict[str, Any]]:
    """Runtime and facts of a device.

    Args:
        on: `local`, `ssh:HOST`, `adb` or `adb:SERIAL`.
        ssh_config: Configuration file for ssh instead of the user's.

    Returns:
        Name and version of the runtime, None where there is none or it does not tell; and the device.

    Raises:
        UsageError: `on` is none of them.
        DeviceError: The device cannot be reached.
    """
    if on == "local":
        return _installed(), device()
    with transport(on, ssh_config=ssh_config) as reached:
        if isinstance(reached, AdbTransport):
            return None, device_facts(reached)
        found = PythonRunner(reached).probe()
    return found["runtime"], found["device"]


def _installed() -> dict[str, str] | None:
    for name, _ in RUNTIMES:
        try:
            return {"name": name, "version": metadata.version(name)}
        except metadata.PackageNotFoundError:
            continue
    return None
