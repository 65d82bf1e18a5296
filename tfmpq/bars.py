"""Progress on stderr: a live bar on a terminal, a line every few seconds elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from tfmpq.progress import PlainReporter, Reporter, SilentReporter

LINE_INTERVAL = 5.0
"""Least seconds between two lines of a running stage when stderr is no terminal."""


SHOWN_METRICS = {
    "loss": "loss",
    "accuracy": "accuracy",
    "top1": "accuracy",
    "label accuracy": "label accuracy",
    "explained variance": "explained variance",
    "score": "score",
    "expected_bits": "bits",
}
"""Metrics that progress shows, in this order, and what it calls them."""


@contextmanager
def reporting(progress: bool | Reporter | None) -> Iterator[Reporter]:
    """The reporter that a verb's `progress` asks for.

    Args:
        progress: A reporter; True for one that suits stderr, False for none; None for one only where somebody
            looks: on a terminal and in IPython.
    """
    if progress is None:
        progress = sys.stderr.isatty() or _in_ipython()
    if not isinstance(progress, bool):
        yield progress
    elif not progress:
        yield SilentReporter()
    else:
        with terminal_reporter() as reporter:
            yield reporter


def _in_ipython() -> bool:
    ipython = sys.modules.get("IPython")
    return ipython is not None and ipython.get_ipython() is not None


@contextmanager
def terminal_reporter() -> Iterator[Reporter]:
    """The reporter that suits stderr; leaves the terminal as it was, after an error or Ctrl-C too."""
    if not sys.stderr.isatty():
        yield LineReporter()
        return
    with BarReporter() as reporter:
        yield reporter


class LineReporter(PlainReporter):
    """One line per stage's start and end, and at most one every `LINE_INTERVAL` seconds between them.

    Args:
        clock: Seconds that only grow.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._stage: str | None = None
        self._total = self._done = 0
        self._metrics: dict[str, float] = {}
        self._started = self._spoken = 0.0
        # Time and count after the first call: the first step also compiles, so it tells nothing of the rest.
        self._first: tuple[float, int] | None = None

    def start(self, stage: str, total: int) -> None:
        """Say that a stage begins."""
        self._stage, self._total, self._done, self._metrics = stage, total, 0, {}
        self._started = self._spoken = self._clock()
        self._first = None
        self.log(f"{stage}: {total} steps" if total else stage)

    def advance(self, steps: int = 1, metrics: Mapping[str, float] | None = None) -> None:
        """Count, and say so if the last line is old enough."""
        self._done += steps
        if metrics is not None:
            self._metrics.update(metrics)
        now = self._clock()
        first_time, first_done = self._first = self._first or (now, self._done)
        if self._stage is None or now - self._spoken < LINE_INTERVAL or 0 < self._total <= self._done:
            return
        self._spoken = now
        timed = self._done - first_done
        left = (now - first_time) / timed * (self._total - self._done) if timed and self._total else None
        self.log(self._line("" if left is None else f"{seconds_text(left)} left"))

    def finish(self) -> None:
        """Say that the stage is over, with its newest metrics."""
        if self._stage is not None:
            self.log(self._line(f"done in {seconds_text(self._clock() - self._started)}"))
        self._stage = None

    def _line(self, time_text: str) -> str:
        count = f"{self._done}/{self._total}" if self._total else str(self._done or "")
        told = ", ".join(part for part in (count, metrics_text(self._metrics), time_text) if part)
        return f"{self._stage}: {told}"


class BarReporter:
    """A rich progress bar on stderr; a context manager, since the bar is redrawn by a thread."""

    def __init__(self, console: Console | None = None) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[metrics]}"),
            TimeRemainingColumn(),
            TextColumn("left"),
            console=console or Console(stderr=True, highlight=False),
            # stdout already leads to stderr, and the libraries below write to both from C++.
            redirect_stdout=False,
        )
        self._task: TaskID | None = None
        self._metrics: dict[str, float] = {}

    def __enter__(self) -> BarReporter:
        self._progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._progress.stop()

    def log(self, message: str) -> None:
        """Print a line above the bar."""
        self._progress.console.print(message, markup=False)

    def start(self, stage: str, total: int) -> None:
        """Draw a new bar."""
        self._metrics = {}
        self._task = self._progress.add_task(stage, total=total or None, metrics="")

    def advance(self, steps: int = 1, metrics: Mapping[str, float] | None = None) -> None:
        """Move the bar on and show the metrics beside it."""
        if self._task is None:
            return
        self._metrics.update(metrics or {})
        self._progress.update(self._task, advance=steps, metrics=metrics_text(self._metrics))

    def finish(self) -> None:
        """Leave the bar as it stands; the next stage draws its own below."""
        if self._task is not None:
            self._progress.stop_task(self._task)
        self._task = None


def metrics_text(metrics: Mapping[str, float]) -> str:
    """For example `loss 0.412  accuracy 0.913  bits 3.94`; the rest is in the logs of the run folder."""
    return "  ".join(f"{text} {metrics[name]:.4g}" for name, text in SHOWN_METRICS.items() if name in metrics)


def seconds_text(seconds: float) -> str:
    """For example `7 s`, `3:05 min` or `1:02:40 h`."""
    minutes, rest = divmod(round(seconds), 60)
    if not minutes:
        return f"{rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02} h" if hours else f"{minutes}:{rest:02} min"
