"""Float operators of a network with float activations in float64, with how far float32 may be off.

u is 2^-24, the rounding of float32. Bounds are those of the operations that each operator consists of
(Higham, Accuracy and Stability of Numerical Algorithms, section 3.1: a sum of n terms is within n u of the
sum of their magnitudes); exponentials and their like are within a few u of their value in XNNPACK.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from tfmpq.deploy.proof.dynamic_kernels import Expected, expected_weighted
from tfmpq.deploy.proof.reference import real_value
from tfmpq.graph.dynamic import DynamicLayer

U = 2.0**-24
"""Rounding of float32, relative."""

_FUNCTION = 16.0
"""u by which XNNPACK's exponentials, error functions and inverse roots may be off, relative to their value;
about twice what is seen over all of their range."""

_SMALLEST = float(np.finfo(np.float32).tiny)
"""What underflows is as good as zero."""


def expected_output(layer: DynamicLayer, inputs: Sequence[np.ndarray]) -> Expected:
    """What a layer gives for one image, and how far the runtime may be off.

    Args:
        layer: The layer.
        inputs: float32 (1, ...) each, what the runtime's operators read.
    """
    wide = [x.astype(np.float64) for x in inputs]
    if layer.weights is not None:
        value, tolerance = expected_weighted(layer, layer.weights, inputs[0])
    elif layer.kind in _COMPUTE:
        value, tolerance = _COMPUTE[layer.kind](layer, wide)
    else:  # what moves values, or takes the largest
        value = _moved(layer, wide)
        tolerance = np.zeros_like(value)
    if layer.activation != "linear":
        value = np.clip(value, 0.0, 6.0 if layer.activation == "relu6" else None)
    return Expected(value, tolerance + _SMALLEST)


def _moved(layer: DynamicLayer, inputs: list[np.ndarray]) -> np.ndarray:
    if layer.kind == "upsampling2d":
        rows, columns = (one // other for one, other in zip(layer.shape, inputs[0].shape[1:3], strict=False))
        return inputs[0].repeat(rows, axis=1).repeat(columns, axis=2)
    if layer.kind == "zero_padding" and "strides" in layer.attributes:
        down, across = layer.attributes["strides"]
        inputs = [inputs[0][:, ::down, ::across]]
    return real_value(layer, inputs)


def _elementwise(layer: DynamicLayer, inputs: list[np.ndarray]) -> Expected:
    value = real_value(layer, inputs)
    if layer.kind == "multiply":
        return Expected(value, 2 * U * np.abs(value))
    return Expected(value, 2 * U * (np.abs(inputs[0]) + np.abs(inputs[1])))


def _averaged(layer: DynamicLayer, inputs: list[np.ndarray]) -> Expected:
    terms = np.prod(
        inputs[0].shape[1:3] if layer.kind.startswith("global") else layer.attributes["pool_size"]
    )
    return Expected(real_value(layer, inputs), (terms + 2) * U * real_value(layer, [np.abs(inputs[0])]))


def _function(layer: DynamicLayer, inputs: list[np.ndarray]) -> Expected:
    """sigmoid, tanh, ELU: within some u of the value, and of the argument where that is small."""
    value = real_value(layer, inputs)
    return Expected(value, _FUNCTION * U * np.maximum(np.abs(value), np.minimum(np.abs(inputs[0]), 1.0)))


def _gelu(layer: DynamicLayer, inputs: list[np.ndarray]) -> Expected:
    """A product: x times half of one and an error function, which are within some u of one."""
    return Expected(real_value(layer, inputs), _FUNCTION * U * np.abs(inputs[0]))


def _softmax(layer: DynamicLayer, inputs: list[np.ndarray]) -> Expected:
    shifted = inputs[0] - inputs[0].max(-1, keepdims=True)
    parts = np.exp(shifted)
    value = parts / parts.sum(-1, keepdims=True)
    # A rounding of the argument changes an exponential by as much as the argument is large.
    return Expected(value, (_FUNCTION + parts.shape[-1] + 2 * np.abs(shifted)) * U * value)


def _matmul(layer: DynamicLayer, inputs: list[np.ndarray]) -> Expected:
    one, other = inputs
    if layer.attributes["transpose_b"]:
        other = np.swapaxes(other, -1, -2)
    return Expected(one @ other, (one.shape[-1] + 2) * U * (np.abs(one) @ np.abs(other)))


def _normalized(layer: DynamicLayer, inputs: list[np.ndarray]) -> Expected:
    """Errors of the mean, of the variance and of its root, one after the other."""
    x, terms = inputs[0], inputs[0].shape[-1] + 2
    factor, offset = (layer.arrays[name].astype(np.float64) for name in ("factor", "offset"))
    epsilon = float(np.float32(layer.attributes["epsilon"]))
    centred, loose = x, np.zeros_like(x)
    if layer.attributes["centred"]:
        centred = x - x.mean(-1, keepdims=True)
        loose = terms * U * np.abs(x).mean(-1, keepdims=True) + U * (np.abs(x) + np.abs(centred))
    variance = np.square(centred).mean(-1, keepdims=True)
    moved = (2 * np.abs(centred) * loose + np.square(loose)).mean(-1, keepdims=True)
    total = variance + epsilon
    relative = 0.5 * ((moved + terms * U * variance) / total + U) + _FUNCTION * U
    scaled = centred / np.sqrt(total) * factor
    error = (relative + 3 * U) * np.abs(scaled) + loose / np.sqrt(total) * np.abs(factor)
    return Expected(scaled + offset, error + U * (np.abs(scaled) + 2 * np.abs(offset)))


def _affine(layer: DynamicLayer, inputs: list[np.ndarray]) -> Expected:
    factor, offset = (layer.arrays[name].astype(np.float64) for name in ("factor", "offset"))
    scaled = inputs[0] * factor
    value = scaled + offset
    if layer.attributes["bounded"]:
        value = np.clip(value, 0.0, 1.0)
    return Expected(value, 2 * U * (np.abs(scaled) + np.abs(offset)))


def _leaky(layer: DynamicLayer, inputs: list[np.ndarray]) -> Expected:
    value = np.maximum(inputs[0], 0.0) + layer.arrays["slope"].astype(np.float64) * np.minimum(inputs[0], 0.0)
    return Expected(value, 2 * U * np.abs(value))


def _bilinear(layer: DynamicLayer, inputs: list[np.ndarray]) -> Expected:
    """The middles of pixels of both images lie upon each other; the border is repeated."""

    def along(x: np.ndarray, axis: int, size: int, whole: bool = False) -> np.ndarray:
        given = x.shape[axis]
        places = (np.arange(size) + 0.5) * given / size - 0.5
        below = np.floor(places).astype(int)
        shape = [-1 if number == axis else 1 for number in range(x.ndim)]
        share = (places - below).reshape(shape)
        one, other = (np.take(x, np.clip(below + step, 0, given - 1), axis) for step in (0, 1))
        return one + other if whole else one * (1 - share) + other * share

    def resized(x: np.ndarray, whole: bool = False) -> np.ndarray:
        return along(along(x, 1, layer.shape[0], whole), 2, layer.shape[1], whole)

    # The places are float32 as well: they move by some u of the image's size, and all four pixels count.
    places = 8.0 + 4.0 * max(inputs[0].shape[1:3])
    return Expected(resized(inputs[0]), places * U * resized(np.abs(inputs[0]), whole=True))


_COMPUTE: dict[str, Callable[[DynamicLayer, list[np.ndarray]], Expected]] = {
    **dict.fromkeys(("add", "subtract", "multiply"), _elementwise),
    **dict.fromkeys(("global_average_pooling2d", "average_pooling2d"), _averaged),
    **dict.fromkeys(("sigmoid", "tanh", "elu"), _function),
    "gelu": _gelu,
    "softmax": _softmax,
    "matmul": _matmul,
    "layer_normalization": _normalized,
    "affine": _affine,
    "leaky_relu": _leaky,
    "bilinear": _bilinear,
}
