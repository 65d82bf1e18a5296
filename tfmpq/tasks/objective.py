"""What a network is trained for: its loss, its distillation, its score and how far two outputs are apart.

A record holds one kind of task. Training, the loss around a trained network and the sensitivity of layers
read from it all that they need to know about the task. `tfmpq.tasks.kinds` chooses the record for labels and
a network.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import ops
from scipy.special import log_expit, log_softmax

from tfmpq.tasks.score_names import ACCURACY, EXPLAINED, LABEL_ACCURACY

BINARY, SEVERAL_LABELS = "binary", "several labels"

_LEAST_PROBABILITY = 1.0 / 512
"""Half of the finest step of a sigmoid's output in a file: a quantized 0 is less than that, not nothing."""

_LEAST_SIGNAL = 1e-30


@dataclass(frozen=True, slots=True)
class Objective:
    """One kind of task. Outputs are those of the network, float32, with the batch first.

    Attributes:
        name: What the kind is called.
        loss: Labels and outputs to a scalar, the mean over the batch; differentiable.
        soft_targets: A teacher's outputs to what `imitation` compares with.
        imitation: Soft targets and outputs to a scalar, the mean over the batch; differentiable.
        score_name: What the score is called.
        score: Labels and outputs to a scalar, the mean over the batch; at most 1, larger is better.
        divergence: Outputs of the float network and others of the same images, NumPy arrays, to the mean
            distance between them; 0 where they are equal.
        unit: Unit that the loss measures outputs in; 1 of logits and probabilities.
    """

    name: str
    loss: Callable[[Any, Any], Any]
    soft_targets: Callable[[Any], Any]
    imitation: Callable[[Any, Any], Any]
    score_name: str
    score: Callable[[Any, Any], Any]
    divergence: Callable[[np.ndarray, np.ndarray], float]
    unit: float = 1.0

    @property
    def of_classes(self) -> bool:
        """Whether labels are classes, so that the score is top-1."""
        return self.score_name == ACCURACY


def _cross_entropy(labels: Any, logits: Any) -> Any:
    return ops.mean(keras.losses.sparse_categorical_crossentropy(labels, logits, from_logits=True))


def _soft_cross_entropy(probabilities: Any, logits: Any) -> Any:
    return ops.mean(keras.losses.categorical_crossentropy(probabilities, logits, from_logits=True))


def _share_of_hits(labels: Any, logits: Any) -> Any:
    hits = ops.equal(ops.argmax(logits, axis=-1), ops.cast(labels, "int32"))
    return ops.mean(ops.cast(hits, "float32"))


def _kullback_leibler(expected: np.ndarray, found: np.ndarray) -> float:
    """In nats, in float64: widths that are nearly as good as float differ behind the sixth digit."""
    logs = [log_softmax(np.asarray(logits, np.float64), axis=-1) for logits in (expected, found)]
    return float(np.mean(np.sum(np.exp(logs[0]) * (logs[0] - logs[1]), axis=-1)))


CLASSES = Objective(
    name="classes",
    loss=_cross_entropy,
    soft_targets=ops.softmax,
    imitation=_soft_cross_entropy,
    score_name=ACCURACY,
    score=_share_of_hits,
    divergence=_kullback_leibler,
)
"""One of several classes: outputs are logits (N, classes), labels are integers (N,)."""


def yes_or_no(name: str, probabilities: bool) -> Objective:
    """Answers that are yes or no, each on its own: labels and outputs (N, ...), labels 0 or 1.

    Args:
        name: `binary`: one answer, labels (N,); or `several labels`.
        probabilities: Whether the network ends in a sigmoid; else in logits.
    """

    def like(labels: Any, outputs: Any) -> Any:
        return ops.reshape(ops.cast(labels, "float32"), ops.shape(outputs))

    def entropy(targets: Any, outputs: Any) -> Any:
        if probabilities:
            outputs = ops.clip(outputs, _LEAST_PROBABILITY, 1.0 - _LEAST_PROBABILITY)
            return ops.mean(ops.binary_crossentropy(targets, outputs))
        return ops.mean(ops.binary_crossentropy(targets, outputs, from_logits=True))

    def right(labels: Any, outputs: Any) -> Any:
        yes = outputs > (0.5 if probabilities else 0.0)
        return ops.mean(ops.cast(ops.equal(yes, like(labels, outputs) > 0.5), "float32"))

    def divergence(expected: np.ndarray, found: np.ndarray) -> float:
        (yes, no), (found_yes, found_no) = (_logarithms(x, probabilities) for x in (expected, found))
        return float(np.mean(np.exp(yes) * (yes - found_yes) + np.exp(no) * (no - found_no)))

    return Objective(
        name=name,
        loss=lambda labels, outputs: entropy(like(labels, outputs), outputs),
        soft_targets=(lambda outputs: outputs) if probabilities else ops.sigmoid,
        imitation=entropy,
        score_name=ACCURACY if name == BINARY else LABEL_ACCURACY,
        score=right,
        divergence=divergence,
    )


def _logarithms(outputs: np.ndarray, probabilities: bool) -> tuple[np.ndarray, np.ndarray]:
    """Logarithms of the probabilities of yes and of no, float64."""
    outputs = np.asarray(outputs, np.float64)
    if not probabilities:
        return log_expit(outputs), log_expit(-outputs)
    outputs = np.clip(outputs, _LEAST_PROBABILITY, 1.0 - _LEAST_PROBABILITY)
    return np.log(outputs), np.log1p(-outputs)


def one_against_rest(probabilities: bool) -> Objective:
    """One of several classes from a network with a sigmoid for each: labels are integers (N,).

    Args:
        probabilities: As for `yes_or_no`.
    """
    each = yes_or_no(SEVERAL_LABELS, probabilities)

    def loss(labels: Any, outputs: Any) -> Any:
        return each.loss(ops.one_hot(ops.cast(labels, "int32"), outputs.shape[-1]), outputs)

    return Objective(
        name="one against the rest",
        loss=loss,
        soft_targets=each.soft_targets,
        imitation=each.imitation,
        score_name=ACCURACY,
        score=_share_of_hits,
        divergence=each.divergence,
    )


def values(variance: float) -> Objective:
    """Numbers: vectors, maps or images; labels and outputs (N, ...) of one shape.

    The loss is the mean squared error over the variance of the labels, so that rates of learning mean the
    same in every unit. The score is 1 less that: the share of the variance that is explained (R squared).

    Args:
        variance: Of the labels over the images, mean over the elements.
    """
    scale = 1.0 / max(variance, _LEAST_SIGNAL)

    def error(labels: Any, outputs: Any) -> Any:
        labels = ops.reshape(ops.cast(labels, "float32"), ops.shape(outputs))
        return ops.mean(ops.square(outputs - labels)) * scale

    def divergence(expected: np.ndarray, found: np.ndarray) -> float:
        expected = np.asarray(expected, np.float64)
        return float(np.mean(np.square(np.asarray(found, np.float64) - expected))) * scale

    return Objective(
        name="values",
        loss=error,
        soft_targets=lambda outputs: outputs,
        imitation=error,
        score_name=EXPLAINED,
        score=lambda labels, outputs: 1.0 - error(labels, outputs),
        divergence=divergence,
        unit=float(np.sqrt(max(variance, _LEAST_SIGNAL))),
    )
