"""What devices can be reached."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tfmpq.api.device_options import DeviceOptions
from tfmpq.bars import reporting
from tfmpq.deploy.devices import discovery
from tfmpq.deploy.devices.discovery import Devices
from tfmpq.progress import Reporter


def devices(
    on: str | Sequence[str] = (),
    *,
    setup: bool = False,
    options: DeviceOptions | None = None,
    progress: bool | Reporter | None = None,
    **changes: Any,
) -> Devices:
    """List devices, and what each lacks for measuring.

    Args:
        on: `local`, `ssh:HOST`, `adb[:SERIAL]`, or several; none for this machine and what adb sees.
        setup: Make a Python environment on machines behind ssh.
        options: All other options.
        progress: True shows progress, False none, None only on terminals and in IPython; or a reporter.
        **changes: Single options, such as `ssh_config=PATH`; see `tfmpq.DeviceOptions`.

    Raises:
        UsageError: A device is none of these, or cannot be set up.
        DeviceError: The setting up fails.
    """
    chosen = DeviceOptions.of(options, changes)
    targets = (on,) if isinstance(on, str) else tuple(on)
    with reporting(progress) as reporter:
        return discovery.devices(targets, setup=setup, **chosen.values, reporter=reporter)
