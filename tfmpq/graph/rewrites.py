"""What layers become that a deployed network has no operator for.

A rewrite gets the old layer and its new inputs, and returns the new output, or None to leave the layer alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np
from keras import layers

from tfmpq.graph.activations import gelu_tanh
from tfmpq.graph.groups import group_normalization
from tfmpq.graph.layers import activation_of
from tfmpq.graph.recognition import is_a, known_function
from tfmpq.graph.replay import Replay, config_of, weights_of
from tfmpq.keras_internals import calls_of, operation_of, own_operation

Rewrite = Callable[[Replay, Any, tuple[Any, ...]], Any]

_GATES = {"silu": "sigmoid", "hard_silu": "hard_sigmoid"}
"""Activations x * gate(x), which are two operators on a phone."""

_FUNCTIONS = {
    "Relu": "relu",
    "Relu6": "relu6",
    "Sigmoid": "sigmoid",
    "HardSigmoid": "hard_sigmoid",
    "Silu": "silu",
    "HardSilu": "hard_silu",
    "Gelu": "gelu",
}
"""Operations of `keras.ops` that are activations."""

ELEMENTWISE = frozenset({*_FUNCTIONS, "Add", "Multiply", "Subtract", "TrueDivide", "Divide"})
"""Operations of `keras.ops` that do the same to every element."""


@dataclass(frozen=True, slots=True, eq=False)
class Channels:
    """A factor and an offset, one of each or one for every channel: factor * x + offset."""

    factor: np.ndarray = field(default_factory=lambda: np.ones(()))
    offset: np.ndarray = field(default_factory=lambda: np.zeros(()))

    def then(self, other: Channels) -> Channels:
        """This, then the other."""
        return Channels(self.factor * other.factor, self.offset * other.factor + other.offset)

    def config(self) -> dict[str, Any]:
        """Arguments of `keras.layers.Rescaling`."""
        return {"scale": self.factor.tolist(), "offset": self.offset.tolist()}


def affine_step(operation: Any, args: tuple[Any, ...]) -> Channels | None:
    """The factor and offset that an operation is; None if it is something else."""
    if is_a(operation, layers.Rescaling):
        return Channels(np.asarray(operation.scale, np.float64), np.asarray(operation.offset, np.float64))
    if is_a(operation, layers.Normalization) and _by_channel(operation):
        deviation = np.sqrt(np.asarray(operation.variance, np.float64)).reshape(-1)
        deviation = np.maximum(deviation, keras.config.epsilon())
        mean = np.asarray(operation.mean, np.float64).reshape(-1)
        if operation.invert:
            return Channels(deviation, mean)
        return Channels(1.0 / deviation, -mean / deviation)
    name = own_operation(operation)
    return None if name is None or len(args) != 2 else _operation_with_constant(name, args)


def _by_channel(normalization: Any) -> bool:
    """Whether a Normalization has a mean and a variance for each channel."""
    last = np.ndim(normalization.mean) - 1
    return normalization.axis in (-1, (-1,), last, (last,))


def _operation_with_constant(name: str, args: tuple[Any, ...]) -> Channels | None:
    constants = [arg for arg in args if not isinstance(arg, keras.KerasTensor)]
    if len(constants) != 1:
        return None
    tensor = next(arg for arg in args if isinstance(arg, keras.KerasTensor))
    if np.size(constants[0]) not in (1, np.shape(constants[0])[-1] if np.ndim(constants[0]) else 1):
        return None
    if np.size(constants[0]) not in (1, tensor.shape[-1]):
        return None  # another shape comes out
    value = np.asarray(constants[0], np.float64).reshape(() if np.size(constants[0]) == 1 else (-1,))
    zero, one = np.zeros(()), np.ones(())
    first = isinstance(args[0], keras.KerasTensor)
    match name:
        case "Add":
            return Channels(one, value)
        case "Multiply":
            return Channels(value, zero)
        case "Subtract":
            return Channels(one, -value) if first else Channels(-one, value)
        case "TrueDivide" | "Divide" if first:
            return Channels(one / value, zero)
    return None


def takes_affine(reader: Any, step: Channels) -> bool:
    """Whether a layer can take a factor and an offset of its input into its weights."""
    if _constant_step(reader) is not None:
        return True
    if not is_a(reader, layers.Conv2D, layers.DepthwiseConv2D) or getattr(reader, "groups", 1) != 1:
        return False
    # Zeros that `same` adds are zeros behind the offset.
    return reader.padding == "valid" or not step.offset.any()


def fold_into(replay: Replay, layer: Any, source: Any, step: Channels) -> Any:
    """Copy a convolution with a factor and an offset of its input in its weights.

    It gets another name, so that weights of the one are not taken for those of the other.
    """
    channels = source.shape[-1]
    kernel = np.asarray(layer.kernel, np.float64)
    factor = np.broadcast_to(step.factor, (channels,)).reshape(1, 1, channels, 1)
    offset = np.broadcast_to(step.offset, (channels,)).reshape(1, 1, channels, 1)
    added = kernel * offset
    depthwise = is_a(layer, layers.DepthwiseConv2D)
    added = added.sum((0, 1)).reshape(-1) if depthwise else added.sum((0, 1, 2))
    config = config_of(layer)
    weights = [kernel * factor]
    if layer.use_bias or step.offset.any():
        config["use_bias"] = True
        weights.append(added + (np.asarray(layer.bias, np.float64) if layer.use_bias else 0.0))
    config["name"] = replay.name(replay.part(f"{layer.name}_rescaled"))
    if activation_of(layer) is None:
        config["activation"] = "linear"
    copy = type(layer).from_config(config)
    outputs = copy(source)
    copy.set_weights(weights)
    return _finish(replay, layer, outputs)


def _activation(replay: Replay, layer: Any, args: tuple[Any, ...]) -> Any:
    return _activated(replay, layer.activation, layer.name, args[0])


def _activated(replay: Replay, function: Any, name: str, source: Any) -> Any:
    """An activation x * gate(x) as its two operators; None for other functions."""
    known = known_function(function)
    if known == "leaky_relu":
        return replay.call(layers.LeakyReLU, name, source, negative_slope=0.2)
    if known not in _GATES:
        return None
    gate = replay.call(layers.Activation, replay.part(f"{name}_gate"), source, activation=_GATES[known])
    return replay.call(layers.Multiply, name, [source, gate])


def _function(replay: Replay, operation: Any, args: tuple[Any, ...]) -> Any:
    """An operation of `keras.ops` as a layer."""
    function: Any = keras.activations.get(_FUNCTIONS[own_operation(operation) or ""])
    made = _activated(replay, function, operation.name, args[0])
    if made is not None:
        return made
    if function is keras.activations.gelu and operation.approximate:
        function = gelu_tanh
    return replay.call(layers.Activation, operation.name, args[0], activation=function)


def _weighted(replay: Replay, layer: Any, args: tuple[Any, ...]) -> Any:
    """Take an activation that no operator absorbs out of a layer with weights."""
    if activation_of(layer) is not None:
        return None
    config = config_of(layer) | {"activation": "linear", "name": replay.name(layer.name)}
    copy = type(layer).from_config(config)
    value = copy(args[0])
    copy.set_weights(weights_of(layer))
    return _finish(replay, layer, value)


def _dense(replay: Replay, layer: Any, args: tuple[Any, ...]) -> Any:
    """A dense layer on every pixel is a 1x1 convolution; pixels of more axes are put in a row first."""
    value, shape = args[0], tuple(args[0].shape[1:])
    if len(shape) < 3:
        return _weighted(replay, layer, args)
    kernel, *bias = weights_of(layer)
    if len(shape) > 3:
        rows = (1, int(np.prod(shape[:-1])), shape[-1])
        value = replay.call(layers.Reshape, f"{layer.name}_pixels", value, target_shape=rows)
    value = replay.call(
        layers.Conv2D, layer.name, value, [kernel[None, None], *bias], **_conv(layer, layer.units)
    )
    if len(shape) > 3:
        name = replay.part(f"{layer.name}_shape")
        value = replay.call(layers.Reshape, name, value, target_shape=(*shape[:-1], layer.units))
    return _finish(replay, layer, value)


def _separable(replay: Replay, layer: Any, args: tuple[Any, ...]) -> Any:
    """A depthwise and a 1x1 convolution, each with weights of its own bit-width."""
    depthwise, pointwise, *bias = weights_of(layer)
    value = replay.call(
        layers.DepthwiseConv2D,
        replay.part(f"{layer.name}_depthwise"),
        args[0],
        [depthwise],
        kernel_size=layer.kernel_size,
        strides=layer.strides,
        padding=layer.padding,
        dilation_rate=layer.dilation_rate,
        depth_multiplier=layer.depth_multiplier,
        use_bias=False,
    )
    value = replay.call(layers.Conv2D, layer.name, value, [pointwise, *bias], **_conv(layer, layer.filters))
    return _finish(replay, layer, value)


def _conv(layer: Any, filters: int) -> dict[str, Any]:
    """Arguments of a 1x1 convolution in the place of a layer; activations that it absorbs stay in it."""
    absorbed = layer.activation if activation_of(layer) is not None else None
    return {"filters": filters, "kernel_size": 1, "use_bias": layer.use_bias, "activation": absorbed}


def _finish(replay: Replay, layer: Any, value: Any) -> Any:
    """Apply the activation of a layer if the operator did not absorb it."""
    if activation_of(layer) is not None:
        return value
    name = replay.part(f"{layer.name}_activation")
    made = _activated(replay, layer.activation, name, value)
    return (
        made if made is not None else replay.call(layers.Activation, name, value, activation=layer.activation)
    )


def _pairwise(replay: Replay, layer: Any, args: tuple[Any, ...]) -> Any:
    """Sums and products of more than two tensors, two at a time; operators between tensors as layers."""
    operands = list(args[0]) if isinstance(args[0], (list, tuple)) else list(args)
    if isinstance(layer, layers.Layer) and len(operands) == 2:
        return None
    if len(operands) < 2 or not all(isinstance(x, keras.KerasTensor) for x in operands):
        return None
    added = is_a(layer, layers.Add) or own_operation(layer) == "Add"
    kind = layers.Add if added else layers.Multiply
    value = operands[0]
    for number, operand in enumerate(operands[1:-1], 1):
        value = replay.call(kind, replay.part(f"{layer.name}_part{number}"), [value, operand])
    return replay.call(kind, layer.name, [value, operands[-1]])


def _global_max(replay: Replay, layer: Any, args: tuple[Any, ...]) -> Any:
    """The largest value of an image is that of one window as large as the image."""
    _, height, width, channels = args[0].shape
    value = replay.call(
        layers.MaxPooling2D, replay.part(f"{layer.name}_window"), args[0], pool_size=(height, width)
    )
    shape = (1, 1, channels) if layer.keepdims else (channels,)
    return replay.call(layers.Reshape, layer.name, value, target_shape=shape)


def hard_sigmoid_source(operation: Any) -> Any | None:
    """The tensor of which a chain relu6(x + 3) / 6 is taken, given its last operation; None for others."""
    last = _constant_step(operation)
    if last is None or last.offset.any() or not np.allclose(last.factor, 1 / 6, rtol=1e-6):
        return None
    clip = _producer(operation)
    first = None if clip is None or activation_of(clip) != "relu6" else _producer(clip)
    step = None if first is None else _constant_step(first)
    if first is None or step is None:
        return None
    if not (np.allclose(step.factor, 1) and np.allclose(step.offset, 3)):
        return None
    return calls_of(first)[0].input_tensors[0]


def _constant_step(operation: Any) -> Channels | None:
    if operation is None or len(calls_of(operation)) != 1:
        return None
    return affine_step(operation, calls_of(operation)[0].arguments.args)


def _producer(operation: Any) -> Any | None:
    calls = calls_of(operation)
    if len(calls) != 1 or len(calls[0].input_tensors) != 1:
        return None
    return operation_of(calls[0].input_tensors[0])


def _relu(replay: Replay, layer: Any, args: tuple[Any, ...]) -> Any:
    """A ReLU with a slope and nothing else is a leaky one."""
    if not layer.negative_slope or layer.threshold or layer.max_value is not None:
        return None
    slope = float(layer.negative_slope)
    return replay.call(layers.LeakyReLU, layer.name, args[0], negative_slope=slope)


_REWRITES: dict[type, Rewrite] = {
    layers.Activation: _activation,
    layers.ReLU: _relu,
    layers.Conv2D: _weighted,
    layers.DepthwiseConv2D: _weighted,
    layers.Conv2DTranspose: _weighted,
    layers.Dense: _dense,
    layers.SeparableConv2D: _separable,
    layers.Add: _pairwise,
    layers.Multiply: _pairwise,
    layers.GlobalMaxPooling2D: _global_max,
    layers.GroupNormalization: group_normalization,
}
_OF_OPERATIONS: dict[str, Rewrite] = {
    "Add": _pairwise,
    "Multiply": _pairwise,
    **dict.fromkeys(_FUNCTIONS, _function),
}


def rewrite_of(operation: Any) -> Rewrite | None:
    """The rewrite of a layer or of an operation of `keras.ops`; None if it has none."""
    name = own_operation(operation)
    return _REWRITES.get(type(operation)) if name is None else _OF_OPERATIONS.get(name)
