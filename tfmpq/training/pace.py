"""How long a training will take here, said before the time is spent."""

from __future__ import annotations

import time
from typing import Any

from tfmpq.progress import Reporter
from tfmpq.training.run_folder import Stage

LONG = 1800.0
"""Seconds of a training that are worth a line with ways to shorten it."""

_STEPS = 5
_SECONDS = 10.0
"""Least steps and seconds that an estimate is made from, behind the first step, which compiles."""


class Pace:
    """Estimates the time that is left from the first steps, and says so once if it is long.

    Args:
        stage: What is trained.
        label: What it is called.
        model: The training model.
        steps: All steps.
        epochs: All epochs.
        reporter: Told.
    """

    def __init__(
        self, stage: Stage, label: str, model: Any, steps: int, epochs: int, reporter: Reporter
    ) -> None:
        self._stage, self._label, self._model = stage, label, model
        self._steps, self._epochs, self._reporter = steps, epochs, reporter
        self._begin: tuple[float, int] | None = None
        self._said = False

    def note(self, done: int) -> None:
        """Note that so many steps are done."""
        if self._said:
            return
        now = time.monotonic()
        if self._begin is None:
            self._begin = now, done
            return
        seconds, steps = now - self._begin[0], done - self._begin[1]
        if steps < _STEPS or seconds < _SECONDS:
            return
        self._said = True
        each = seconds / steps
        left = each * (self._steps - done)
        # The float training that nobody asked for is announced in any case.
        if left > LONG:
            self._reporter.log(
                f"{self._label} takes about {in_words(left)} here, at {each:.2g} s a step. Shorter: "
                f"{', '.join(self._ways_out(each, left))}."
            )
        elif self._stage.name == "float":
            self._reporter.log(f"{self._label} takes about {in_words(left)} here, at {each:.2g} s a step.")

    def _ways_out(self, each: float, left: float) -> list[str]:
        steps = max(1, int(LONG / each / max(1, self._epochs)))
        ways = [f"--steps-per-epoch {steps} ({in_words(each * steps * self._epochs)})"]
        if self._stage.name == "search":
            options = getattr(self._model, "options", None)
            if options is not None and options.second_gradient_every == 1:
                ways.append(f"--second-gradient-every 5 (about {in_words(0.6 * left)})")
            ways.append("--method sensitivity (minutes)")
        elif self._stage.name == "float":
            ways.append("--weights FILE (none of it)")
        return [*ways, "a GPU"]


def in_words(seconds: float) -> str:
    """For example `40 s`, `12 min` or `5.3 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
