"""What a network is trained for: its loss, its distillation, its score and how far two outputs are apart.

A record holds one kind of task. Training, the loss around a trained network and the sensitivity of layers
read from it all that they need to know about the task.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import ops
from scipy.special import log_softmax


@dataclass(frozen=True, slots=True)
class Objective:
    """One kind of task. Outputs are those of the network, float32, with the batch first.

    Attributes:
        name: What the kind is called.
        loss: Labels and outputs to a scalar, the mean over the batch; differentiable.
        soft_targets: A teacher's outputs to what `imitation` compares with.
        imitation: Soft targets and outputs to a scalar, the mean over the batch; differentiable.
        score_name: What the score is called.
        score: Labels and outputs to a scalar, the mean over the batch; larger is better.
        projection: Outputs and random signs of their shape to a scalar, the sum over the batch, whose
            gradient with respect to the outputs has the second derivative of the divergence, where that is 0,
            as its covariance; differentiable.
        divergence: Outputs of the float network and others of the same images, NumPy arrays, to the mean
            distance between them; 0 where they are equal.
    """

    name: str
    loss: Callable[[Any, Any], Any]
    soft_targets: Callable[[Any], Any]
    imitation: Callable[[Any, Any], Any]
    score_name: str
    score: Callable[[Any, Any], Any]
    projection: Callable[[Any, Any], Any]
    divergence: Callable[[np.ndarray, np.ndarray], float]


def _cross_entropy(labels: Any, logits: Any) -> Any:
    return ops.mean(keras.losses.sparse_categorical_crossentropy(labels, logits, from_logits=True))


def _soft_cross_entropy(probabilities: Any, logits: Any) -> Any:
    return ops.mean(keras.losses.categorical_crossentropy(probabilities, logits, from_logits=True))


def _share_of_hits(labels: Any, logits: Any) -> Any:
    hits = ops.equal(ops.argmax(logits, axis=-1), ops.cast(labels, "int32"))
    return ops.mean(ops.cast(hits, "float32"))


def _signed_logits(logits: Any, signs: Any) -> Any:
    """With p the probabilities, the gradient is (I - p 1^T) sqrt(p) s; its covariance is diag(p) - p p^T."""
    shares = ops.stop_gradient(ops.softmax(logits))
    centered = logits - ops.sum(shares * logits, axis=-1, keepdims=True)
    return ops.sum(ops.sqrt(shares) * signs * centered)


def _kullback_leibler(expected: np.ndarray, found: np.ndarray) -> float:
    """In nats, in float64: widths that are nearly as good as float differ behind the sixth digit."""
    logs = [log_softmax(np.asarray(logits, np.float64), axis=-1) for logits in (expected, found)]
    return float(np.mean(np.sum(np.exp(logs[0]) * (logs[0] - logs[1]), axis=-1)))


CLASSES = Objective(
    name="classes",
    loss=_cross_entropy,
    soft_targets=ops.softmax,
    imitation=_soft_cross_entropy,
    score_name="accuracy",
    score=_share_of_hits,
    projection=_signed_logits,
    divergence=_kullback_leibler,
)
"""One of several classes: outputs are logits (N, classes), labels are integers (N,)."""
