"""Drop bit-widths that have become improbable, so that the search need not compute them any longer.

A dropped candidate keeps its place: its logit is set so low that its probability is exactly zero, and the
quantizer leaves it out of the mixture. Checkpoints have one form therefore, whatever was dropped, and what
was dropped can be read from them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import keras
import numpy as np
from scipy.special import softmax

from tfmpq.checkpoints import described
from tfmpq.data import ImageBatches
from tfmpq.loop import train
from tfmpq.progress import Reporter
from tfmpq.quantizers import LearnedStepQuantizer
from tfmpq.quantizing import quantize_wrappers
from tfmpq.runs import Stage

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
    for _, variables in _choices(model):
        logits = np.array(variables["bit_logits"])
        probabilities = softmax(logits.astype(np.float64))
        improbable = (probabilities < threshold) & (probabilities < probabilities.max())
        if improbable.any():
            variables["bit_logits"].assign(np.where(improbable, np.float32(_DROPPED), logits))


def leave_out_dropped(model: keras.Model) -> None:
    """Have the quantizers compute what is not marked; to be called before the step is traced."""
    for quantizer, variables in _choices(model):
        kept = np.array(variables["bit_logits"]) > _DROPPED / 2
        quantizer.kept = tuple(int(i) for i in np.flatnonzero(kept))


def _choices(model: keras.Model) -> Iterator[tuple[LearnedStepQuantizer, dict]]:
    for wrapper in quantize_wrappers(model):
        for quantizer, variables in (
            (wrapper.weight_quantizer, wrapper.weight_variables),
            (wrapper.output_quantizer, wrapper.output_variables),
        ):
            if quantizer is not None and "bit_logits" in variables:
                yield quantizer, variables
