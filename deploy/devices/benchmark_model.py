"""Timing files on Android by LiteRT's `benchmark_model`, which the user supplies."""

from __future__ import annotations

import hashlib
import math
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tfmpq.deploy.devices.android import device_facts, device_state
from tfmpq.deploy.devices.errors import (
    BenchmarkModelMissing,
    Crashed,
    DeviceError,
    ModelInvalid,
    WrongBinary,
)
from tfmpq.deploy.devices.protocol import Protocol
from tfmpq.deploy.devices.python_runner import how_it_ended
from tfmpq.deploy.devices.transports.base import Finished
from tfmpq.deploy.devices.transports.remote import CONTROL_SECONDS, RemoteTransport

_NUMBER = r"([-+0-9.eE]+)"
_RESULT_FILE = "result.pb"
_LATENCY_FIELDS = (
    *("mean", "min", "max", "stddev", "p50", "p5", "p95"),
    *("init", "first_inference", "warmup_mean"),
)
_UNUSABLE = re.compile(r"not executable|Exec format error|inaccessible or not found|not found|cannot execute")


class BenchmarkModel:
    """Pushes `benchmark_model` and calls it.

    Args:
        device: An open way to an Android device.
        binary: The program.

    Raises:
        BenchmarkModelMissing: None was given.
    """

    source = "benchmark_model"

    def __init__(self, device: RemoteTransport, binary: Path | None) -> None:
        if binary is None:
            raise BenchmarkModelMissing(device.name, "no --benchmark-model")
        self.device = device
        self._sha256 = hashlib.sha256(binary.read_bytes()).hexdigest()
        self._program = f"./{device.push(binary)}"
        self._facts = device_facts(device)
        self._has_result_file = False

    def require_runtime(self) -> None:
        """Start it once, before files are copied; its help also tells whether it writes a result file.

        Raises:
            WrongBinary: It does not start.
        """
        self.device.run(["chmod", "755", self._program], CONTROL_SECONDS)
        done = self.device.run([self._program, "--help"], CONTROL_SECONDS)
        text = done.stdout + done.stderr
        if done.code in (126, 127) or (done.code and _UNUSABLE.search(text)):
            raise WrongBinary(self.device.name, f"{self._facts['abi']}: {text}")
        self._has_result_file = "result_file_path" in text

    def probe(self) -> dict[str, Any]:
        """What the device is, with the keys of `PythonRunner.probe`."""
        runtime = {"name": self.source, "version": None, "sha256": self._sha256}
        return {"device": self._facts, "runtime": runtime, "problem": None}

    def measure(
        self, name: str, path: Path, threads: int, protocol: Protocol, affinity: str | None
    ) -> dict[str, Any]:
        """Time a pushed file in a fresh process; arguments and errors are those of `PythonRunner.measure`."""
        before = device_state(self.device)
        flags = {
            "graph": name,
            "num_threads": threads,
            "warmup_runs": protocol.warmup_runs,
            "warmup_min_secs": protocol.warmup_seconds,
            "num_runs": protocol.runs,
            "min_secs": protocol.seconds,
            "max_secs": protocol.limit_seconds,
        }
        if self._has_result_file:
            flags["result_file_path"] = _RESULT_FILE
        arguments = [self._program, *(f"--{key}={value}" for key, value in flags.items())]
        if affinity:
            arguments = ["taskset", cpu_mask(affinity), *arguments]
        done = self.device.run(arguments, 2 * protocol.limit_seconds + CONTROL_SECONDS)
        return self._record(done, path, before)

    def _record(self, done: Finished, path: Path, before: dict[str, Any]) -> dict[str, Any]:
        found = parse_text(done.stdout + "\n" + done.stderr)
        if done.code or found is None:
            raise self._refusal(done, path)
        if self._has_result_file:
            written = self.device.run(["od", "-An", "-v", "-tx1", _RESULT_FILE], CONTROL_SECONDS)
            found = merge(found, parse_result(bytes.fromhex("".join(written.stdout.split()))))
        content = path.read_bytes()
        return {
            "model": {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()},
            "runtime": self.probe()["runtime"],
            "device": self._facts,
            **found,
            "latency_ms_raw": [],
            "warmup_ms_raw": [],
            "cpu_seconds_over_wall": None,
            "state_before": before,
            "state_after": device_state(self.device),
        }

    def _refusal(self, done: Finished, path: Path) -> DeviceError:
        lines = [line for line in (done.stderr + "\n" + done.stdout).splitlines() if line.strip()]
        errors = [line for line in lines if "ERROR" in line or "Failed" in line]
        said = (errors or lines or ["it said nothing"])[-1].strip()
        if done.code > 128:
            return Crashed(self.device.name, f"{path}: {how_it_ended(done.code)}: {said}")
        return ModelInvalid(self.device.name, f"{path}: {said}")


def cpu_mask(cpus: str) -> str:
    """CPUs as `taskset` on Android wants them, in hexadecimal: 4,5 is 30."""
    return f"{sum(1 << int(cpu) for cpu in set(cpus.split(','))):x}"


def parse_text(text: str) -> dict[str, Any] | None:
    """Read what benchmark_model prints, in microseconds; only newer builds print percentiles.

    Returns:
        Times in milliseconds: `latency_ms`, `warmup_ms`, `load_ms`, `allocate_ms`, `first_inference_ms`, and
        `memory_kb`, `delegate_partitions`; None without a result.
    """
    phases = [_phase(line) for line in re.findall(r"(count=\d.*)", text)]
    summary = dict(re.findall(rf"(Init|First inference|Inference \(avg\)): {_NUMBER}", text))
    if not phases or "Inference (avg)" not in summary:
        return None
    memory = re.search(rf"Memory footprint delta.*overall={_NUMBER}", text)
    partitions = re.search(r"yielding (\d+) partitions", text)
    return {
        "latency_ms": phases[-1],
        "warmup_ms": phases[0] if len(phases) > 1 else None,
        "load_ms": float(summary["Init"]) / 1000 if "Init" in summary else math.nan,
        "allocate_ms": 0.0,
        "first_inference_ms": float(summary.get("First inference", math.nan)) / 1000,
        "memory_kb": {"delta": round(float(memory[1]) * 1024)} if memory else None,
        "delegate_partitions": int(partitions[1]) if partitions else None,
    }


def _phase(line: str) -> dict[str, Any]:
    """One line `count=50 first=.. curr=.. min=.. max=.. avg=.. std=.. [p5=.. median=.. p95=..]`.

    A single run, and runs that all took as long, are printed as `curr` alone.
    """
    said = {key: float(value) for key, value in re.findall(rf"(\w+)={_NUMBER}", line)}
    if "avg" not in said:
        said |= {key: said["curr"] for key in ("min", "max", "avg", "median")} | {"std": 0.0}
    names = {
        "min": "min",
        "p5": "p5",
        "p50": "median",
        "p95": "p95",
        "max": "max",
        "mean": "avg",
        "stddev": "std",
    }
    times = {ours: said[theirs] / 1000 if theirs in said else None for ours, theirs in names.items()}
    return {"count": int(said["count"]), **times}


def merge(found: dict[str, Any], written: dict[str, dict[int, float]]) -> dict[str, Any]:
    """Let the numbers of the result file, which are not rounded, take the place of printed ones."""
    latency = {_LATENCY_FIELDS[key - 1]: value for key, value in written.get("latency", {}).items()}
    ours = {key: latency[key] for key in _LATENCY_FIELDS[:7] if key in latency}
    load, first = latency.get("init"), latency.get("first_inference")
    return {
        **found,
        "latency_ms": {**found["latency_ms"], **ours},
        "load_ms": found["load_ms"] if load is None else load,
        "first_inference_ms": found["first_inference_ms"] if first is None else first,
    }


def parse_result(content: bytes) -> dict[str, dict[int, float]]:
    """Read `--result_file_path`: the protobuf message tflite.tools.benchmark.BenchmarkResult.

    Returns:
        Fields by number of `latency` (2; milliseconds), `memory` (3) and `misc` (4), as far as there.
    """
    parts = {2: "latency", 3: "memory", 4: "misc"}
    found: dict[str, dict[int, float]] = {}
    try:
        for number, value in _fields(content):
            if number in parts and isinstance(value, bytes):
                numbers = {key: item for key, item in _fields(value) if not isinstance(item, bytes)}
                found[parts[number]] = numbers
    except (IndexError, struct.error, ValueError):
        return {}  # cut short; the printed numbers remain
    return found


def _fields(content: bytes) -> Iterator[tuple[int, float | bytes]]:
    """Number and value of the fields of a protobuf message (https://protobuf.dev/programming-guides/encoding)."""
    position = 0
    while position < len(content):
        tag, position = _varint(content, position)
        kind = tag & 7
        if kind == 0:
            value, position = _varint(content, position)
            yield tag >> 3, value
        elif kind in (1, 5):
            size, code = (8, "<d") if kind == 1 else (4, "<f")
            yield tag >> 3, struct.unpack(code, content[position : position + size])[0]
            position += size
        elif kind == 2:
            size, position = _varint(content, position)
            if position + size > len(content):
                raise ValueError("a field ends behind the message")
            yield tag >> 3, content[position : position + size]
            position += size
        else:
            raise ValueError(f"wire type {kind}")


def _varint(content: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = content[position]
        value |= (byte & 127) << shift
        position, shift = position + 1, shift + 7
        if not byte & 128:
            return value, position
