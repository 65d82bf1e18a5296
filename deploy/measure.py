"""Latency of `.tflite` files on this machine, each in its own process, several in alternation."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np

from tfmpq.errors import TfmpqError, UsageError
from tfmpq.progress import Reporter, SilentReporter
from tfmpq.runs import write_json

ROUNDS = 5
WARMUP_RUNS, WARMUP_SECONDS = 5, 0.5
MIN_SECONDS = 1.0
_SETTLE_RUNS = 2
"""Runs at the start of a round that are dropped: other files have emptied the caches."""

_PROGRAM = Path(__file__).with_name("runner.py")
_DRIFT, _SPREAD, _COARSE_MS = 1.1, 0.1, 0.02


@dataclass(frozen=True, slots=True)
class Measurement:
    """Latency of one file; times in milliseconds, of `invoke()` alone, batch size 1.

    Attributes:
        path: The file.
        bytes: Its size.
        sha256: Its digest.
        median_ms: Median, over all rounds.
        p10_ms: 10th percentile.
        p90_ms: 90th percentile.
        min_ms: Fastest run.
        mean_ms: Mean.
        stddev_ms: Standard deviation.
        round_medians_ms: Median of each round; files that are measured together alternate by round.
        runs: Number of timed runs.
        warmup_runs: Number of runs before, dropped.
        threads: Threads of the runtime.
        runtime: Its name and version.
        delegate_partitions: Partitions that XNNPACK took.
        device: Machine, CPU, cores, operating system.
        load_ms: Reading the file, applying the delegate and allocating tensors.
        first_inference_ms: The first run.
        warnings: Reasons to doubt the numbers.
    """

    path: str
    bytes: int
    sha256: str
    median_ms: float
    p10_ms: float
    p90_ms: float
    min_ms: float
    mean_ms: float
    stddev_ms: float
    round_medians_ms: tuple[float, ...]
    runs: int
    warmup_runs: int
    threads: int
    runtime: dict[str, str]
    delegate_partitions: int
    device: dict[str, Any]
    load_ms: float
    first_inference_ms: float
    warnings: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """All fields."""
        return asdict(self)


def measure(
    path: str | Path,
    *,
    threads: int = 1,
    runs: int = 50,
    out: str | Path | None = None,
    reporter: Reporter | None = None,
) -> Measurement:
    """Measure one file.

    Args:
        path: A `.tflite`.
        threads: Threads of the runtime.
        runs: Least number of timed runs; at least a second is timed anyway.
        out: File for the result as JSON.
        reporter: Told about progress.

    Raises:
        UsageError: `threads` or `runs` below 1.
        TfmpqError: The file is missing or refused, or the runtime crashed on it.
    """
    result = measure_together([path], threads=threads, runs=runs, reporter=reporter)[0]
    if out is not None:
        try:
            write_json(Path(out), result.to_json())
        except OSError as error:
            raise TfmpqError(
                f"The result has to be written. Received: {out} ({error.strerror}). Choose another path."
            ) from error
    return result


def measure_together(
    paths: Sequence[str | Path], *, threads: int = 1, runs: int = 50, reporter: Reporter | None = None
) -> tuple[Measurement, ...]:
    """Measure several files in alternation, so that whatever slows the machine down slows all of them.

    Args:
        paths: The files.
        threads: Threads of the runtime.
        runs: Least number of timed runs of each.
        reporter: Told about progress.

    Raises:
        UsageError: `threads` or `runs` below 1.
        TfmpqError: A file is missing or refused, or the runtime crashed on it.
    """
    if threads < 1 or runs < 1:
        raise UsageError(
            f"Threads and runs are at least 1. Received: threads={threads}, runs={runs}. Raise them."
        )
    reporter = reporter or SilentReporter()
    reporter.start("measure", (ROUNDS + 1) * len(paths))
    with ExitStack() as stack:
        runners = [stack.enter_context(_Runner(Path(path), threads)) for path in paths]
        warmups = []
        for runner in runners:
            warmups.append(len(runner.time(WARMUP_RUNS, WARMUP_SECONDS)))
            reporter.advance()
        rounds: list[list[list[int]]] = [[] for _ in runners]
        for _ in range(ROUNDS):
            for times, runner in zip(rounds, runners, strict=True):
                runner.time(_SETTLE_RUNS, 0.0)
                times.append(runner.time(-(-runs // ROUNDS), MIN_SECONDS / ROUNDS))
                reporter.advance()
    reporter.finish()
    return tuple(
        _summary(runner, times, warmup, threads)
        for runner, times, warmup in zip(runners, rounds, warmups, strict=True)
    )


class _Runner:
    """A child process that has one file loaded."""

    def __init__(self, path: Path, threads: int) -> None:
        self.path, self.threads = path, threads
        self.facts: dict[str, Any] = {}

    def __enter__(self) -> _Runner:
        if not self.path.is_file():
            raise TfmpqError(f"A file is measured. Received: {self.path}, which is none. Check the path.")
        self._log: IO[bytes] = tempfile.TemporaryFile()
        self._process = subprocess.Popen(
            [sys.executable, str(_PROGRAM), str(self.path), str(self.threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )
        try:
            self.facts = self._answer()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def time(self, runs: int, seconds: float) -> list[int]:
        """Nanoseconds of at least `runs` runs over at least `seconds`."""
        with suppress(OSError):  # the child is gone; what follows says why
            print(runs, seconds, file=self._process.stdin, flush=True)
        return self._answer()

    def _answer(self) -> Any:
        line = self._process.stdout.readline() if self._process.stdout else ""
        if line:
            return json.loads(line)
        code = self._process.wait()
        self._log.seek(0)
        said = self._log.read().decode(errors="replace").strip().splitlines() or ["nothing"]
        how = f"crashed with {signal.Signals(-code).name}" if code < 0 else f"stopped with exit code {code}"
        raise TfmpqError(
            f"The runtime has to execute the file. Received: {self.path}, on which it {how}: "
            f"{said[-1][:300]}. Run tfmpq inspect on the file, or export it again."
        )

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.communicate()
        self._log.close()


def _summary(runner: _Runner, rounds: list[list[int]], warmup: int, threads: int) -> Measurement:
    times = np.concatenate([np.asarray(part, np.float64) for part in rounds]) / 1e6
    medians = tuple(float(np.median(part)) / 1e6 for part in rounds)
    p10, median, p90 = (float(value) for value in np.percentile(times, (10, 50, 90)))
    return Measurement(
        path=str(runner.path),
        median_ms=median,
        p10_ms=p10,
        p90_ms=p90,
        min_ms=float(times.min()),
        mean_ms=float(times.mean()),
        stddev_ms=float(times.std()),
        round_medians_ms=medians,
        runs=times.size,
        warmup_runs=warmup,
        threads=threads,
        warnings=tuple(_warnings(times, medians, runner.facts["device"]["cores"], threads)),
        **runner.facts,
    )


def _warnings(times: np.ndarray, medians: Sequence[float], cores: int, threads: int) -> list[str]:
    found = []
    median = float(np.median(times))
    if max(medians) > _DRIFT * min(medians):
        found.append(
            f"medians of the rounds differ by {max(medians) / min(medians) - 1:.0%}: other load or changing "
            "clocks"
        )
    if times.std() > _SPREAD * times.mean():
        found.append(f"the standard deviation is {times.std() / times.mean():.0%} of the mean")
    if threads > cores:
        found.append(f"{threads} threads share {cores} cores")
    if median < _COARSE_MS:
        found.append("below 20 us the call from Python counts")
    return found
