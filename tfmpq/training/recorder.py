"""What happens beside the steps of a training: log, progress, checkpoints, and checks of every step.

Metrics are fetched one step late: a device that computes by itself has the next step to do meanwhile. What is
written names the step that it belongs to, and before a checkpoint everything up to it is fetched.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import ops

from tfmpq.data import ImageBatches
from tfmpq.progress import Reporter
from tfmpq.training import distribution
from tfmpq.training.checkpoints import described
from tfmpq.training.logs import StepLog, event_log
from tfmpq.training.pace import Pace
from tfmpq.training.run_folder import Stage

CHECKPOINT_SECONDS = 30.0

LOSSES = ("loss", "perturbed_loss")
"""Metrics of a step that have to be finite."""

PATIENCE = 3
"""Steps in a row without a gradient, or with one that is far too large, after which a training stops."""

EXPLOSION = 1000.0
"""How many times the gradient of the float network one may be. Networks that learn stay within 100."""

LARGE = 1000.0
"""Norm of a gradient that is compared with the float network's. Of a cross-entropy, those of networks that
learn are below, so that nothing is computed for them."""


class NotFinite(Exception):
    """A loss is NaN or infinite."""

    def __init__(self, metric: str, value: float, step: int) -> None:
        super().__init__(metric)
        self.metric, self.value, self.step = metric, value, step


class NothingLearned(Exception):
    """Gradients of several steps in a row are zero, or too large to learn from.

    Attributes:
        norm: Norm of the last one.
        usual: That of the float network's; None where it is zero.
        step: The last step.
    """

    def __init__(self, norm: float, usual: float | None, step: int) -> None:
        super().__init__(norm)
        self.norm, self.usual, self.step = norm, usual, step


class Reached(Exception):
    """The step to stop at."""


class Counter(keras.callbacks.Callback):
    """Knows how many steps are done, and leads `fit` to the right epoch."""

    def __init__(self, model: keras.Model, batches: ImageBatches, done: int, stop: int | None = None) -> None:
        super().__init__()
        self.set_model(model)
        self.done = done
        self._batches, self._stop = batches, stop

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Say which epoch's batches come: `fit` may have looked at some before, to build its metrics."""
        self._batches.set_epoch(epoch)

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Count one step."""
        self.done += 1
        if self.done == self._stop:
            raise Reached


@dataclass(frozen=True, slots=True, eq=False)
class Watch:
    """What a recorder watches beside the metrics of a step.

    Attributes:
        started: Called once, when the first step has been made.
        usual_gradient: Norm of the float network's gradient, computed when it is called.
        choices: What a search would choose now, by name, from the model; None for other trainings.
        pace: Says how long it will take.
    """

    started: Callable[[], None]
    usual_gradient: Callable[[], float]
    choices: Callable[[keras.Model], Mapping[str, float]] | None
    pace: Pace


class Recorder(Counter):
    """Log, progress, checkpoints and checks, after every step."""

    def __init__(
        self,
        model: keras.Model,
        batches: ImageBatches,
        stage: Stage,
        reporter: Reporter,
        done: int,
        watch: Watch,
    ) -> None:
        super().__init__(model, batches, done)
        self.interrupted = False
        self._stage, self._reporter, self._watch = stage, reporter, watch
        self._network = described(model)
        self._log = StepLog(stage.path(".csv"), done)
        self._events = event_log(stage, self._log.kept, reporter)
        self._choice_log = StepLog(stage.path(".choices.csv"), done)
        self._saved_at, self._cost = time.monotonic(), 0.0
        self._pending: tuple[int, list[str], Any] | None = None
        self._begun, self._bad, self._usual = False, 0, math.nan

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Record the step before, and keep what this one has on the device."""
        if self.interrupted:
            raise KeyboardInterrupt
        if not self._begun:
            self._begun = True
            self._watch.started()
        logs = logs or {}
        # One vector, so that one transfer brings all of them.
        vector = ops.stack([ops.cast(value, "float32") for value in logs.values()])
        self._fetch()
        self._pending = self.done, list(logs), vector
        self.done += 1
        # Writing must stay a small share of the work, however large the model is.
        if time.monotonic() - self._saved_at >= max(CHECKPOINT_SECONDS, 20 * self._cost):
            self.checkpoint()

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Save at the end of every epoch."""
        self._fetch()
        if self._watch.choices is not None:
            # Before the checkpoint: without that one, a resumed training drops the line and writes it again.
            self._choice_log.add(self.done - 1, self._watch.choices(self.model))
            self._choice_log.flush()
        self.checkpoint()

    def checkpoint(self) -> None:
        """Save all variables and the position, unless the last steps have learned nothing."""
        self._fetch()
        if self._bad:
            return
        begin = time.monotonic()
        self._log.flush()
        if self._events:
            self._events.flush()
        # Within an epoch JAX keeps the values outside the variables; reading `self.model` brings them back.
        variables = [*self.model.variables, *self.model.optimizer.variables]
        self._stage.save_checkpoint(variables, {"step": self.done}, self._network)
        self._saved_at = time.monotonic()
        self._cost = self._saved_at - begin

    def _fetch(self) -> None:
        """Wait for the metrics of the last step but one, or of the last if there is none behind it."""
        if self._pending is None:
            return
        (step, names, vector), self._pending = self._pending, None
        metrics = dict(zip(names, np.asarray(ops.convert_to_numpy(vector), np.float64).tolist(), strict=True))
        for name in LOSSES:
            if not math.isfinite(metrics.get(name, 0.0)):
                raise NotFinite(name, metrics[name], step)
        distribution.step_done()
        row = self._log.add(step, metrics)
        if self._events:
            self._events.add(row)
        self._reporter.advance(1, metrics)
        self._look_at_gradient(metrics, step)
        self._watch.pace.note(step + 1)

    def _look_at_gradient(self, metrics: Mapping[str, float], step: int) -> None:
        """Count steps from which nothing can be learned.

        Raises:
            NothingLearned: There were several in a row.
        """
        norm = metrics.get("gradient_norm")
        # A step that reuses the second gradient repeats the metrics of the step that took it.
        if norm is None or not metrics.get("second_gradient", 1.0):
            return
        if norm > LARGE and math.isnan(self._usual):
            self._usual = self._watch.usual_gradient()
        exploded = norm > LARGE and norm > EXPLOSION * self._usual
        self._bad = self._bad + 1 if norm == 0.0 or exploded else 0
        if self._bad >= PATIENCE:
            raise NothingLearned(norm, self._usual if exploded else None, step)
