"""Ways to a device: this machine, ssh, adb."""

from __future__ import annotations

from pathlib import Path

from tfmpq.deploy.devices.transports.adb import AdbTransport
from tfmpq.deploy.devices.transports.base import Finished, Transport
from tfmpq.deploy.devices.transports.local import LocalTransport
from tfmpq.deploy.devices.transports.ssh import SshTransport
from tfmpq.errors import UsageError

__all__ = ["Finished", "Transport", "transport"]


def transport(
    on: str,
    *,
    python: str | None = None,
    ssh_config: str | Path | None = None,
    adb: str | Path | None = None,
) -> Transport:
    """The way to a device.

    Args:
        on: `local`, `ssh:HOST`, `adb` or `adb:SERIAL`.
        python: How Python is called there; by default found. On Android, where there is none, the bundle of
            `make bundle` (`.tar`) that is brought there, or the path of one that is there.
        ssh_config: Configuration file for ssh.
        adb: The adb client; by default found.

    Raises:
        UsageError: `on` is none of them.
    """
    kind, _, address = on.partition(":")
    if on == "local":
        return LocalTransport(python)
    if kind == "ssh" and address:
        return SshTransport(address, Path(ssh_config) if ssh_config else None, python)
    if on == "adb" or (kind == "adb" and address):
        return AdbTransport(address or None, adb, python)
    raise UsageError(f"--on is local, ssh:HOST or adb[:SERIAL]. Received: '{on}'. Write --on ssh:pi.")
