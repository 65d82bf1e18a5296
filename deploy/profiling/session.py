"""Running networks and operators on a device for a profile, all in turn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tfmpq.deploy.devices.protocol import Protocol
from tfmpq.deploy.devices.transports import Transport
from tfmpq.deploy.latency.measure import DeviceProgram
from tfmpq.deploy.latency.operator_times import ProfiledProcess
from tfmpq.deploy.latency.profilers import NoProfiler, OperatorProfiler
from tfmpq.deploy.profiling.single_operators import inference_ms
from tfmpq.policy.latency_table import ALONE
from tfmpq.progress import Reporter

PLAN = Protocol("profile", runs=50, seconds=0.5, warmup_seconds=0.2, limit_seconds=30.0)
SINGLE_PLAN = Protocol("single", runs=30, seconds=0.1, warmup_runs=3, warmup_seconds=0.03, limit_seconds=10.0)
SINGLE_REPEATS = 3


@dataclass(frozen=True, slots=True)
class Whole:
    """A whole network: the median of all runs, their 10th percentile, the spread of processes' medians."""

    median_ms: float
    p10_ms: float | None
    spread: float


def whole_times(answers: Sequence[dict[str, Any]]) -> Whole:
    """What the processes of one network say together."""
    medians = [
        float(np.median(answer["latency_ms_raw"])) if len(answer["latency_ms_raw"]) else inference_ms(answer)
        for answer in answers
    ]
    runs = np.concatenate([np.asarray(answer["latency_ms_raw"], np.float64) for answer in answers])
    known = len(runs) > 0  # benchmark_model keeps no samples
    return Whole(
        float(np.median(runs)) if known else float(np.median(medians)),
        float(np.percentile(runs, 10)) if known else None,
        (max(medians) - min(medians)) / float(np.median(medians)),
    )


class Session:
    """Runs files on the device, always one process of each in turn.

    Args:
        device: An open way to it.
        program: What times files there.
        threads: Threads of the runtime.
        affinity: CPUs to keep to, as 0,1.

    Attributes:
        threads: As given.
        affinity: As given.
        target: What the device is reached through.
        source: What timed the operators.
        wholes: Whole networks, measured without a profiler.
        facts: What the program says of runtime and device.
        processes: What the profiler told of each network; empty without one.
    """

    def __init__(self, device: Transport, program: DeviceProgram, threads: int, affinity: str | None) -> None:
        self._device, self._program = device, program
        self.threads, self.affinity, self.target = threads, affinity, device.target()
        self.source = ALONE
        self.wholes: dict[Path, Whole] = {}
        self.facts: dict[str, Any] = {}
        self.processes: dict[Path, list[ProfiledProcess]] = {}
        self._names: dict[Path, str] = {}

    def measure(self, files: Sequence[Path], repeats: int, reporter: Reporter) -> None:
        """Measure whole networks without a profiler."""
        answers = self._answers(files, PLAN, repeats, "measure networks", reporter)
        self.wholes = {path: whole_times(found) for path, found in answers.items()}
        self.facts = answers[files[0]][0]

    def profile(
        self, files: Sequence[Path], profiler: OperatorProfiler, repeats: int, reporter: Reporter
    ) -> None:
        """Run whole networks under the profiler; without one, say so."""
        reporter.start("profile", repeats * len(files))
        try:
            for _ in range(repeats):
                for path in files:
                    found = profiler.profile(self._names[path], self.threads, PLAN, self.affinity)
                    self.processes.setdefault(path, []).append(found)
                    reporter.advance()
        except NoProfiler as error:
            self.processes = {}
            reporter.log(
                f"{self._device.name} tells no times of operators ({error}): they are timed by themselves."
            )
        else:
            self.source = profiler.source
        reporter.finish()

    def times(self, contents: Sequence[bytes], folder: Path, reporter: Reporter) -> list[list[float]]:
        """Milliseconds of small files, a number for each process."""
        files = []
        for number, content in enumerate(contents):
            files.append(folder / f"operator{number}.tflite")
            files[-1].write_bytes(content)
        answers = self._answers(files, SINGLE_PLAN, SINGLE_REPEATS, "time operators", reporter)
        return [[inference_ms(answer) for answer in answers[path]] for path in files]

    def _answers(
        self, files: Sequence[Path], plan: Protocol, repeats: int, what: str, reporter: Reporter
    ) -> dict[Path, list[dict[str, Any]]]:
        self._names |= {path: self._device.push(path) for path in files}
        answers: dict[Path, list[dict[str, Any]]] = {path: [] for path in files}
        reporter.start(what, repeats * len(files))
        for _ in range(repeats):
            for path in files:
                name = self._names[path]
                found = self._program.measure(name, path, self.threads, plan, self.affinity)
                answers[path].append(found)
                reporter.advance()
        reporter.finish()
        return answers
