"""Functions of elements that no operator of the runtime is, made of those that it computes exactly.

Maxima, minima and bounds are ReLUs and sums: max(a, b) = b + relu(a - b).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import layers

from tfmpq.graph.recognition import known_function
from tfmpq.graph.replay import Replay

_SELU_SCALE, _SELU_ALPHA = 1.0507009873554805, 1.6732632423543772
"""Klambauer et al., arXiv 1706.02515, equation 2."""

Composed = Callable[[Replay, str, Any], Any]


def affine(replay: Replay, name: str, value: Any, factor: Any = 1.0, offset: Any = 0.0) -> Any:
    """Factor * value + offset, numbers or one of each for every channel."""
    return replay.call(layers.Rescaling, name, value, scale=factor, offset=offset)


def maximum(replay: Replay, name: str, one: Any, other: Any) -> Any:
    """The larger of two tensors, element by element."""
    return _with_excess(replay, name, layers.Add, other, [one, other])


def minimum(replay: Replay, name: str, one: Any, other: Any) -> Any:
    """The smaller of two tensors, element by element."""
    return _with_excess(replay, name, layers.Subtract, one, [one, other])


def _with_excess(replay: Replay, name: str, kind: Any, base: Any, operands: list[Any]) -> Any:
    """A tensor and relu(one - other): their sum or difference."""
    excess = replay.call(layers.Subtract, f"{name}_difference", operands)
    excess = replay.call(layers.ReLU, f"{name}_excess", excess)
    return replay.call(kind, name, [base, excess])


def bounded(replay: Replay, name: str, value: Any, low: float, high: float) -> Any:
    """min(max(value, low), high): a ReLU6 between a factor and an offset before and behind it."""
    factor = (high - low) / 6.0
    if not factor > 0:
        return None
    if (low, high) != (0.0, 6.0):
        value = affine(replay, f"{name}_to_6", value, 1.0 / factor, -low / factor)
    if (low, high) == (0.0, 6.0):
        return replay.call(layers.ReLU, name, value, max_value=6.0)
    value = replay.call(layers.ReLU, f"{name}_relu6", value, max_value=6.0)
    return affine(replay, name, value, factor, low)


def _at_least(replay: Replay, name: str, value: Any, low: float) -> Any:
    if not low:
        return replay.call(layers.ReLU, name, value)
    value = affine(replay, f"{name}_excess", value, 1.0, -low)
    return affine(replay, name, replay.call(layers.ReLU, f"{name}_relu", value), 1.0, low)


def _at_most(replay: Replay, name: str, value: Any, high: float) -> Any:
    value = affine(replay, f"{name}_excess", value, -1.0, high)
    return affine(replay, name, replay.call(layers.ReLU, f"{name}_relu", value), -1.0, high)


def exponential_unit(replay: Replay, name: str, value: Any, scale: float, alpha: float) -> Any:
    """Scale * (relu(x) + alpha * (exp(min(x, 0)) - 1)), of ELU with alpha 1, which the runtime has."""
    if (scale, alpha) == (1.0, 1.0):
        return replay.call(layers.Activation, name, value, activation="elu")
    above = replay.call(layers.ReLU, f"{name}_above", value)
    below = replay.call(layers.ReLU, f"{name}_below", affine(replay, f"{name}_negative", value, -1.0))
    below = affine(replay, f"{name}_below_zero", below, -1.0)
    below = replay.call(layers.Activation, f"{name}_elu", below, activation="elu")
    below = affine(replay, f"{name}_below_scaled", below, scale * alpha)
    above = above if scale == 1.0 else affine(replay, f"{name}_above_scaled", above, scale)
    return replay.call(layers.Add, name, [above, below])


def _selu(replay: Replay, name: str, value: Any) -> Any:
    return exponential_unit(replay, name, value, _SELU_SCALE, _SELU_ALPHA)


_COMPOSED: dict[str | None, Composed] = {
    "selu": _selu,
    "hard_tanh": lambda replay, name, value: bounded(replay, name, value, -1.0, 1.0),
}
"""Activations that are several layers."""


def is_composed(function: Any) -> bool:
    """Whether an activation is several layers."""
    return known_function(function) in _COMPOSED


def activated(replay: Replay, function: Any, name: str, value: Any) -> Any:
    """The layers of an activation that is several layers."""
    return _COMPOSED[known_function(function)](replay, name, value)


def _activation(replay: Replay, layer: Any, args: tuple[Any, ...]) -> Any:
    function = layer.activation
    return activated(replay, function, layer.name, args[0]) if is_composed(function) else None


def _relu(replay: Replay, layer: Any, args: tuple[Any, ...]) -> Any:
    """A ReLU with another upper bound than 6."""
    high = layer.max_value
    if high is None or float(high) == 6.0 or layer.negative_slope or layer.threshold:
        return None
    return bounded(replay, layer.name, args[0], 0.0, float(high))


def _elu(replay: Replay, layer: Any, args: tuple[Any, ...]) -> Any:
    return exponential_unit(replay, layer.name, args[0], 1.0, float(layer.alpha))


def _of_several(two: Callable[..., Any]) -> Callable[[Replay, Any, tuple[Any, ...]], Any]:
    def expanded(replay: Replay, layer: Any, args: tuple[Any, ...]) -> Any:
        value, *others = args[0]
        for number, other in enumerate(others, 1):
            last = number == len(others)
            value = two(replay, layer.name if last else f"{layer.name}_part{number}", value, other)
        return value

    return expanded


def _average(replay: Replay, layer: Any, args: tuple[Any, ...]) -> Any:
    total = replay.call(layers.Add, f"{layer.name}_sum", list(args[0]))
    return affine(replay, layer.name, total, 1.0 / len(args[0]))


LAYERS: dict[type, Any] = {
    layers.Activation: _activation,
    layers.ReLU: _relu,
    layers.ELU: _elu,
    layers.Maximum: _of_several(maximum),
    layers.Minimum: _of_several(minimum),
    layers.Average: _average,
}
"""Layers that are several others."""


def _between(two: Any, with_constant: Any) -> Any:
    """An operation of two tensors, or of one and a number."""

    def expanded(replay: Replay, operation: Any, args: tuple[Any, ...]) -> Any:
        tensors = [arg for arg in args[:2] if isinstance(arg, keras.KerasTensor)]
        if len(tensors) == 2:
            return two(replay, operation.name, *tensors)
        constant = next(arg for arg in args[:2] if not isinstance(arg, keras.KerasTensor))
        if np.size(constant) != 1:
            return None
        return with_constant(replay, operation.name, tensors[0], float(np.ravel(constant)[0]))

    return expanded


def _clip(replay: Replay, operation: Any, args: tuple[Any, ...]) -> Any:
    if np.size(operation.x_min) != 1 or np.size(operation.x_max) != 1:
        return None
    return bounded(replay, operation.name, args[0], float(operation.x_min), float(operation.x_max))


def _subtract(replay: Replay, operation: Any, args: tuple[Any, ...]) -> Any:
    if not all(isinstance(arg, keras.KerasTensor) for arg in args[:2]):
        return None  # a factor and an offset
    return replay.call(layers.Subtract, operation.name, list(args[:2]))


def _square(replay: Replay, operation: Any, args: tuple[Any, ...]) -> Any:
    if len(args) > 1 and not (np.isscalar(args[1]) and args[1] == 2):
        return None
    return replay.call(layers.Multiply, operation.name, [args[0], args[0]])


def _absolute(replay: Replay, operation: Any, args: tuple[Any, ...]) -> Any:
    name, value = operation.name, args[0]
    above = replay.call(layers.ReLU, f"{name}_above", value)
    below = replay.call(layers.ReLU, f"{name}_below", affine(replay, f"{name}_negative", value, -1.0))
    return replay.call(layers.Add, name, [above, below])


OPERATIONS: dict[str, Any] = {
    "Maximum": _between(maximum, _at_least),
    "Minimum": _between(minimum, _at_most),
    "Clip": _clip,
    "Subtract": _subtract,
    "Square": _square,
    "Power": _square,
    "Absolute": _absolute,
    "Negative": lambda replay, operation, args: affine(replay, operation.name, args[0], -1.0),
    "LeakyRelu": lambda replay, operation, args: replay.call(
        layers.LeakyReLU, operation.name, args[0], negative_slope=float(operation.negative_slope)
    ),
    "Elu": lambda replay, operation, args: exponential_unit(
        replay, operation.name, args[0], 1.0, float(operation.alpha)
    ),
    "Selu": lambda replay, operation, args: _selu(replay, operation.name, args[0]),
    "HardTanh": lambda replay, operation, args: bounded(replay, operation.name, args[0], -1.0, 1.0),
    "Tanh": lambda replay, operation, args: replay.call(
        layers.Activation, operation.name, args[0], activation="tanh"
    ),
    "Softmax": lambda replay, operation, args: replay.call(
        layers.Softmax, operation.name, args[0], axis=operation.axis
    ),
}
"""Operations of `keras.ops` by class name."""
