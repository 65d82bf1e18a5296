"""What differs between backends, JAX's side: gradients and the `train_step` signature."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax


def value_and_gradient(function: Callable[[Sequence[Any]], tuple[Any, Any]], inputs: Sequence[Any]) -> Any:
    """Value, auxiliary output and gradient of `function`.

    Args:
        function: Maps a list of tensors to (scalar, auxiliary).
        inputs: Tensors to differentiate with respect to.

    Returns:
        ((scalar, auxiliary), gradients); a gradient is zero where the input has no influence.
    """
    return jax.value_and_grad(function, has_aux=True)(list(inputs))


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of tensors, compiled when it is first called with their shapes."""
    return jax.jit(function)


class TrainStep:
    """`train_step` for the JAX backend; mixed into the training model."""

    def train_step(self: Any, state: Any, data: Any) -> Any:
        """One update from a batch (images float32, labels int32)."""
        trainable, non_trainable, optimizer_state, metric_state = state
        images, labels = data
        gradients, new_state, metrics = self.compute_update(
            list(trainable), list(non_trainable), images, labels
        )
        trainable, optimizer_state = self.optimizer.stateless_apply(optimizer_state, gradients, trainable)
        return metrics, (trainable, new_state, optimizer_state, metric_state)
