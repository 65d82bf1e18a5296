"""Nodes that are no operator of the runtime, as the operators that compute them.

Whatever treats each channel by itself is a depthwise 1x1 convolution of 8-bit weights, which runtimes compute
exactly.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tfmpq.graph.frozen import Activation, FrozenLayer, FrozenWeights, TensorGrid
from tfmpq.graph.network import Node, shortcut_channels
from tfmpq.quantization.folding import affine_of, array, fold_by_channel
from tfmpq.quantization.interpolation import bilinear

_POINT = {"strides": (1, 1), "padding": "valid", "dilation": (1, 1)}
MAX_CONCATENATED = 5
"""Tensors that XNNPACK concatenates in one operator."""


def by_channel(
    name: str,
    source_name: str,
    factor: np.ndarray,
    offset: np.ndarray,
    source: TensorGrid,
    target: TensorGrid,
    shape: tuple[int, ...],
    activation: Activation = "linear",
) -> list[FrozenLayer]:
    """The layers that compute activation(factor * x + offset); the last one has the name.

    Args:
        name: Name of the result.
        source_name: Layer that is read.
        factor: float64 (channels,).
        offset: float64 (channels,).
        source: Grid of what is read.
        target: Grid of the result.
        shape: Shape of the result without the batch axis; vectors are reshaped to one pixel and back.
        activation: What the operator absorbs.
    """
    channels = shape[-1]
    weights = fold_by_channel(factor, offset, source, target).weights(8)
    if len(shape) == 3:
        return [
            FrozenLayer(name, "depthwise_conv2d", (source_name,), target, activation, weights, dict(_POINT))
        ]
    pixel, scaled = f"{name}_pixel", f"{name}_scaled"
    one = {"shape": (1, 1, channels)}
    return [
        FrozenLayer(pixel, "reshape", (source_name,), source, attributes=one),
        FrozenLayer(scaled, "depthwise_conv2d", (pixel,), target, activation, weights, dict(_POINT)),
        FrozenLayer(name, "reshape", (scaled,), target, attributes={"shape": shape}),
    ]


def affine(node: Node, inputs: tuple[str, ...], source: TensorGrid, target: TensorGrid) -> list[FrozenLayer]:
    """BatchNorm, rescaling and activations that no operator before them can absorb."""
    factor, offset = affine_of(node)
    # The upper bound of a hard sigmoid is where its grid ends.
    activation = node.activation if node.fixed_step is None else "relu"
    return by_channel(node.name, inputs[0], factor, offset, source, target, node.output_shape, activation)


def leaky_relu(
    node: Node, inputs: tuple[str, ...], source: TensorGrid, target: TensorGrid
) -> list[FrozenLayer]:
    """relu(x) - slope * relu(-x).

    LEAKY_RELU is off by one in a tenth of the elements under XNNPACK. Here the first two tensors hold the
    codes of x unchanged, and so does the third if there is one slope for all channels.
    """
    layer = node.main
    slopes = array(layer.alpha).reshape(-1) if hasattr(layer, "alpha") else np.asarray(layer.negative_slope)
    slopes = np.broadcast_to(slopes, (node.output_shape[-1],)).astype(np.float64)
    ones, zeros = np.ones(slopes.size), np.zeros(slopes.size)
    halves = source.whole(source.scale, signed=False)
    # XNNPACK adds tensors whose steps are at most 2^10 apart; flatter slopes are below the output's step.
    steepest = max(float(np.abs(slopes).max()), 2.0**-8)
    scaled = source.whole(float(np.float32(source.scale * steepest)), signed=True)
    names = [f"{node.name}_{part}" for part in ("positive", "negative", "slope")]
    shape, read, result = node.output_shape, inputs[0], node.name
    before, after = [], []
    if len(shape) == 1:  # a vector is a pixel for all three of them
        shape, read, result = (1, 1, *shape), f"{node.name}_pixel", f"{node.name}_scaled"
        before = [FrozenLayer(read, "reshape", inputs, source, attributes={"shape": shape})]
        after = [
            FrozenLayer(node.name, "reshape", (result,), target, attributes={"shape": node.output_shape})
        ]
    return [
        *before,
        *by_channel(names[0], read, ones, zeros, source, halves, shape, "relu"),
        *by_channel(names[1], read, -ones, zeros, source, halves, shape, "relu"),
        *by_channel(names[2], names[1], -slopes, zeros, halves, scaled, shape),
        FrozenLayer(result, "add", (names[0], names[2]), target),
        *after,
    ]


def upsampling(
    node: Node, inputs: tuple[str, ...], source: TensorGrid, grid: TensorGrid
) -> list[FrozenLayer]:
    """Repeats columns, then rows: XNNPACK has no nearest resize, but a tensor can be beside itself."""
    rows, columns = node.main.size
    height, width, channels = node.output_shape
    repeated, wide, tall = (f"{node.name}_{part}" for part in ("columns", "wide", "rows"))
    one_row = {"shape": (height // rows, width, channels)}
    return [
        *_concatenated(repeated, inputs * columns, 2, grid),
        FrozenLayer(wide, "reshape", (repeated,), grid, attributes=one_row),
        *_concatenated(tall, (wide,) * rows, 1, grid),
        FrozenLayer(node.name, "reshape", (tall,), grid, attributes={"shape": node.output_shape}),
    ]


def concatenation(
    node: Node, inputs: tuple[str, ...], source: TensorGrid, grid: TensorGrid
) -> list[FrozenLayer]:
    """Tensors beside each other along an axis."""
    axis = node.main.axis
    return _concatenated(node.name, inputs, axis - 1 if axis > 0 else axis + len(node.output_shape), grid)


def _concatenated(name: str, inputs: tuple[str, ...], axis: int, grid: TensorGrid) -> list[FrozenLayer]:
    """One operator, or several where there are more tensors than it takes."""
    layers: list[FrozenLayer] = []
    while len(inputs) > MAX_CONCATENATED:
        part = f"{name}_part{len(layers)}"
        first, inputs = inputs[:MAX_CONCATENATED], (part, *inputs[MAX_CONCATENATED:])
        layers.append(FrozenLayer(part, "concatenate", first, grid, attributes={"axis": axis}))
    return [*layers, FrozenLayer(name, "concatenate", inputs, grid, attributes={"axis": axis})]


def shortcut(node: Node, inputs: tuple[str, ...], grid: TensorGrid) -> list[FrozenLayer]:
    """A parameter-free shortcut: a depthwise 1x1 of ones that subsamples, then zeros beside the channels."""
    layers: list[FrozenLayer] = []
    channels = shortcut_channels(node)
    stride = node.main.strides
    if channels:
        ones = FrozenWeights(
            np.ones((1, 1, channels, 1), np.int8),
            np.ones(channels, np.float32),
            np.zeros(channels, np.int32),
            8,
        )
        attributes = {"strides": (stride, stride), "padding": "valid", "dilation": (1, 1)}
        name = f"{node.name}_subsample"
        layers.append(FrozenLayer(name, "depthwise_conv2d", inputs, grid, "linear", ones, attributes))
        inputs = (name,)
    extra = node.output_shape[-1] - int(node.layers[0].input.shape[-1])
    paddings = ((0, 0), (0, 0), (extra // 2, extra - extra // 2))
    layers.append(FrozenLayer(node.name, "zero_padding", inputs, grid, attributes={"paddings": paddings}))
    return layers


DECOMPOSED: dict[str, Callable[[Node, tuple[str, ...], TensorGrid, TensorGrid], list[FrozenLayer]]] = {
    "affine": affine,
    "leaky_relu": leaky_relu,
    "upsampling2d": upsampling,
    "bilinear": bilinear,
    "concatenate": concatenation,
}
"""The layers of a node that is no single operator: from the node, the names of its inputs, the grid of the
first one and the grid of its output."""
