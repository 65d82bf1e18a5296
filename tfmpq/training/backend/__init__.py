"""The one place that chooses between TensorFlow and JAX: what they do differently, under the same names."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras

if keras.backend.backend() == "tensorflow":
    from tfmpq.training.backend.tensorflow import (
        Replicas,
        TrainStep,
        accelerated,
        compiled,
        has_xla,
        mean_over_replicas,
        quickly_compiled,
        traced_once,
        uncompilable,
        value_and_gradient,
    )
else:
    from tfmpq.training.backend.jax import (  # type: ignore[assignment]
        Replicas,
        TrainStep,
        accelerated,
        compiled,
        has_xla,
        mean_over_replicas,
        quickly_compiled,
        traced_once,
        uncompilable,
        value_and_gradient,
    )

__all__ = [
    "Replicas",
    "TrainStep",
    "accelerated",
    "batch_value_and_gradient",
    "compiled",
    "has_xla",
    "mean_over_replicas",
    "quickly_compiled",
    "traced_once",
    "uncompilable",
    "value_and_gradient",
]


def batch_value_and_gradient(
    function: Callable[[Sequence[Any]], tuple[Any, Any]], inputs: Sequence[Any]
) -> Any:
    """`value_and_gradient` of a mean over a batch; over all of it, where several devices share it.

    Args:
        function: Maps a list of tensors to (mean over this device's part of the batch, auxiliary).
        inputs: Tensors to differentiate with respect to.

    Returns:
        ((mean over the batch, auxiliary of this device), gradients of the mean over the batch).
    """
    (value, auxiliary), gradients = value_and_gradient(function, inputs)
    value, *gradients = mean_over_replicas([value, *gradients])
    return (value, auxiliary), gradients
