"""The training loop: `fit` with progress, a metrics log, checkpoints and resumption."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from types import FrameType
from typing import Any

import keras
import numpy as np

from tfmpq.data import ImageBatches
from tfmpq.errors import TfmpqError, UsageError
from tfmpq.progress import Reporter
from tfmpq.training import distribution
from tfmpq.training.backend import accelerated, compiled, quickly_compiled, uncompilable
from tfmpq.training.checkpoints import described
from tfmpq.training.diagnosis import (
    first_not_finite,
    usual_gradient,
    where_signal_dies,
    where_signal_explodes,
)
from tfmpq.training.pace import Pace
from tfmpq.training.recorder import PATIENCE, Counter, NotFinite, NothingLearned, Reached, Recorder, Watch
from tfmpq.training.run_folder import Stage

_COMPARED_IMAGES = 32
"""Images of the float network's gradient."""

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
        TfmpqError: The loss is not finite, or several gradients in a row are zero or far larger than those of
            the float network; the step and the layer to look at are named, and the checkpoint before it is
            kept.
    """
    steps = len(batches)
    held = batches.hold_on_device(compiled) if accelerated() else None
    model.pixels = held or batches.scale_on_device()
    # The optimizer's slots have to exist before a checkpoint is restored into them.
    model.optimizer.build(model.trainable_variables)
    initial = [np.asarray(v) for v in _variables(model)]
    position = stage.load_checkpoint(_variables(model), described(model), reporter) or {"step": 0}
    done = distribution.agreed(_variables(model), position["step"])
    total = epochs * steps

    def started() -> None:
        reporter.finish()
        reporter.start(label, total)
        if done:
            reporter.advance(done)

    split = len(model.trainable_variables)
    order = [*model.trainable_variables, *model.non_trainable_variables]
    watch = Watch(
        started,
        lambda: _usual_gradient(model, order, split, initial, batches),
        choices,
        Pace(stage, label, model, total, epochs, reporter),
    )
    recorder = Recorder(model, batches, stage, reporter, done, watch)
    if done:
        reporter.log(f"Resuming {label} at step {done} of {total}.")
    if done < total:
        reporter.start(f"compiling {label}", 0)
    else:
        started()
    course = ((epochs - frozen_statistics_epochs, True), (epochs, False))
    with _interruptions_noted(recorder):
        try:
            with distribution.spread(model, batches) as shared, quickly_compiled():
                _fit(model, shared, course, recorder)
        except uncompilable as error:
            if not model.jit_compile:
                raise
            reason = str(error).strip().splitlines()[0][:200]
            raise UsageError(f"XLA cannot compile this step. Received: {reason} Use --jit off.") from error
        except (NotFinite, NothingLearned) as failure:
            reporter.log("Playing the last steps again, to find the layer where it begins.")
            kept = _go_back(model, stage, initial, recorder)
            raise _explained(failure, kept, _cause(model, batches, course, kept, failure)) from None
    recorder.checkpoint()
    reporter.finish()


def _fit(model: keras.Model, batches: keras.utils.PyDataset, course: Course, counter: Counter) -> None:
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


def _go_back(model: keras.Model, stage: Stage, initial: list[np.ndarray], recorder: Recorder) -> int:
    """Restore the last checkpoint, or else the values before the first step; returns its step."""
    variables = _variables(recorder.model)
    if position := stage.load_checkpoint(variables):
        return position["step"]
    for variable, value in zip(variables, initial, strict=True):
        variable.assign(value)
    return 0


def _cause(
    model: keras.Model,
    batches: ImageBatches,
    course: Course,
    kept: int,
    failure: NotFinite | NothingLearned,
) -> str:
    """Repeat the steps from `kept` on, and look at the one that failed layer by layer."""
    step = failure.step
    counter = Counter(model, batches, kept, stop=step)
    if kept < step:
        with contextlib.suppress(Reached):
            _fit(model, batches, course, counter)
    steps = len(batches)
    images, _ = batches.batch(*divmod(step, steps))
    training = step < course[0][0] * steps
    # Reading it through the counter brings back what JAX keeps outside the variables.
    if isinstance(failure, NotFinite):
        found = first_not_finite(counter.model, images, training)
        return found or "nothing of the first pass (but of the perturbed one, or it did not happen again)"
    if failure.usual is None:
        return where_signal_dies(counter.model, images, training) or "no layer of the first pass by itself"
    return where_signal_explodes(counter.model, images, training)


def _explained(failure: NotFinite | NothingLearned, kept: int, cause: str) -> TfmpqError:
    state = f"The checkpoint of step {kept} is kept" if kept else "No step before it was stored"
    if isinstance(failure, NotFinite):
        return TfmpqError(
            f"The loss has to stay finite. Received: {failure.metric}={failure.value} at step "
            f"{failure.step}; not finite first: {cause}. {state}; begin another run with a smaller "
            "--learning-rate or another seed."
        )
    what = "of 0" if failure.usual is None else f"of {failure.norm:.2g} (float network: {failure.usual:.2g})"
    return TfmpqError(
        f"A gradient has to be one to learn from. Received: a norm {what} at step {failure.step}, the last "
        f"of {PATIENCE} such steps; look at this: {cause}. {state}; begin another run with trained weights, "
        "a smaller --learning-rate or another seed."
    )


def _usual_gradient(
    model: keras.Model, order: list[Any], split: int, initial: list[np.ndarray], batches: ImageBatches
) -> float:
    """Norm of the float network's gradient as the training began, on a part of its first batch."""
    images, labels = batches.batch(0, 0)
    values = {id(v): value for v, value in zip(_variables(model), initial, strict=True)}
    begin = [values[id(v)] for v in order]
    few = slice(0, _COMPARED_IMAGES)
    return usual_gradient(model, begin[:split], begin[split:], images[few], labels[few])


def _variables(model: keras.Model) -> list[Any]:
    """All that a checkpoint holds."""
    return [*model.variables, *model.optimizer.variables]


@contextlib.contextmanager
def _interruptions_noted(recorder: Recorder) -> Iterator[None]:
    """Have the recorder know of Ctrl-C, and of SIGTERM where it is handled, which Keras may swallow.

    Keras converts the metrics of a step under a bare `except`, and on JAX that is where it waits for the step
    to be computed: most interruptions come there.
    """
    handled = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    noted = {number: handler for number, handler in handled.items() if callable(handler)}
    # Python handles signals in its main thread only.
    if threading.current_thread() is not threading.main_thread():
        noted = {}

    def note(number: int, frame: FrameType | None) -> None:
        recorder.interrupted = True
        noted[signal.Signals(number)](number, frame)

    for number in noted:
        signal.signal(number, note)
    try:
        yield
    finally:
        for number, handler in noted.items():
            signal.signal(number, handler)


class _Rest(keras.utils.PyDataset):
    """An epoch from its batch `offset` on."""

    def __init__(self, batches: keras.utils.PyDataset, offset: int) -> None:
        super().__init__(workers=1, use_multiprocessing=False)
        self._batches, self._offset = batches, offset

    def __len__(self) -> int:
        return len(self._batches) - self._offset

    def __getitem__(self, index: int) -> Any:
        return self._batches[index + self._offset]
