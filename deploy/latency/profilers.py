"""Running profilers on a device: LiteRT's own where there is Python, benchmark_model's on Android."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from tfmpq.deploy.devices.benchmark_model import cpu_mask
from tfmpq.deploy.devices.protocol import Protocol as Plan
from tfmpq.deploy.devices.python_runner import how_it_ended
from tfmpq.deploy.devices.transports import Transport
from tfmpq.deploy.devices.transports.adb import AdbTransport
from tfmpq.deploy.devices.transports.remote import CONTROL_SECONDS
from tfmpq.deploy.latency.operator_times import ProfiledProcess, typical
from tfmpq.deploy.latency.partitions import Event
from tfmpq.errors import TfmpqError

PROGRAM = Path(__file__).with_name("pushed_profiler.py")
_SLACK_SECONDS = 120.0
_DELEGATED = 8
"""Type of the events of delegates, as `op_profiler.py` passes it on."""

_TITLE = "Operator-wise Profiling Info for Regular Benchmark Runs"
# Older builds have a column [start] before [first]; all end in [mem KB], [times called], [Name].
_ROW = re.compile(
    r"^\s*(?P<tag>\S.*?)\s{2,}(?:[\d.e+-]+\s+){1,2}(?P<ms>[\d.e+-]+)\s+[\d.]+%\s+[\d.]+%\s+[-\d.]+\s+"
    r"(?P<calls>\d+)\s+(?P<name>\S.*):(?P<index>\d+)\s*$"
)


class NoProfiler(TfmpqError):
    """A runtime does not tell the times of single operators."""


class OperatorProfiler(Protocol):
    """Times the operators of pushed files.

    Attributes:
        source: What it is called in results.
    """

    source: str

    def profile(self, name: str, threads: int, plan: Plan, affinity: str | None) -> ProfiledProcess:
        """Profile a pushed file in a fresh process.

        Args:
            name: How the device names it.
            threads: Threads of the runtime.
            plan: How long.
            affinity: CPUs to keep to, as 0,1.

        Raises:
            NoProfiler: The runtime tells no times of operators; the message says why.
            DeviceError: The device or the way to it fails.
        """


def operator_profiler(device: Transport, binary: Path | None) -> OperatorProfiler:
    """The profiler for an open device; `binary` is benchmark_model, for Android."""
    if isinstance(device, AdbTransport) and binary is not None:
        return BenchmarkModelProfiler(device, binary)
    return LiteRtProfiler(device)


class LiteRtProfiler:
    """Pushes `op_profiler.py` and calls it."""

    source = "LiteRT profiler"

    def __init__(self, device: Transport) -> None:
        self._device, self._program = device, device.push(PROGRAM)

    def profile(self, name: str, threads: int, plan: Plan, affinity: str | None) -> ProfiledProcess:
        """See `OperatorProfiler.profile`."""
        arguments = [
            *(self._device.python, self._program, name),
            *("--threads", str(threads)),
            *("--runs", str(plan.runs)),
            *("--seconds", str(plan.seconds)),
            *("--limit", str(plan.limit_seconds)),
            *(("--affinity", affinity) if affinity else ()),
        ]
        done = self._device.run(arguments, 2 * plan.limit_seconds + _SLACK_SECONDS)
        for line in reversed(done.stdout.splitlines()):
            mark, _, text = line.partition(" ")
            if mark == "TFMPQ_RESULT":
                return _litert_process(json.loads(text))
            if mark == "TFMPQ_ERROR":
                raise NoProfiler(json.loads(text)["message"])
        raise NoProfiler(f"{how_it_ended(done.code)} under the profiler")


def _litert_process(found: dict[str, Any]) -> ProfiledProcess:
    events = tuple(
        Event(
            event["tag"],
            event["type"] == _DELEGATED,
            event["index"],
            np.asarray(event["us"], np.float64),
        )
        for event in found["events"]
    )
    totals = np.asarray(found["invoke_us"], np.float64)
    outside = totals - np.sum([event.microseconds for event in events], axis=0)
    return ProfiledProcess(events, float(np.median(totals)) / 1e3, typical(outside) / 1e3, len(totals))


class BenchmarkModelProfiler:
    """Calls benchmark_model with its operator profiling on."""

    source = "benchmark_model --enable_op_profiling"

    def __init__(self, device: AdbTransport, binary: Path) -> None:
        self._device, self._program = device, f"./{device.push(binary)}"
        device.run(["chmod", "755", self._program], CONTROL_SECONDS)

    def profile(self, name: str, threads: int, plan: Plan, affinity: str | None) -> ProfiledProcess:
        """See `OperatorProfiler.profile`."""
        flags = {
            "graph": name,
            "num_threads": threads,
            "warmup_runs": plan.warmup_runs,
            "warmup_min_secs": plan.warmup_seconds,
            "num_runs": plan.runs,
            "min_secs": plan.seconds,
            "max_secs": plan.limit_seconds,
            "enable_op_profiling": "true",
        }
        arguments = [self._program, *(f"--{key}={value}" for key, value in flags.items())]
        if affinity:
            arguments = ["taskset", cpu_mask(affinity), *arguments]
        done = self._device.run(arguments, 2 * plan.limit_seconds + CONTROL_SECONDS)
        if done.code > 128:
            raise NoProfiler(f"{how_it_ended(done.code)} under the profiler")
        found = parse_operators(done.stdout + "\n" + done.stderr)
        if not found:
            raise NoProfiler("this benchmark_model prints no times of operators")
        return ProfiledProcess(found, math.nan, math.nan, plan.runs)


def parse_operators(text: str) -> tuple[Event, ...]:
    """Read the run order that benchmark_model prints; averages in milliseconds, a row for each name.

    Kernels of several partitions that have the same name and number share a row, whose average is that of
    one call.
    """
    _, _, text = text.partition(_TITLE)
    _, _, text = text.partition("Run Order")
    text, _, _ = text.partition("Top by Computation Time")
    return tuple(_events(text.splitlines()))


def _events(lines: Sequence[str]) -> list[Event]:
    found = []
    for line in lines:
        match = _ROW.match(line.replace("\t", "  "))
        if match:
            tag = match["tag"].strip()
            delegated = match["name"].startswith("Delegate/")
            microseconds = np.array([1e3 * float(match["ms"])])
            found.append(Event(tag, delegated, int(match["index"]), microseconds, int(match["calls"])))
    return found
