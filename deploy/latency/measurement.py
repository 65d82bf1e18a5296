"""Measured latency: of one file, and of several compared."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np

from tfmpq.deploy.devices.protocol import Protocol
from tfmpq.deploy.devices.state import drift, emulated, state_warnings
from tfmpq.deploy.latency.operator_times import OperatorProfile
from tfmpq.results import Result

SCHEMA_VERSION = 1
Verdict = Literal["faster", "slower", "none"]
_SPREAD, _COARSE_MS = 0.1, 0.02
_TOO_SHORT = (
    "most operators are too short for the profiler's whole microseconds: no shares are shown, and what they "
    "take counts as outside of operators"
)


@dataclass(frozen=True, slots=True)
class OperatorTimes:
    """What a profiler told of a file, or why none did.

    Attributes:
        profile: Times by operator and by layer; None without a profiler.
        note: Why there is none; empty if there is one.
    """

    profile: OperatorProfile | None
    note: str = ""

    def to_json(self, emulated: bool, median_ms: float) -> dict[str, Any]:
        """`ops`, by layer, null for the times of an emulation; and `ops_note`, why they or shares are null.

        Args:
            emulated: Whether the device is an emulation.
            median_ms: The file without a profiler; NaN where it is not told.
        """
        if self.profile is None or emulated:
            return {
                "ops": None,
                "ops_note": self.note or "the device is an emulation: its times are no latency",
            }
        return {
            "ops": self.profile.to_json(median_ms),
            "ops_note": _TOO_SHORT if self.profile.too_short else None,
        }


@dataclass(frozen=True, slots=True)
class Measurement(Result, verb="measure"):
    """Latency of one file; times in milliseconds, of single inferences of batch size 1.

    Attributes:
        path: The file.
        bytes: Its size.
        sha256: Its digest.
        median_ms: Median, over all processes; NaN (null in JSON) for what a tool does not tell.
        p10_ms: 10th percentile; `p90_ms`, `p95_ms` and `p99_ms` likewise.
        min_ms: Fastest run.
        max_ms: Slowest run.
        mean_ms: Mean.
        stddev_ms: Standard deviation.
        process_medians_ms: Median of each process.
        spread: (largest - smallest) / median of the processes' medians.
        runs: Number of timed runs.
        warmup_runs: Number of runs before, dropped.
        threads: Threads of the runtime; None where the tool does not tell.
        runtime: Its name and version.
        delegate_partitions: Partitions that XNNPACK took; None where the runtime does not tell.
        device: Machine, CPU, cores, operating system.
        load_ms: Reading the file, applying the delegate and allocating tensors.
        first_inference_ms: The first run.
        memory_kb: Most memory of a process beyond what it had before it read the file.
        target: What the device is reached through.
        source: What timed it, `runner` or `benchmark_model`.
        emulated: Whether the device is an emulation, whose times are no latency: JSON has null for them.
        protocol: How it was measured.
        warnings: Reasons to doubt the numbers.
        processes: Per process: all samples, statistics, memory, state of the device before and after.
        operators: Times of single operators; None where they were not asked for.
    """

    path: str
    bytes: int
    sha256: str
    median_ms: float
    p10_ms: float
    p90_ms: float
    p95_ms: float
    p99_ms: float
    min_ms: float
    max_ms: float
    mean_ms: float
    stddev_ms: float
    process_medians_ms: tuple[float, ...]
    spread: float
    runs: int
    warmup_runs: int
    threads: int
    runtime: dict[str, Any]
    delegate_partitions: int | None
    device: dict[str, Any]
    load_ms: float
    first_inference_ms: float
    memory_kb: int | None
    target: dict[str, Any]
    source: str
    emulated: bool
    protocol: dict[str, Any]
    warnings: tuple[str, ...]
    processes: tuple[dict[str, Any], ...] = field(repr=False)
    operators: OperatorTimes | None = field(default=None, repr=False)

    def to_json(self) -> dict[str, Any]:
        """All fields but the processes; null for the times of an emulation."""
        shown = {
            key: value for key, value in Result.to_json(self).items() if key not in ("processes", "operators")
        }
        shown = {key: None if _unknown(value) else value for key, value in shown.items()}
        if self.emulated:
            shown |= {key: None for key in shown if key.endswith("_ms") or key in ("spread", "memory_kb")}
        if self.operators is not None:
            shown |= self.operators.to_json(self.emulated, self.median_ms)
        return {"schema_version": SCHEMA_VERSION, **shown, "energy": None}


@dataclass(frozen=True, slots=True)
class Comparison(Result):
    """One file against the first.

    Attributes:
        path: The file.
        reference: The first file.
        ratio: Its latency over the first one's: the median over pairs of neighbouring processes.
        lowest: Smallest of those ratios.
        highest: Largest of them.
        spread: The larger of the two files' spreads between processes.
        verdict: `faster`, `slower`, or `none` where the difference is within the spread; None for emulations.
    """

    path: str
    reference: str
    ratio: float
    lowest: float
    highest: float
    spread: float
    verdict: Verdict | None

    def to_json(self) -> dict[str, Any]:
        """All fields."""
        shown = Result.to_json(self)
        if self.verdict is None:
            shown |= {key: None for key in ("ratio", "lowest", "highest", "spread")}
        return shown


@dataclass(frozen=True, slots=True)
class Measurements(Result, verb="measure"):
    """Files that were measured together.

    Attributes:
        files: One for each.
        comparisons: Each but the first against the first.
    """

    files: tuple[Measurement, ...]
    comparisons: tuple[Comparison, ...]

    def __iter__(self) -> Iterator[Measurement]:
        return iter(self.files)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Measurement:
        return self.files[index]

    def to_json(self) -> dict[str, Any]:
        """One file: its fields and processes; several: those in `files`, and `comparisons`."""
        documents = [{**file.to_json(), "processes": list(file.processes)} for file in self.files]
        if len(documents) == 1:
            return documents[0]
        return {"files": documents, "comparisons": [item.to_json() for item in self.comparisons]}


def statistics(times: Sequence[float] | np.ndarray) -> dict[str, Any] | None:
    """Count, percentiles, mean and deviation of times; None without any."""
    if not len(times):
        return None
    values = np.asarray(times, np.float64)
    names = ("min", "p5", "p10", "p50", "p90", "p95", "p99", "max")
    points = np.percentile(values, (0, 5, 10, 50, 90, 95, 99, 100))
    return {
        "count": int(values.size),
        **{name: float(point) for name, point in zip(names, points, strict=True)},
        "mean": float(values.mean()),
        "stddev": float(values.std(ddof=1)) if values.size > 1 else 0.0,
    }


def process_record(raw: Mapping[str, Any], index: int, started_at: str, threads: int) -> dict[str, Any]:
    """One process of the result file, from what the runner said.

    Args:
        raw: The runner's answer.
        index: Which process of this file it was.
        started_at: ISO 8601.
        threads: Threads of the runtime.
    """
    times = raw["latency_ms_raw"]
    record = {
        "process_index": index,
        "started_at": started_at,
        **{key: raw[key] for key in ("load_ms", "allocate_ms", "first_inference_ms")},
        "warmup_ms": raw.get("warmup_ms") or statistics(raw["warmup_ms_raw"]),
        "latency_ms": raw.get("latency_ms") or statistics(times),
        "latency_ms_raw": times,
        "drift_last_over_first_quarter": drift(times),
        **{key: raw[key] for key in ("cpu_seconds_over_wall", "memory_kb", "state_before", "state_after")},
    }
    return {**record, "warnings": state_warnings(record, threads)}


def summarize(
    path: Path,
    raws: Sequence[Mapping[str, Any]],
    processes: Sequence[dict[str, Any]],
    *,
    threads: int,
    target: dict[str, Any],
    source: str,
    protocol: Protocol,
    affinity: str | None,
) -> Measurement:
    """What the processes of one file say together.

    Args:
        path: The file.
        raws: The runner's answers.
        processes: Their records.
        threads: Threads of the runtime.
        target: What the device is reached through.
        source: What timed it.
        protocol: How it was measured.
        affinity: CPUs that were kept to.
    """
    times = np.concatenate([np.asarray(record["latency_ms_raw"], np.float64) for record in processes])
    found = statistics(times) or _without_samples([record["latency_ms"] for record in processes])
    medians = tuple(_typical(record["latency_ms"]) for record in processes)
    device = dict(raws[0]["device"])
    return Measurement(
        path=str(path),
        bytes=raws[0]["model"]["bytes"],
        sha256=raws[0]["model"]["sha256"],
        median_ms=found["p50"],
        **{f"{name}_ms": found[name] for name in _PERCENTILES},
        process_medians_ms=medians,
        spread=(max(medians) - min(medians)) / float(np.median(medians)),
        runs=found["count"],
        warmup_runs=sum((record["warmup_ms"] or {"count": 0})["count"] for record in processes),
        threads=threads,
        runtime=dict(raws[0]["runtime"]),
        delegate_partitions=raws[0]["delegate_partitions"],
        device=device,
        load_ms=float(np.median([record["load_ms"] + record["allocate_ms"] for record in processes])),
        first_inference_ms=float(np.median([record["first_inference_ms"] for record in processes])),
        memory_kb=_memory(processes),
        target=target,
        source=source,
        emulated=emulated(device),
        protocol={
            **{item.name: getattr(protocol, item.name) for item in fields(protocol)},
            "affinity": affinity,
        },
        warnings=tuple(_warnings(processes, medians, device, threads, protocol)),
        processes=tuple(processes),
    )


def _typical(latency: Mapping[str, Any]) -> float:
    """The median of a process; the mean where the tool tells no median."""
    return float(latency["mean"] if latency["p50"] is None else latency["p50"])


def _without_samples(processes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Statistics over processes of a tool that keeps no samples; NaN for what it does not tell."""
    known = {key: [item[key] for item in processes if item.get(key) is not None] for key in processes[0]}
    middle = {key: float(np.median(values)) if values else math.nan for key, values in known.items()}
    return {
        **dict.fromkeys(_PERCENTILES, math.nan),
        **middle,
        "count": sum(known["count"]),
        "min": min(known["min"]),
        "max": max(known["max"]),
    }


_PERCENTILES = ("p10", "p90", "p95", "p99", "min", "max", "mean", "stddev")


def compare(files: Sequence[Measurement]) -> tuple[Comparison, ...]:
    """Every file but the first against the first; a difference within the spread is none."""
    reference = files[0]
    found = []
    for file in files[1:]:
        ratios = np.asarray(file.process_medians_ms) / np.asarray(reference.process_medians_ms)
        ratio, spread = float(np.median(ratios)), max(file.spread, reference.spread)
        verdict: Verdict | None = "none"
        if file.emulated:
            verdict = None
        elif abs(ratio - 1) > spread:
            verdict = "faster" if ratio < 1 else "slower"
        found.append(
            Comparison(
                file.path, reference.path, ratio, float(ratios.min()), float(ratios.max()), spread, verdict
            )
        )
    return tuple(found)


def _unknown(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)


def _memory(processes: Sequence[Mapping[str, Any]]) -> int | None:
    known = []
    for record in processes:
        used = record["memory_kb"] or {}
        if used.get("peak") and used.get("after_import"):
            known.append(used["peak"] - used["after_import"])
        elif used.get("delta"):
            known.append(used["delta"])
    return max(known) if known else None


def _warnings(
    processes: Sequence[Mapping[str, Any]],
    medians: Sequence[float],
    device: Mapping[str, Any],
    threads: int,
    protocol: Protocol,
) -> list[str]:
    found = []
    if emulated(device):
        found.append("the device is an emulation: its times are no latency")
    if max(medians) > (1 + _SPREAD) * min(medians):
        found.append(
            f"medians of the processes differ by {max(medians) / min(medians) - 1:.0%}: other load or "
            "changing clocks"
        )
    if threads > (device.get("cores") or threads):
        found.append(f"{threads} threads share {device['cores']} cores")
    if float(np.median(medians)) < _COARSE_MS:
        found.append("below 20 us the call from Python counts")
    if any(record["latency_ms"]["p50"] is None for record in processes):
        found.append("this benchmark_model tells no median: processes are compared by their means")
    least = min(record["latency_ms"]["count"] for record in processes)
    if least < protocol.runs:
        found.append(f"a process made {least} runs only, not {protocol.runs}")
    return found + list(dict.fromkeys(text for record in processes for text in record["warnings"]))
