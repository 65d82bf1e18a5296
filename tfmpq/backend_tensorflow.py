"""What differs between backends, TensorFlow's side: gradients and the `train_step` signature."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf


def value_and_gradient(function: Callable[[Sequence[Any]], tuple[Any, Any]], inputs: Sequence[Any]) -> Any:
    """Value, auxiliary output and gradient of `function`.

    Args:
        function: Maps a list of tensors to (scalar, auxiliary).
        inputs: Tensors to differentiate with respect to.

    Returns:
        ((scalar, auxiliary), gradients); a gradient is zero where the input has no influence.
    """
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(inputs)
        value, auxiliary = function(inputs)
    return (value, auxiliary), tape.gradient(
        value, inputs, unconnected_gradients=tf.UnconnectedGradients.ZERO
    )


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of tensors, compiled when it is first called with their shapes."""
    return tf.function(function, autograph=False)


class TrainStep:
    """`train_step` for the TensorFlow backend; mixed into the training model."""

    def train_step(self: Any, data: Any) -> dict[str, Any]:
        """One update from a batch (images float32, labels int32)."""
        images, labels = data
        trainable = [tf.convert_to_tensor(variable.value) for variable in self.trainable_variables]
        state = [tf.convert_to_tensor(variable.value) for variable in self.non_trainable_variables]
        gradients, new_state, metrics = self.compute_update(trainable, state, images, labels)
        for variable, value in zip(self.non_trainable_variables, new_state, strict=True):
            variable.assign(value)
        self.optimizer.apply(gradients, self.trainable_variables)
        return metrics
