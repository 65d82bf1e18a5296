"""Running and timing files on a device that has Python, by `runner.py`."""

from __future__ import annotations

import json
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tfmpq.deploy.devices.errors import RUNNER_ERRORS, Crashed, NoPython
from tfmpq.deploy.devices.protocol import Protocol
from tfmpq.deploy.devices.transports import Finished, Transport

PROGRAM = Path(__file__).with_name("pushed_runner.py")
PROBE_SECONDS = 300.0
_SLACK_SECONDS = 300.0
"""For starting Python, loading a file and the last inference."""


class PythonRunner:
    """Pushes `runner.py` and calls it.

    Args:
        device: An open way to the device.
    """

    source = "runner"

    def __init__(self, device: Transport) -> None:
        self.device = device
        self._program = device.push(PROGRAM)

    def probe(self) -> dict[str, Any]:
        """What the device is and which runtime it has: `device`, `runtime`, `problem`, `state`.

        Raises:
            DeviceError: There is no usable Python.
        """
        return self._call([], PROBE_SECONDS, "Python")

    def require_runtime(self) -> None:
        """Fail before anything large is copied.

        Raises:
            DeviceError: Python, NumPy or the runtime is missing, or for another processor.
        """
        if problem := self.probe()["problem"]:
            raise RUNNER_ERRORS[problem["kind"]](self.device.name, problem["message"])

    def measure(
        self, name: str, path: Path, threads: int, protocol: Protocol, affinity: str | None
    ) -> dict[str, Any]:
        """Time a pushed file in a fresh process.

        Args:
            name: How the device names it.
            path: How the user names it.
            threads: Threads of the runtime.
            protocol: How long.
            affinity: CPUs to keep to, as 0,1.

        Raises:
            DeviceError: The device, the way to it or the runtime fails.
        """
        arguments = [
            name,
            *("--threads", str(threads)),
            *("--runs", str(protocol.runs)),
            *("--seconds", str(protocol.seconds)),
            *("--limit", str(protocol.limit_seconds)),
            *("--warmup-runs", str(protocol.warmup_runs)),
            *("--warmup-seconds", str(protocol.warmup_seconds)),
            *(("--affinity", affinity) if affinity else ()),
        ]
        return self._call(arguments, 2 * protocol.limit_seconds + _SLACK_SECONDS, str(path))

    def infer(self, name: str, path: Path, inputs: str, outputs: str, limit: float) -> dict[str, Any]:
        """Run a pushed file on pushed inputs (.npy); the outputs are then in the work folder."""
        return self._call([name, "--inputs", inputs, "--outputs", outputs], limit, str(path))

    def _call(self, arguments: Sequence[str], timeout: float, what: str) -> dict[str, Any]:
        done = self.device.run([self.device.python, self._program, *arguments], timeout)
        return _result(done, self.device, what)


def _result(done: Finished, device: Transport, what: str) -> dict[str, Any]:
    """What the runner said, or the error that its silence means."""
    for line in reversed(done.stdout.splitlines()):
        mark, _, text = line.partition(" ")
        if mark == "TFMPQ_RESULT":
            return json.loads(text)
        if mark == "TFMPQ_ERROR":
            failure = json.loads(text)
            raise RUNNER_ERRORS[failure["kind"]](device.name, f"{what}: {failure['message']}")
    said = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
    if done.code in (126, 127) or "future feature annotations" in done.stderr:
        raise NoPython(device.name, f"{device.python}: {said}")
    raise Crashed(device.name, f"{what}: {how_it_ended(done.code)}: {said}")


def how_it_ended(code: int) -> str:
    """A shell's exit code in words."""
    try:
        return f"the runtime crashed with {signal.Signals(code - 128).name}"
    except ValueError:
        return f"the program stopped with exit code {code}"
