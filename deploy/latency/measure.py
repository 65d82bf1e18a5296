"""Latency of `.tflite` files on this machine or on a device, several in alternation, in fresh processes."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from tfmpq.deploy.devices.benchmark_model import BenchmarkModel
from tfmpq.deploy.devices.protocol import PROTOCOLS, Protocol
from tfmpq.deploy.devices.python_runner import PythonRunner
from tfmpq.deploy.devices.transports import Transport, transport
from tfmpq.deploy.devices.transports.adb import AdbTransport
from tfmpq.deploy.latency.measurement import (
    Measurement,
    Measurements,
    OperatorTimes,
    compare,
    process_record,
    summarize,
)
from tfmpq.deploy.latency.operator_times import ProfiledProcess, operator_profile
from tfmpq.deploy.latency.profilers import NoProfiler, operator_profiler
from tfmpq.deploy.runtime.soundness import refuse_wrong_file
from tfmpq.errors import TfmpqError, UsageError
from tfmpq.files import write_json
from tfmpq.progress import Reporter, SilentReporter

DeviceProgram = BenchmarkModel | PythonRunner

PAUSE_SECONDS = 0.2
"""Between processes, so that the clocks settle."""


def measure(
    path: str | Path | Sequence[str | Path],
    *,
    on: str = "local",
    threads: int = 1,
    runs: int | None = None,
    affinity: str | None = None,
    protocol: str = "quick",
    python: str | None = None,
    ssh_config: str | Path | None = None,
    adb: str | Path | None = None,
    benchmark_model: str | Path | None = None,
    ops: bool = False,
    out: str | Path | None = None,
    reporter: Reporter | None = None,
) -> Measurements:
    """Measure a file, or several in alternation.

    Whatever slows the device down slows all files that are measured together. Each file is timed in
    several fresh processes; differences between files that are smaller than those between processes of one
    file are called none.

    Args:
        path: A `.tflite`, or several.
        on: The device: `local`, `ssh:HOST`, `adb` or `adb:SERIAL`.
        threads: Threads of the runtime.
        runs: Least number of timed runs of a process; by default the protocol's.
        affinity: CPUs that the process keeps to, as `0,1`.
        protocol: `quick` or `mlperf-like`.
        python: How Python is called on the device; by default found.
        ssh_config: Configuration file for ssh instead of the user's.
        adb: The adb client; by default found.
        benchmark_model: LiteRT's program of that name for the device; what measures on Android.
        ops: Measure single operators as well, in processes of their own under the runtime's profiler; where
            there is none, the result says why.
        out: File for the result as JSON.
        reporter: Told about progress.

    Raises:
        UsageError: A file is missing, or a value is out of range or unknown.
        DeviceError: The device, the way to it or the runtime fails.
        TfmpqError: A file has operators that the runtime answers with wrong numbers, or `out` cannot be
            written.
    """
    paths = [Path(path)] if isinstance(path, str | Path) else [Path(item) for item in path]
    plan = _plan(paths, threads, runs, protocol)
    way = transport(on, python=python, ssh_config=ssh_config, adb=adb)
    binary = binary_for(way, benchmark_model)
    found = _measure(paths, way, binary, plan, threads, affinity, ops, reporter or SilentReporter())
    if out is not None:
        _write(Path(out), found)
    return found


def measure_together(paths: Sequence[str | Path], **options: Any) -> tuple[Measurement, ...]:
    """The measurements of several files; arguments and errors are those of `measure`."""
    return measure(paths, **options).files


def _plan(paths: Sequence[Path], threads: int, runs: int | None, protocol: str) -> Protocol:
    """Check what was asked for."""
    if threads < 1 or (runs is not None and runs < 1):
        raise UsageError(
            f"Threads and runs are at least 1. Received: threads={threads}, runs={runs}. Raise them."
        )
    if protocol not in PROTOCOLS:
        raise UsageError(f"Protocols are {', '.join(PROTOCOLS)}. Received: '{protocol}'. Choose one.")
    if not paths:
        raise UsageError("At least one file is measured. Received: none. Name a .tflite.")
    for path in paths:
        if not path.is_file():
            raise UsageError(f"A file is measured. Received: {path}, which is none. Check the path.")
        refuse_wrong_file(path)
    return replace(PROTOCOLS[protocol], runs=runs) if runs else PROTOCOLS[protocol]


def binary_for(way: Transport, benchmark_model: str | Path | None) -> Path | None:
    """The program that was named, where it is of use.

    Raises:
        UsageError: It is of no use there, or no file.
    """
    if benchmark_model is None:
        return None
    if not isinstance(way, AdbTransport) or way.python:
        raise UsageError(
            "benchmark_model measures on Android, where there is no Python. Received: --benchmark-model with "
            f"--on {way.name}{' and --python' if isinstance(way, AdbTransport) else ''}. Leave it out."
        )
    if not Path(benchmark_model).is_file():
        raise UsageError(
            f"--benchmark-model is a program. Received: {benchmark_model}, which is none. Check the path."
        )
    return Path(benchmark_model)


def program_for(device: Transport, binary: Path | None) -> DeviceProgram:
    """What times files on an open device.

    Raises:
        DeviceError: There is nothing that could.
    """
    if isinstance(device, AdbTransport) and not device.python:
        return BenchmarkModel(device, binary)
    return PythonRunner(device)


def _measure(
    paths: Sequence[Path],
    way: Transport,
    binary: Path | None,
    plan: Protocol,
    threads: int,
    affinity: str | None,
    ops: bool,
    reporter: Reporter,
) -> Measurements:
    reporter.start("measure", plan.processes * len(paths))
    with way as device:
        program = program_for(device, binary)
        program.require_runtime()
        names = [device.push(path) for path in paths]
        raws: list[list[dict[str, Any]]] = [[] for _ in paths]
        records: list[list[dict[str, Any]]] = [[] for _ in paths]
        for index in range(plan.processes):
            for name, path, found, kept in zip(names, paths, raws, records, strict=True):
                time.sleep(PAUSE_SECONDS)
                started = datetime.now(timezone.utc).isoformat(timespec="seconds")
                found.append(program.measure(name, path, threads, plan, affinity))
                kept.append(process_record(found[-1], index, started, threads))
                reporter.advance()
        reporter.finish()
        profiles = (
            _profile(device, binary, dict(zip(names, paths, strict=True)), threads, affinity, reporter)
            if ops
            else {}
        )
        target = device.target()
    if way.left_behind:
        reporter.log(f"The work folder {way.left_behind} could not be removed.")
    facts: dict[str, Any] = {"threads": threads, "target": target, "source": program.source}
    files = tuple(
        replace(
            summarize(path, found, kept, protocol=plan, affinity=affinity, **facts),
            operators=profiles.get(path),
        )
        for path, found, kept in zip(paths, raws, records, strict=True)
    )
    return Measurements(files, compare(files))


def _profile(
    device: Transport,
    binary: Path | None,
    files: Mapping[str, Path],
    threads: int,
    affinity: str | None,
    reporter: Reporter,
) -> dict[Path, OperatorTimes]:
    """Times of the operators of each file, in several processes in turn, or why there are none."""
    plan = PROTOCOLS["quick"]
    profiler = operator_profiler(device, binary)
    processes: dict[str, list[ProfiledProcess]] = {name: [] for name in files}
    reasons: dict[str, str] = {}
    reporter.start("operators", plan.processes * len(files))
    for _ in range(plan.processes):
        for name in files:
            if name not in reasons:
                try:
                    processes[name].append(profiler.profile(name, threads, plan, affinity))
                except NoProfiler as error:
                    reasons[name] = str(error)
            reporter.advance()
    reporter.finish()
    found = {}
    for name, path in files.items():
        if name in reasons:
            found[path] = OperatorTimes(None, f"This runtime tells totals only: {reasons[name]}.")
            reporter.log(f"{path}: {found[path].note}")
        else:
            content = path.read_bytes()
            found[path] = OperatorTimes(
                operator_profile(content, processes[name], profiler.source, str(path))
            )
    return found


def _write(path: Path, found: Measurements) -> None:
    try:
        write_json(path, found.to_json())
    except OSError as error:
        raise TfmpqError(
            f"The result has to be written. Received: {path} ({error.strerror}). Choose another path."
        ) from error
