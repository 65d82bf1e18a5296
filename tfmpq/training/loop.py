"""The training loop: `fit` with progress, a metrics log, checkpoints and resumption."""

from __future__ import annotations

import contextlib
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from types import FrameType
from typing import Any

import keras
import numpy as np

from tfmpq.data import ImageBatches
from tfmpq.errors import TfmpqError
from tfmpq.progress import Reporter
from tfmpq.training import distribution
from tfmpq.training.backend import accelerated, compiled
from tfmpq.training.checkpoints import described
from tfmpq.training.diagnosis import first_not_finite
from tfmpq.training.logs import StepLog, event_log
from tfmpq.training.run_folder import Stage

CHECKPOINT_SECONDS = 30.0

LOSSES = ("loss", "perturbed_loss")
"""Metrics of a step that have to be finite."""

Course = tuple[tuple[int, bool], ...]
"""Parts of a training: the epoch at which one ends, and whether BatchNorm uses batch statistics in it."""


def train(
    model: keras.Model,
    batches: ImageBatches,
    *,
    epochs: int,
    stage: Stage,
    reporter: Reporter,
    label: str,
    frozen_statistics_epochs: int = 0,
    choices: Callable[[keras.Model], Mapping[str, float]] | None = None,
) -> None:
    """Train a compiled model from its last checkpoint, or from the start, to the end.

    Args:
        model: Compiled training model.
        batches: Training data; batch i of epoch e is a pure function of the seed, e and i.
        epochs: Number of epochs in all.
        stage: Where checkpoints and the log go.
        reporter: Told about every step.
        label: Name of the stage for people.
        frozen_statistics_epochs: Number of last epochs in which BatchNorm uses its moving statistics, as the
            deployed network does.
        choices: What a search would choose now, by name, from the model; a line of `STAGE.choices.csv` at the
            end of every epoch.

    Raises:
        TfmpqError: The loss is not finite; the step and the first layer with such numbers are named, and the
            checkpoint before it is kept.
    """
    steps = len(batches)
    held = batches.hold_on_device(compiled) if accelerated() else None
    model.pixels = held or batches.scale_on_device()
    # The optimizer's slots have to exist before a checkpoint is restored into them.
    model.optimizer.build(model.trainable_variables)
    initial = [np.asarray(v) for v in _variables(model)]
    position = stage.load_checkpoint(_variables(model), described(model), reporter) or {"step": 0}
    done = distribution.agreed(_variables(model), position["step"])
    recorder = _Recorder(model, batches, stage, reporter, done, choices)
    if done < epochs * steps:
        reporter.log(f"Compiling {label}; for a large network that takes minutes.")
    reporter.start(label, epochs * steps)
    if done:
        reporter.log(f"Resuming {label} at step {done} of {epochs * steps}.")
        reporter.advance(done)
    course = ((epochs - frozen_statistics_epochs, True), (epochs, False))
    with _interruptions_noted(recorder):
        try:
            with distribution.spread(model, batches) as shared:
                _fit(model, shared, course, recorder)
        except _NotFinite as failure:
            reporter.log("Playing the last steps again, to find where numbers stop being finite.")
            kept = _go_back(model, stage, initial, recorder)
            raise _explained(failure, kept, _cause(model, batches, course, kept, failure.step)) from None
    recorder.checkpoint()
    reporter.finish()


def _fit(model: keras.Model, batches: keras.utils.PyDataset, course: Course, counter: _Counter) -> None:
    """Train from where the counter stands."""
    steps = len(batches)
    for last, update in course:
        model.update_statistics = update
        model.train_function = None  # the flag is read while tracing
        while counter.done < last * steps:
            epoch, offset = divmod(counter.done, steps)
            # After a resumption in mid-epoch, the rest of that epoch comes as a short one of its own.
            until = epoch + 1 if offset else last
            model.fit(
                _Rest(batches, offset) if offset else batches,
                initial_epoch=epoch,
                epochs=until,
                verbose=0,
                shuffle=False,
                callbacks=[counter],
            )


def _go_back(model: keras.Model, stage: Stage, initial: list[np.ndarray], recorder: _Recorder) -> int:
    """Restore the last checkpoint, or else the values before the first step; returns its step."""
    variables = _variables(recorder.model)
    if position := stage.load_checkpoint(variables):
        return position["step"]
    for variable, value in zip(variables, initial, strict=True):
        variable.assign(value)
    return 0


def _cause(model: keras.Model, batches: ImageBatches, course: Course, kept: int, step: int) -> str:
    """Repeat the steps from `kept` on, and look at the one that failed layer by layer."""
    counter = _Counter(model, batches, kept, stop=step)
    if kept < step:
        with contextlib.suppress(_Reached):
            _fit(model, batches, course, counter)
    steps = len(batches)
    images, _ = batches.batch(*divmod(step, steps))
    # Reading it through the counter brings back what JAX keeps outside the variables.
    found = first_not_finite(counter.model, images, training=step < course[0][0] * steps)
    return found or "nothing of the first pass (but of the perturbed one, or it did not happen again)"


def _explained(failure: _NotFinite, kept: int, cause: str) -> TfmpqError:
    state = f"The checkpoint of step {kept} is kept" if kept else "No step before it was stored"
    return TfmpqError(
        f"The loss has to stay finite. Received: {failure.metric}={failure.value} at step {failure.step}; "
        f"not finite first: {cause}. {state}; begin another run with a smaller --learning-rate or another "
        "seed."
    )


def _variables(model: keras.Model) -> list[Any]:
    """All that a checkpoint holds."""
    return [*model.variables, *model.optimizer.variables]


@contextlib.contextmanager
def _interruptions_noted(recorder: _Recorder) -> Iterator[None]:
    """Have the recorder know of Ctrl-C, which Keras may swallow.

    Keras converts the metrics of a step under a bare `except`, and on JAX that is where it waits for the step
    to be computed: most interruptions come there.
    """
    previous = signal.getsignal(signal.SIGINT)
    # Python handles signals in its main thread only.
    if not callable(previous) or threading.current_thread() is not threading.main_thread():
        yield
        return

    def note(number: int, frame: FrameType | None) -> None:
        recorder.interrupted = True
        previous(number, frame)

    signal.signal(signal.SIGINT, note)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)


class _Rest(keras.utils.PyDataset):
    """An epoch from its batch `offset` on."""

    def __init__(self, batches: keras.utils.PyDataset, offset: int) -> None:
        super().__init__(workers=1, use_multiprocessing=False)
        self._batches, self._offset = batches, offset

    def __len__(self) -> int:
        return len(self._batches) - self._offset

    def __getitem__(self, index: int) -> Any:
        return self._batches[index + self._offset]


class _NotFinite(Exception):
    """A loss is NaN or infinite."""

    def __init__(self, metric: str, value: float, step: int) -> None:
        super().__init__(metric)
        self.metric, self.value, self.step = metric, value, step


class _Reached(Exception):
    """The step to stop at."""


class _Counter(keras.callbacks.Callback):
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
            raise _Reached


class _Recorder(_Counter):
    """Log, progress, checkpoints and the check for a finite loss, after every step."""

    def __init__(
        self,
        model: keras.Model,
        batches: ImageBatches,
        stage: Stage,
        reporter: Reporter,
        done: int,
        choices: Callable[[keras.Model], Mapping[str, float]] | None,
    ) -> None:
        super().__init__(model, batches, done)
        self.interrupted = False
        self._stage, self._reporter = stage, reporter
        self._network = described(model)
        self._log = StepLog(stage.path(".csv"), done)
        self._events = event_log(stage, self._log.kept, reporter)
        self._choices, self._choice_log = choices, StepLog(stage.path(".choices.csv"), done)
        self._saved_at, self._cost = time.monotonic(), 0.0

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Record one step."""
        if self.interrupted:
            raise KeyboardInterrupt
        metrics = {key: float(value) for key, value in (logs or {}).items()}
        for name in LOSSES:
            if not math.isfinite(metrics.get(name, 0.0)):
                raise _NotFinite(name, metrics[name], self.done)
        distribution.step_done()
        row = self._log.add(self.done, metrics)
        if self._events:
            self._events.add(row)
        self.done += 1
        self._reporter.advance(1, metrics)
        # Writing must stay a small share of the work, however large the model is.
        if time.monotonic() - self._saved_at > max(CHECKPOINT_SECONDS, 20 * self._cost):
            self.checkpoint()

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Save at the end of every epoch."""
        if self._choices is not None:
            # Before the checkpoint: without that one, a resumed training drops the line and writes it again.
            self._choice_log.add(self.done - 1, self._choices(self.model))
            self._choice_log.flush()
        self.checkpoint()

    def checkpoint(self) -> None:
        """Save all variables and the position."""
        begin = time.monotonic()
        self._log.flush()
        if self._events:
            self._events.flush()
        # Within an epoch JAX keeps the values outside the variables; reading `self.model` brings them back.
        self._stage.save_checkpoint(_variables(self.model), {"step": self.done}, self._network)
        self._saved_at = time.monotonic()
        self._cost = self._saved_at - begin
