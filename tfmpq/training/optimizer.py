"""One optimizer for two kinds of variables: SGD for weights, Adam for the quantizers' own."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from tfmpq.training.variables import AFFINE, QUANTIZERS, positions


@keras.saving.register_keras_serializable("tfmpq")
class QuantizationOptimizer(keras.optimizers.Optimizer):
    """Momentum SGD on weights and BatchNorm, Adam on log-steps and bit-width logits.

    Steps and logits live on scales of their own, so they get Adam's normalised updates; their rates are
    multiples of the weights' learning rate, so that one schedule drives all. Weight decay (decoupled) acts on
    kernels only.

    Args:
        learning_rate: Rate or schedule for the weights.
        step_multiplier: Adam's rate for log-steps, relative to `learning_rate`.
        logit_multiplier: Adam's rate for bit-width logits, relative to `learning_rate`.
        momentum: Nesterov momentum of SGD.
        weight_decay: Decay of kernels.
    """

    def __init__(
        self,
        learning_rate: Any = 0.01,
        step_multiplier: float = 0.1,
        logit_multiplier: float = 1.0,
        momentum: float = 0.9,
        weight_decay: float | None = 1e-4,
        name: str = "quantization_optimizer",
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate=learning_rate, weight_decay=weight_decay, name=name, **kwargs)
        self.step_multiplier = step_multiplier
        self.logit_multiplier = logit_multiplier
        self.momentum = momentum
        self.exclude_from_weight_decay(var_names=[*QUANTIZERS, *AFFINE])

    def build(self, variables: Any) -> None:
        """Create the slots: a momentum for every variable, a second moment where Adam is used."""
        if self.built:
            return
        super().build(variables)
        self._momentums = [self.add_variable_from_reference(v, "momentum") for v in variables]
        self._is_step = [v.path.endswith("log_step") for v in variables]
        adaptive = positions(variables, QUANTIZERS)
        self._seconds = {
            index: self.add_variable_from_reference(v, "second_moment")
            for index, v in enumerate(variables)
            if index in adaptive
        }

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Update one variable by its own rule."""
        index = self._get_variable_index(variable)
        momentum = self._momentums[index]
        rate = ops.cast(learning_rate, variable.dtype)
        gradient = ops.cast(gradient, variable.dtype)
        if index in self._seconds:
            multiplier = self.step_multiplier if self._is_step[index] else self.logit_multiplier
            self._adam(gradient, variable, momentum, self._seconds[index], rate * multiplier)
            return
        velocity = momentum * self.momentum - gradient * rate
        self.assign(momentum, velocity)
        self.assign_add(variable, velocity * self.momentum - gradient * rate)

    def _adam(self, gradient: Any, variable: Any, first: Any, second: Any, rate: Any) -> None:
        count = ops.cast(self.iterations + 1, variable.dtype)
        self.assign(first, 0.9 * first + 0.1 * gradient)
        self.assign(second, 0.999 * second + 0.001 * ops.square(gradient))
        mean = first / (1.0 - ops.power(ops.cast(0.9, variable.dtype), count))
        spread = second / (1.0 - ops.power(ops.cast(0.999, variable.dtype), count))
        self.assign_sub(variable, rate * mean / (ops.sqrt(spread) + 1e-12))

    def get_config(self) -> dict[str, Any]:
        """Constructor arguments."""
        return {
            **super().get_config(),
            "step_multiplier": self.step_multiplier,
            "logit_multiplier": self.logit_multiplier,
            "momentum": self.momentum,
        }
