"""Operators with weights in a file of float activations: integers that kernels read, or that become float."""

from __future__ import annotations

from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from tfmpq.deploy.tflite.graph_writer import FUSED, GraphWriter
from tfmpq.deploy.tflite.layout import WEIGHTS
from tfmpq.graph.dynamic import DynamicLayer, DynamicWeights

_VERSIONS = {
    ("FULLY_CONNECTED", 8): 9,
    ("FULLY_CONNECTED", 4): 10,
    ("FULLY_CONNECTED", 2): 13,
    ("CONV_2D", 8): 5,
}
"""Operator version that a runtime has to know, for kernels that read float inputs and integers."""

_FLOAT_VERSIONS = {"CONV_2D": 6, "DEPTHWISE_CONV_2D": 1, "TRANSPOSE_CONV": 3}
_CHANNEL_AXIS = {"CONV_2D": 0, "DEPTHWISE_CONV_2D": 3, "FULLY_CONNECTED": 0, "TRANSPOSE_CONV": 0}
_DEQUANTIZE_CHANNELS = 5


def file_integers(weights: DynamicWeights) -> np.ndarray:
    """The integers of a layer in the layout of its kernel: OI, OHWI or 1HWC."""
    held = weights.integers
    if weights.kernel == "FULLY_CONNECTED":
        return held.reshape(-1, held.shape[-1]).T
    if weights.kernel == "DEPTHWISE_CONV_2D":
        return held.reshape(1, *held.shape[:2], -1)
    return held.transpose((3, 0, 1, 2) if weights.kernel == "CONV_2D" else (2, 0, 1, 3))


def keras_integers(weights: DynamicWeights, integers: np.ndarray) -> np.ndarray:
    """Integers in the order of a file in the layout of Keras; the inverse of `file_integers`."""
    shape = weights.integers.shape
    if weights.kernel == "FULLY_CONNECTED":
        return integers.reshape(shape[-1], -1).T.reshape(shape)
    if weights.kernel == "DEPTHWISE_CONV_2D":
        return integers.reshape(shape)
    if weights.kernel == "CONV_2D":
        return integers.reshape(shape[3], *shape[:3]).transpose(1, 2, 3, 0)
    return integers.reshape(shape[2], *shape[:2], shape[3]).transpose(1, 2, 0, 3)


def window_options(options: Any, layer: DynamicLayer) -> Any:
    """Strides, padding and activation of an operator with windows."""
    options.strideH, options.strideW = layer.attributes["strides"]
    padding = layer.attributes["padding"]
    options.padding = schema.Padding.SAME if padding == "same" else schema.Padding.VALID
    options.fusedActivationFunction = FUSED[layer.activation]
    if "dilation" in layer.attributes:
        options.dilationHFactor, options.dilationWFactor = layer.attributes["dilation"]
    return options


def write_weighted(writer: GraphWriter, layer: DynamicLayer, weights: DynamicWeights, source: int) -> int:
    """Write a layer with weights; returns its output."""
    integers = file_integers(weights)
    held = writer.integers(
        f"{layer.name}{WEIGHTS}", integers, weights.container, weights.scales, _CHANNEL_AXIS[weights.kernel]
    )
    bias = writer.constant(weights.bias, f"{layer.name}/bias")
    shape = (1, *layer.shape)
    if weights.kernel == "FULLY_CONNECTED":
        options = schema.FullyConnectedOptionsT()
        options.keepNumDims = True
        options.fusedActivationFunction = FUSED[layer.activation]
        options.asymmetricQuantizeInputs = True  # as XNNPACK does whatever is said here
        if weights.reads == "patch":
            source = _patches(writer, layer, weights, source)
        version = _VERSIONS["FULLY_CONNECTED", weights.container]
        return writer.operator("FULLY_CONNECTED", [source, held, bias], layer.name, shape, options, version)
    if weights.reads is not None:
        options = window_options(schema.Conv2DOptionsT(), layer)
        return writer.operator(
            "CONV_2D", [source, held, bias], layer.name, shape, options, _VERSIONS["CONV_2D", 8]
        )
    kernel = writer.operator(
        "DEQUANTIZE",
        [held],
        f"{layer.name}/kernel",
        integers.shape,
        schema.DequantizeOptionsT(),
        _DEQUANTIZE_CHANNELS,
    )
    given = [source, kernel, bias]
    if weights.kernel == "TRANSPOSE_CONV":
        options = window_options(schema.TransposeConvOptionsT(), layer)
        if _cuts_nothing(layer, weights):  # XNNPACK has no `same` here
            options.padding = schema.Padding.VALID
        given = [writer.constant(np.asarray(shape, np.int32)), kernel, source, bias]
    elif weights.kernel == "DEPTHWISE_CONV_2D":
        options = window_options(schema.DepthwiseConv2DOptionsT(), layer)
        options.depthMultiplier = weights.integers.shape[-1]
    else:
        options = window_options(schema.Conv2DOptionsT(), layer)
    version = _FLOAT_VERSIONS[weights.kernel]
    return writer.operator(weights.kernel, given, layer.name, shape, options, version)


def _cuts_nothing(layer: DynamicLayer, weights: DynamicWeights) -> bool:
    """Whether windows of a transposed convolution do not overlap, so that `same` has nothing to cut."""
    pairs = zip(weights.integers.shape[:2], layer.attributes["strides"], strict=True)
    return all(extent <= stride for extent, stride in pairs)


def _patches(writer: GraphWriter, layer: DynamicLayer, weights: DynamicWeights, source: int) -> int:
    """The pixels of each patch side by side."""
    (rows, columns), (_, height, width, channels) = weights.patch, writer.shape(source)
    down, across = height // rows, width // columns
    value = writer.reshape(source, (down, rows, across, columns * channels), f"{layer.name}/rows")
    value = writer.transpose(value, (0, 2, 1, 3), f"{layer.name}/patches")
    return writer.reshape(value, (1, down, across, rows * columns * channels), f"{layer.name}/pixels")
