"""Drop bit-widths that have become improbable, so that the search need not compute them any longer.

A dropped candidate keeps its place: its logit is set so low that its probability is exactly zero, and the
quantizer leaves it out of the mixture. Checkpoints have one form therefore, whatever was dropped, and what
was dropped can be read from them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import keras
import numpy as np
from scipy.special import softmax

from tfmpq.data import ImageBatches
from tfmpq.progress import Reporter
from tfmpq.quantizers.choices import bit_choices
from tfmpq.training.checkpoints import described
from tfmpq.training.loop import train
from tfmpq.training.run_folder import Stage

_DROPPED = -1e4
"""Logit of a dropped candidate; Adam's momentum moves it by a few units at most."""


def train_and_prune(
    model: keras.Model,
    batches: ImageBatches,
    epochs: int,
    threshold: float,
    *,
    stage: Stage,
    reporter: Reporter,
    label: str,
    choices: Callable[[keras.Model], Mapping[str, float]] | None = None,
) -> None:
    """`loop.train`, which after each epoch drops candidates of a probability below `threshold`.

    The step is traced anew for each epoch. An interrupted training goes on exactly: dropping is a function of
    the logits at the end of an epoch, and dropping twice is dropping once.
    """
    model.optimizer.build(model.trainable_variables)
    variables = [*model.variables, *model.optimizer.variables]
    position = stage.load_checkpoint(variables, described(model), reporter) or {"step": 0}
    steps = max(1, len(batches))
    for epoch in range(position["step"] // steps, epochs):
        if epoch and position["step"] <= epoch * steps:
            drop_improbable(model, threshold)
            stage.save_checkpoint(variables, {"step": epoch * steps}, described(model))
        leave_out_dropped(model)
        train(model, batches, epochs=epoch + 1, stage=stage, reporter=reporter, label=label, choices=choices)


def drop_improbable(model: keras.Model, threshold: float) -> None:
    """Mark the candidates of a probability below `threshold`; the most probable one of a choice stays."""
    for choice in bit_choices(model):
        logits = np.array(choice.logits)
        probabilities = softmax(logits.astype(np.float64))
        improbable = (probabilities < threshold) & (probabilities < probabilities.max())
        if improbable.any():
            choice.logits.assign(np.where(improbable, np.float32(_DROPPED), logits))


def leave_out_dropped(model: keras.Model) -> None:
    """Have the quantizers compute what is not marked; to be called before the step is traced."""
    for choice in bit_choices(model):
        kept = np.array(choice.logits) > _DROPPED / 2
        choice.quantizer.kept = tuple(int(i) for i in np.flatnonzero(kept))
