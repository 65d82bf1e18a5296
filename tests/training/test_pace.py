"""Time is said before it is spent."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from tfmpq.progress import SilentReporter
from tfmpq.training import pace
from tfmpq.training.pace import Pace, in_words
from tfmpq.training.run_folder import Stage


class Lines(SilentReporter):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def log(self, message: str) -> None:
        self.lines.append(message)


def said(monkeypatch: pytest.MonkeyPatch, name: str, seconds: float, steps: int, every: int = 1) -> list[str]:
    """What is said in a stage of 10 epochs whose steps take so many seconds, the first one a minute more."""
    clock = SimpleNamespace(now=60.0)
    monkeypatch.setattr(pace, "time", SimpleNamespace(monotonic=lambda: clock.now))
    model = SimpleNamespace(options=SimpleNamespace(second_gradient_every=every))
    reporter = Lines()
    watch = Pace(Stage(Path("run"), name), name, model, steps, 10, reporter)
    for done in range(1, 40):
        watch.note(done)
        clock.now += seconds
    return reporter.lines


def test_a_long_search_is_announced_once_with_ways_out(monkeypatch: pytest.MonkeyPatch) -> None:
    assert said(monkeypatch, "search", 4.0, 3910) == [
        "search takes about 4.3 h here, at 4 s a step. Shorter: --steps-per-epoch 45 (30 min), "
        "--second-gradient-every 5 (about 2.6 h), --method sensitivity (minutes), a GPU."
    ]
    assert "--second-gradient-every" not in said(monkeypatch, "search", 4.0, 3910, every=5)[0]


def test_a_short_stage_is_not_announced_but_float_training_is(monkeypatch: pytest.MonkeyPatch) -> None:
    assert said(monkeypatch, "search", 1.0, 1000) == []
    assert said(monkeypatch, "float", 1.0, 1000) == ["float takes about 16 min here, at 1 s a step."]


def test_times_are_in_the_unit_that_reads_best() -> None:
    assert [in_words(seconds) for seconds in (12.3, 700.0, 20000.0)] == ["12 s", "12 min", "5.6 h"]
