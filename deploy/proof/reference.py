"""What every layer has to compute, in float64 and NumPy, independent of the runtime and of TensorFlow.

Codes are int8 with a leading batch axis of 1. Accumulators are integers below 2**53, so float64 is exact
up to the final scaling; what is compared is the value before it is rounded to the output grid.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tfmpq.deploy.proof.windows import summed, windows
from tfmpq.graph.frozen import FrozenLayer, FrozenModel

_FLOAT_ROUNDING = 4 * 2.0**-24
"""Relative error of XNNPACK's scaling in float32, before it rounds to the output grid: the scale is a product
and a quotient, the accumulator is converted and multiplied, and each of the four rounds to 24 bits."""

_MULTIPLIER_BITS = 20
"""XNNPACK adds with integer multipliers, the larger one in 2^20 .. 2^21."""


def expected_value(frozen: FrozenModel, layer: FrozenLayer, codes: list[np.ndarray]) -> np.ndarray:
    """A layer's output in units of its output codes, before rounding.

    Args:
        frozen: The network.
        layer: One of its layers, not the input.
        codes: int8 codes of the layer's inputs.

    Returns:
        float64 array; the right code is the nearest integer.
    """
    grids = [frozen.layer(name).grid for name in layer.inputs]
    centered = [value.astype(np.float64) - grid.zero_point for value, grid in zip(codes, grids, strict=True)]
    # A file holds scales in float32; from there on everything is float64.
    scales = [float(np.float32(grid.scale)) for grid in grids]
    real = _COMPUTE[layer.kind](layer, centered, scales)
    if layer.activation != "linear":
        real = np.clip(real, 0.0, 6.0 if layer.activation == "relu6" else None)
    value = real / float(np.float32(layer.grid.scale)) + layer.grid.zero_point
    # Codes saturate: whatever lies beyond the range becomes its end.
    return np.clip(value, *layer.grid.code_range)


def real_value(layer: Any, inputs: list[np.ndarray]) -> np.ndarray:
    """What a layer without weights gives for real inputs, before its activation.

    Args:
        layer: A layer of a kind that exists with integers, with the attributes of that kind.
        inputs: float64 each, with a batch of 1.
    """
    return _COMPUTE[layer.kind](layer, inputs, [1.0] * len(inputs))


def tie_width(frozen: FrozenModel, layer: FrozenLayer) -> float:
    """Distance from one half, in output steps, within which both neighbours are right for a layer.

    The runtime scales with finite precision, so a value that lies nearer than this to the middle between two
    codes may become either. The width bounds that error for the largest codes: about 2^-14 of a step with
    8-bit activations, for a sum about 2^-12 times the ratio of the input's step to the output's.

    Args:
        frozen: The network.
        layer: One of its layers, not the input.
    """
    low, high = layer.grid.code_range
    if layer.kind not in ("add", "subtract"):
        return _FLOAT_ROUNDING * (high - low)
    inputs = [frozen.layer(name).grid for name in layer.inputs]
    ratios = [float(np.float32(grid.scale) / np.float32(layer.grid.scale)) for grid in inputs]
    # Both multipliers are rounded to the same unit, which the larger one decides.
    unit = 2.0 ** (np.floor(np.log2(max(ratios))) - _MULTIPLIER_BITS)
    return sum(
        (grid.code_range[1] - grid.code_range[0]) * (0.5 * unit + _FLOAT_ROUNDING / 2 * ratio)
        for grid, ratio in zip(inputs, ratios, strict=True)
    )


def steps_off(expected: np.ndarray, codes: np.ndarray, tie: float) -> np.ndarray:
    """Output steps between each code and the right one, int64.

    Args:
        expected: float64, from `expected_value`.
        codes: What the runtime answers.
        tie: Distance from one half within which both neighbours are right, from `tie_width`.
    """
    distance = np.abs(expected.reshape(codes.shape) - codes)
    return np.maximum(np.ceil(distance - 0.5 - tie), 0).astype(np.int64)


def _scaled(layer: FrozenLayer, accumulated: np.ndarray, scale: float) -> np.ndarray:
    """Add the bias and go from accumulator steps to real values, by output channel."""
    weights = layer.weights
    if weights is None:
        raise ValueError(f"Only layers with weights have accumulators. Received: {layer.name}.")
    return (accumulated + weights.bias) * (scale * weights.scales.astype(np.float64))


def _weighted(layer: FrozenLayer, inputs: list[np.ndarray], scales: list[float]) -> np.ndarray:
    kernel = layer.weights.integers.astype(np.float64)  # type: ignore[union-attr]
    return _scaled(layer, summed(layer, inputs[0], kernel), scales[0])


def _add(layer: FrozenLayer, inputs: list[np.ndarray], scales: list[float]) -> np.ndarray:
    return inputs[0] * scales[0] + inputs[1] * scales[1]


def _subtract(layer: FrozenLayer, inputs: list[np.ndarray], scales: list[float]) -> np.ndarray:
    return inputs[0] * scales[0] - inputs[1] * scales[1]


def _multiply(layer: FrozenLayer, inputs: list[np.ndarray], scales: list[float]) -> np.ndarray:
    return inputs[0] * inputs[1] * (scales[0] * scales[1])


def _concatenate(layer: FrozenLayer, inputs: list[np.ndarray], scales: list[float]) -> np.ndarray:
    return np.concatenate(inputs, axis=layer.attributes["axis"] + 1) * scales[0]


def _sigmoid(layer: FrozenLayer, inputs: list[np.ndarray], scales: list[float]) -> np.ndarray:
    return 1.0 / (1.0 + np.exp(-inputs[0] * scales[0]))


def _tanh(layer: FrozenLayer, inputs: list[np.ndarray], scales: list[float]) -> np.ndarray:
    return np.tanh(inputs[0] * scales[0])


def _elu(layer: FrozenLayer, inputs: list[np.ndarray], scales: list[float]) -> np.ndarray:
    real = inputs[0] * scales[0]
    return np.where(real > 0, real, np.expm1(np.minimum(real, 0.0)))


def _gelu(layer: FrozenLayer, inputs: list[np.ndarray], scales: list[float]) -> np.ndarray:
    from scipy.special import ndtr

    real = inputs[0] * scales[0]
    if layer.attributes.get("approximate"):
        return 0.5 * real * (1.0 + np.tanh(np.sqrt(2.0 / np.pi) * (real + 0.044715 * real**3)))
    return real * ndtr(real)


def _global_average(layer: FrozenLayer, inputs: list[np.ndarray], scales: list[float]) -> np.ndarray:
    return inputs[0].mean((1, 2), keepdims=bool(layer.attributes.get("keepdims"))) * scales[0]


def _average_pool(layer: FrozenLayer, inputs: list[np.ndarray], scales: list[float]) -> np.ndarray:
    total = np.sum([window for _, window in windows(layer, inputs[0])], axis=0)
    # Windows that reach over the border are averages of the pixels that are there.
    pixels = np.sum([window for _, window in windows(layer, np.ones_like(inputs[0]))], axis=0)
    return total / pixels * scales[0]


def _max_pool(layer: FrozenLayer, inputs: list[np.ndarray], scales: list[float]) -> np.ndarray:
    return np.max([window for _, window in windows(layer, inputs[0], fill=-np.inf)], axis=0) * scales[0]


def _zero_padding(layer: FrozenLayer, inputs: list[np.ndarray], scales: list[float]) -> np.ndarray:
    return np.pad(inputs[0], ((0, 0), *layer.attributes["paddings"])) * scales[0]


def _cropping(layer: FrozenLayer, inputs: list[np.ndarray], scales: list[float]) -> np.ndarray:
    (top, bottom), (left, right) = layer.attributes["croppings"]
    _, height, width, _ = inputs[0].shape
    return inputs[0][:, top : height - bottom, left : width - right] * scales[0]


def _slice(layer: FrozenLayer, inputs: list[np.ndarray], scales: list[float]) -> np.ndarray:
    return inputs[0][(slice(None), *(slice(*part) for part in layer.attributes["parts"]))] * scales[0]


def _transpose(layer: FrozenLayer, inputs: list[np.ndarray], scales: list[float]) -> np.ndarray:
    return inputs[0].transpose(0, *(axis + 1 for axis in layer.attributes["axes"])) * scales[0]


def _reshape(layer: FrozenLayer, inputs: list[np.ndarray], scales: list[float]) -> np.ndarray:
    return inputs[0].reshape(1, *layer.attributes["shape"]) * scales[0]


_COMPUTE: dict[str, Callable[[FrozenLayer, list[np.ndarray], list[float]], np.ndarray]] = {
    **dict.fromkeys(("conv2d", "depthwise_conv2d", "conv2d_transpose", "dense"), _weighted),
    "add": _add,
    "subtract": _subtract,
    "multiply": _multiply,
    "concatenate": _concatenate,
    "sigmoid": _sigmoid,
    "tanh": _tanh,
    "elu": _elu,
    "gelu": _gelu,
    "global_average_pooling2d": _global_average,
    "average_pooling2d": _average_pool,
    "max_pooling2d": _max_pool,
    "zero_padding": _zero_padding,
    "cropping2d": _cropping,
    "slice": _slice,
    "transpose": _transpose,
    "reshape": _reshape,
}
