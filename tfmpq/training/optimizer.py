"""One optimizer for two kinds of variables: SGD for weights, Adam for the quantizers' own."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
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
        self._seconds = {
            index: self.add_variable_from_reference(variables[index], "second_moment")
            for index in positions(variables, QUANTIZERS)
        }
        self._learned = list(variables)

    def apply(self, grads: Any, trainable_variables: Any = None) -> Any:
        """Update all variables; those of quantizers that are alike together.

        Of these there are hundreds, and an operation for each of them and each term of Adam takes as long to
        compile as the network itself.
        """
        if not self.built:
            self.build(trainable_variables)
        variables = list(self._learned if trainable_variables is None else trainable_variables)
        places = {id(v): i for i, v in enumerate(self._learned)}
        rest, alike = [], defaultdict(list)
        for gradient, variable in zip(grads, variables, strict=True):
            index = places[id(variable)]
            if index in self._seconds:
                kind = self._is_step[index], tuple(variable.shape)
                alike[kind].append((ops.cast(gradient, variable.dtype), index))
            else:
                rest.append((gradient, variable))
        for (is_step, _), members in alike.items():
            multiplier = self.step_multiplier if is_step else self.logit_multiplier
            self._adam(members, self.learning_rate * multiplier)
        if not rest:
            self.iterations.assign_add(1)
            return None
        # Last, because it counts the step.
        return super().apply([gradient for gradient, _ in rest], [variable for _, variable in rest])

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Update a weight with Nesterov momentum."""
        momentum = self._momentums[self._get_variable_index(variable)]
        rate = ops.cast(learning_rate, variable.dtype)
        gradient = ops.cast(gradient, variable.dtype)
        velocity = momentum * self.momentum - gradient * rate
        self.assign(momentum, velocity)
        self.assign_add(variable, velocity * self.momentum - gradient * rate)

    def _adam(self, members: Sequence[tuple[Any, int]], rate: Any) -> None:
        """Update variables of one shape, given as gradients and positions."""
        variables = [self._learned[i] for _, i in members]
        slots = [self._momentums[i] for _, i in members], [self._seconds[i] for _, i in members]
        old, first, second = (ops.stack([ops.convert_to_tensor(v.value) for v in vs]) for vs in (variables, *slots))
        gradient = ops.stack([gradient for gradient, _ in members])
        count, rate = ops.cast(self.iterations + 1, old.dtype), ops.cast(rate, old.dtype)
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * ops.square(gradient)
        mean = first / (1.0 - ops.power(ops.cast(0.9, old.dtype), count))
        spread = second / (1.0 - ops.power(ops.cast(0.999, old.dtype), count))
        new = old - rate * mean / (ops.sqrt(spread) + 1e-12)
        for targets, values in ((variables, new), (slots[0], first), (slots[1], second)):
            for target, value in zip(targets, ops.unstack(values, len(members)), strict=True):
                target.assign(value)

    def get_config(self) -> dict[str, Any]:
        """Constructor arguments."""
        return {
            **super().get_config(),
            "step_multiplier": self.step_multiplier,
            "logit_multiplier": self.logit_multiplier,
            "momentum": self.momentum,
        }
