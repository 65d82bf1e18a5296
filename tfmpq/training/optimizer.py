"""One optimizer for two kinds of variables: SGD or AdamW for weights, Adam for the quantizers' own."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any, Literal

import keras
from keras import ops

from tfmpq.keras_internals import trained_by
from tfmpq.training.variables import AFFINE, QUANTIZERS, positions

Rule = Literal["sgd", "adamw"]
"""How weights are updated: momentum SGD, or Adam with decoupled decay (Loshchilov and Hutter, ICLR 2019)."""

_WEIGHT_EPSILON, _QUANTIZER_EPSILON = 1e-8, 1e-12
"""What Adam adds to the root of the second moment; gradients of steps may be far smaller than of weights."""


@keras.saving.register_keras_serializable("tfmpq")
class QuantizationOptimizer(keras.optimizers.Optimizer):
    """Momentum SGD or AdamW on weights and BatchNorm, Adam on log-steps and bit-width logits.

    Steps and logits live on scales of their own, so they get Adam's normalised updates; their rates are
    multiples of the weights' learning rate, so that one schedule drives all. Weight decay (decoupled) acts on
    kernels only.

    Args:
        learning_rate: Rate or schedule for the weights.
        step_multiplier: Adam's rate for log-steps, relative to `learning_rate`.
        logit_multiplier: Adam's rate for bit-width logits, relative to `learning_rate`.
        momentum: Nesterov momentum of SGD.
        weight_decay: Decay of kernels.
        weights: How weights are updated.
    """

    def __init__(
        self,
        learning_rate: Any = 0.01,
        step_multiplier: float = 0.1,
        logit_multiplier: float = 1.0,
        momentum: float = 0.9,
        weight_decay: float | None = 1e-4,
        weights: Rule = "sgd",
        name: str = "quantization_optimizer",
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate=learning_rate, weight_decay=weight_decay, name=name, **kwargs)
        self.step_multiplier = step_multiplier
        self.logit_multiplier = logit_multiplier
        self.momentum = momentum
        self.weights = weights
        self.exclude_from_weight_decay(var_names=[*QUANTIZERS, *AFFINE])

    def build(self, variables: Any) -> None:
        """Create the slots: a momentum for every variable, a second moment where Adam is used."""
        if self.built:
            return
        super().build(variables)
        self._momentums = [self.add_variable_from_reference(v, "momentum") for v in variables]
        self._is_step = [v.path.endswith("log_step") for v in variables]
        self._quantizers = set(positions(variables, QUANTIZERS))
        self._seconds = {
            index: self.add_variable_from_reference(variable, "second_moment")
            for index, variable in enumerate(variables)
            if index in self._quantizers or self.weights == "adamw"
        }
        self._affine = set(positions(variables, AFFINE))

    def apply(self, grads: Any, trainable_variables: Any = None) -> Any:
        """Update all variables; small ones of one kind and shape together.

        Of these there are hundreds, and operations for each of them take as long to compile as the network.
        """
        if not self.built:
            self.build(trainable_variables)
        learned = trained_by(self)
        variables = learned if trainable_variables is None else list(trainable_variables)
        places = {id(v): i for i, v in enumerate(learned)}
        kernels, alike = [], defaultdict(list)
        for gradient, variable in zip(grads, variables, strict=True):
            index = places[id(variable)]
            if index in self._quantizers or index in self._affine:
                kind = index in self._quantizers, self._is_step[index], tuple(variable.shape)
                alike[kind].append((ops.cast(gradient, variable.dtype), index))
            else:
                kernels.append((gradient, variable))
        for (of_quantizer, is_step, _), members in alike.items():
            if of_quantizer:
                multiplier = self.step_multiplier if is_step else self.logit_multiplier
                self._adam(members, self.learning_rate * multiplier, _QUANTIZER_EPSILON)
            else:
                self._update_weights(members, self.learning_rate)
        if not kernels:
            self.iterations.assign_add(1)
            return None
        # Last, because it counts the step.
        return super().apply([gradient for gradient, _ in kernels], [variable for _, variable in kernels])

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Update a kernel, after its decay."""
        self._update_weights([(gradient, self._get_variable_index(variable))], learning_rate)

    def _update_weights(self, members: Sequence[tuple[Any, int]], rate: Any) -> None:
        if self.weights == "adamw":
            self._adam(members, rate, _WEIGHT_EPSILON)
        else:
            self._nesterov(members, rate)

    def _nesterov(self, members: Sequence[tuple[Any, int]], rate: Any) -> None:
        """Update variables of one shape, given as gradients and positions, with Nesterov momentum."""
        both = trained_by(self), self._momentums
        old, momentum = (_stacked([slots[i] for _, i in members]) for slots in both)
        gradient = ops.cast(_stack([gradient for gradient, _ in members]), old.dtype)
        step = gradient * ops.cast(rate, old.dtype)
        velocity = momentum * self.momentum - step
        new = old + (velocity * self.momentum - step)
        for slots, values in zip(both, (new, velocity), strict=True):
            _assign([slots[i] for _, i in members], values)

    def _adam(self, members: Sequence[tuple[Any, int]], rate: Any, epsilon: float) -> None:
        """Update variables of one shape, given as gradients and positions, with Adam."""
        every: tuple[Any, ...] = (trained_by(self), self._momentums, self._seconds)
        old, first, second = (_stacked([slots[i] for _, i in members]) for slots in every)
        gradient = ops.cast(_stack([gradient for gradient, _ in members]), old.dtype)
        count, rate = ops.cast(self.iterations + 1, old.dtype), ops.cast(rate, old.dtype)
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * ops.square(gradient)
        mean = first / (1.0 - ops.power(ops.cast(0.9, old.dtype), count))
        spread = second / (1.0 - ops.power(ops.cast(0.999, old.dtype), count))
        new = old - rate * mean / (ops.sqrt(spread) + epsilon)
        for slots, values in zip(every, (new, first, second), strict=True):
            _assign([slots[i] for _, i in members], values)

    def get_config(self) -> dict[str, Any]:
        """Constructor arguments."""
        return {
            **super().get_config(),
            "step_multiplier": self.step_multiplier,
            "logit_multiplier": self.logit_multiplier,
            "momentum": self.momentum,
            "weights": self.weights,
        }


def _stack(tensors: Sequence[Any]) -> Any:
    """Tensors of one shape as one; a single one as it is, because a copy of a kernel costs time."""
    return tensors[0] if len(tensors) == 1 else ops.stack(tensors)


def _stacked(variables: Sequence[Any]) -> Any:
    """The values of variables of one shape as one tensor."""
    return _stack([ops.convert_to_tensor(variable.value) for variable in variables])


def _assign(variables: Sequence[Any], values: Any) -> None:
    """Give variables of one shape their parts of a tensor that `_stack` could have made."""
    parts = [values] if len(variables) == 1 else ops.unstack(values, len(variables))
    for variable, part in zip(variables, parts, strict=True):
        variable.assign(part)
