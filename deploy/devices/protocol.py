"""How long and how often a file is timed."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Protocol:
    """One way of measuring; times in seconds.

    Attributes:
        name: Its name.
        runs: Least number of timed runs of a process.
        seconds: Least time that a process spends with them.
        warmup_runs: Least number of runs before, dropped.
        warmup_seconds: Least time of those.
        limit_seconds: A process stops here, whatever it has.
        processes: Fresh processes for every file, alternating between the files.
    """

    name: str
    runs: int
    seconds: float
    warmup_runs: int = 5
    warmup_seconds: float = 0.5
    limit_seconds: float = 150.0
    processes: int = 3


PROTOCOLS = {
    "quick": Protocol("quick", runs=50, seconds=1.0),
    # Samples and time of the single-stream scenario of MLPerf Mobile, whose metric is the 90th percentile.
    "mlperf-like": Protocol("mlperf-like", runs=1024, seconds=60.0),
}
