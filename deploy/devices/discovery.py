"""What devices can be reached, and what each lacks for measuring."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tfmpq.deploy.devices.android import device_facts
from tfmpq.deploy.devices.errors import (
    RUNNER_ERRORS,
    BenchmarkModelMissing,
    DeviceError,
    NoPip,
    NoPython,
    SetupFailed,
)
from tfmpq.deploy.devices.python_runner import PythonRunner
from tfmpq.deploy.devices.state import emulated
from tfmpq.deploy.devices.transports import Transport, transport
from tfmpq.deploy.devices.transports.adb import AdbTransport, adb_devices, find_adb
from tfmpq.deploy.devices.transports.ssh import SETUP_FOLDER, SshTransport
from tfmpq.errors import UsageError
from tfmpq.progress import Reporter, SilentReporter
from tfmpq.results import Result

SETUP_SECONDS = 900.0
# tflite-runtime is what there is for 32-bit ARM and older systems; it is built for NumPy 1.
_SETUP = (
    f'python3 -m venv "{SETUP_FOLDER}"',
    f'( "{SETUP_FOLDER}/bin/python" -m pip install numpy ai-edge-litert'
    f" || \"{SETUP_FOLDER}/bin/python\" -m pip install 'numpy<2' tflite-runtime )",
)


@dataclass(frozen=True, slots=True)
class Device:
    """One device.

    Attributes:
        target: As `--on` names it.
        state: `ready`, or the kind of what is amiss.
        machine: Processor architecture.
        board: What the board or phone calls itself.
        os: Operating system.
        cores: CPUs.
        python: Version of Python there.
        runtime: Name and version of the runtime there.
        emulated: Whether it says that it is an emulation.
        lacks: What is amiss and what to do, in one line; empty if ready.
    """

    target: str
    state: str
    machine: str | None = None
    board: str | None = None
    os: str | None = None
    cores: int | None = None
    python: str | None = None
    runtime: str | None = None
    emulated: bool | None = None
    lacks: str = ""


@dataclass(frozen=True, slots=True)
class Devices(Result, verb="devices"):
    """What was found.

    Attributes:
        devices: One for each.
    """

    devices: tuple[Device, ...]

    def to_json(self) -> dict[str, Any]:
        """A list of mappings in `devices`."""
        return {"devices": [asdict(device) for device in self.devices]}


def devices(
    on: Sequence[str] = (),
    *,
    setup: bool = False,
    python: str | None = None,
    ssh_config: str | Path | None = None,
    adb: str | Path | None = None,
    reporter: Reporter | None = None,
) -> Devices:
    """Look at devices.

    Args:
        on: Which, as `--on` names them; by default this machine and what adb sees.
        setup: Make a Python environment with the runtime on the ones behind ssh.
        python: How Python is called on them; by default found.
        ssh_config: Configuration file for ssh instead of the user's.
        adb: The adb client; by default found.
        reporter: Told what is run on devices.

    Raises:
        UsageError: A name is none, or there is nothing to set up.
        DeviceError: The setup failed.
    """
    reporter = reporter or SilentReporter()
    ways = [transport(name, python=python, ssh_config=ssh_config, adb=adb) for name in on]
    if setup:
        _set_up(ways, reporter)
    if on:
        return Devices(tuple(_look(way) for way in ways))
    found = [_look(transport("local", python=python))]
    try:
        serials = adb_devices(find_adb(adb))
    except DeviceError as error:
        found.append(Device("adb", error.kind, lacks=str(error)))
    else:
        found += [_look(transport(f"adb:{serial}", adb=adb)) for serial in serials]
    return Devices(tuple(found))


def _look(way: Transport) -> Device:
    """State of one device; its failures are part of the answer."""
    try:
        with way as device:
            if isinstance(device, AdbTransport) and not device.python:
                missing: DeviceError | None = BenchmarkModelMissing(device.name, "named when it measures")
                facts, runtime, ready = device_facts(device), None, True
            else:
                facts, runtime, missing = _probe(device)
                ready = missing is None
    except DeviceError as error:
        return Device(way.name, error.kind, lacks=str(error))
    return Device(
        target=way.name,
        state="ready" if ready or not missing else missing.kind,
        **{key: facts.get(key) for key in ("machine", "board", "os", "cores", "python")},
        runtime=f"{runtime['name']} {runtime['version']}" if runtime else None,
        emulated=emulated(facts),
        lacks=str(missing or ""),
    )


def _probe(device: Transport) -> tuple[dict[str, Any], dict[str, Any] | None, DeviceError | None]:
    """Facts, runtime and what is missing, of a device with Python."""
    said = PythonRunner(device).probe()
    problem = said["problem"]
    missing = RUNNER_ERRORS[problem["kind"]](device.name, problem["message"]) if problem else None
    return said["device"], said["runtime"], missing


def _set_up(ways: Sequence[Transport], reporter: Reporter) -> None:
    """Make the environment on every device behind ssh, and say with which commands."""
    machines = [way for way in ways if isinstance(way, SshTransport)]
    if not machines or len(machines) < len(ways):
        raise UsageError(
            f"--setup makes a Python environment on machines behind ssh. Received: "
            f"{', '.join(way.name for way in ways) or 'none'}. Name them with --on ssh:HOST."
        )
    for way in machines:
        with way as device:
            for command in _SETUP:
                reporter.log(f"{device.name}: {command}")
                done = device.script(command, SETUP_SECONDS)
                if done.code:
                    raise _setup_error(device.name, done.code, done.stdout + done.stderr)


def _setup_error(name: str, code: int, text: str) -> DeviceError:
    if re.search(r"ensurepip\s+is\s+not\s+available|No module named", text):  # Debian breaks the line
        return NoPip(
            name, next(line for line in text.splitlines() if "ensurepip" in line or "No mod" in line)
        )
    lines = [line for line in text.splitlines() if line.strip()] or ["it said nothing"]
    errors = [line for line in lines if line.startswith("ERROR")] or lines
    return (NoPython if code == 127 else SetupFailed)(name, errors[-1])
