"""A frozen network of float activations as the bytes of a `.tflite`.

The graph is written outright, operator by operator: there is nothing in it that a converter would have to
find out. The tensor of each layer has the layer's name, and what lies between has that name and a part of
its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from tfmpq.deploy.conversion.dynamic_kernels import window_options, write_weighted
from tfmpq.deploy.tflite.flatbuffer import write_model
from tfmpq.deploy.tflite.graph_writer import GraphWriter
from tfmpq.deploy.tflite.metadata import write_record
from tfmpq.graph.dynamic import DYNAMIC, DynamicLayer, DynamicModel

_MOST_CONCATENATED = 5
"""Tensors that XNNPACK concatenates in one operator."""

Emit = Callable[[GraphWriter, DynamicLayer, Sequence[int]], int]


def build_dynamic(frozen: DynamicModel) -> bytes:
    """The bytes of a file that takes and gives float32."""
    writer = GraphWriter()
    tensors: dict[str, int] = {}
    for layer in frozen.layers:
        inputs = [tensors[name] for name in layer.inputs]
        if layer.kind == "input":
            tensors[layer.name] = writer.tensor(layer.name, (1, *layer.shape))
            writer.graph.inputs = np.asarray([tensors[layer.name]], np.int32)
        elif layer.weights is not None:
            tensors[layer.name] = write_weighted(writer, layer, layer.weights, inputs[0])
        else:
            tensors[layer.name] = _EMIT[layer.kind](writer, layer, inputs)
    writer.graph.outputs = np.asarray([tensors[name] for name in frozen.outputs], np.int32)
    bits = {layer.name: layer.weights.bits for layer in frozen.weighted if layer.weights is not None}
    write_record(writer.model, {**frozen.metadata, "activations": DYNAMIC}, bits)
    return write_model(writer.model)


def _unary(builtin: str, options: type | None = None) -> Emit:
    def emit(writer: GraphWriter, layer: DynamicLayer, inputs: Sequence[int]) -> int:
        made = None if options is None else options()
        return writer.operator(builtin, inputs[:1], layer.name, (1, *layer.shape), made)

    return emit


def _binary(builtin: str) -> Emit:
    return lambda writer, layer, inputs: writer.binary(
        builtin, inputs[0], inputs[1], layer.name, layer.activation
    )


def _softmax(writer: GraphWriter, layer: DynamicLayer, inputs: Sequence[int]) -> int:
    options = schema.SoftmaxOptionsT()
    options.beta = 1.0
    return writer.operator("SOFTMAX", inputs, layer.name, (1, *layer.shape), options)


def _gelu(writer: GraphWriter, layer: DynamicLayer, inputs: Sequence[int]) -> int:
    options = schema.GeluOptionsT()
    options.approximate = layer.attributes["approximate"]
    return writer.operator("GELU", inputs, layer.name, (1, *layer.shape), options)


def _matmul(writer: GraphWriter, layer: DynamicLayer, inputs: Sequence[int]) -> int:
    options = schema.BatchMatMulOptionsT()
    options.adjX, options.adjY = False, layer.attributes["transpose_b"]
    return writer.operator("BATCH_MATMUL", inputs, layer.name, (1, *layer.shape), options, 2)


def _normalization(writer: GraphWriter, layer: DynamicLayer, inputs: Sequence[int]) -> int:
    """MEAN, SUB, MUL, MEAN, ADD, RSQRT, MUL, MUL, ADD: the form that XNNPACK computes most exactly."""
    name, (source,) = layer.name, inputs
    axis = [len(layer.shape)]
    centred = source
    if layer.attributes["centred"]:
        centred = writer.binary("SUB", source, writer.mean(source, axis, f"{name}/mean"), f"{name}/centred")
    squares = writer.binary("MUL", centred, centred, f"{name}/squares")
    epsilon = writer.constant(np.asarray([layer.attributes["epsilon"]], np.float32))
    variance = writer.binary(
        "ADD", writer.mean(squares, axis, f"{name}/variance"), epsilon, f"{name}/shifted"
    )
    root = writer.operator("RSQRT", [variance], f"{name}/root", writer.shape(variance))
    value = writer.binary("MUL", centred, root, f"{name}/normalized")
    factor, offset = layer.arrays["factor"], layer.arrays["offset"]
    if not offset.any():
        return writer.binary("MUL", value, writer.constant(factor), name)
    value = writer.binary("MUL", value, writer.constant(factor), f"{name}/scaled")
    return writer.binary("ADD", value, writer.constant(offset), name)


def _affine(writer: GraphWriter, layer: DynamicLayer, inputs: Sequence[int]) -> int:
    """A factor and an offset for each channel, where they are not one and zero; then the activation."""
    name, value = layer.name, inputs[0]
    factor, offset = layer.arrays["factor"], layer.arrays["offset"]
    if layer.attributes["bounded"]:
        value = writer.binary("MUL", value, writer.constant(factor), f"{name}/scaled")
        value = writer.binary("ADD", value, writer.constant(offset), f"{name}/shifted")
        value = writer.binary("MINIMUM", value, writer.constant(np.ones(1, np.float32)), f"{name}/below")
        return writer.binary("MAXIMUM", value, writer.constant(np.zeros(1, np.float32)), name)
    scales, shifts = bool((factor != 1).any()), bool(offset.any())
    if not scales and not shifts:
        builtin = {"relu": "RELU", "relu6": "RELU6"}.get(layer.activation)
        if builtin is None:
            return writer.reshape(value, (1, *layer.shape), name)
        return writer.operator(builtin, [value], name, (1, *layer.shape))
    if scales:
        last = not shifts
        value = writer.binary(
            "MUL",
            value,
            writer.constant(factor),
            name if last else f"{name}/scaled",
            layer.activation if last else "linear",
        )
    if shifts:
        value = writer.binary("ADD", value, writer.constant(offset), name, layer.activation)
    return value


def _leaky(writer: GraphWriter, layer: DynamicLayer, inputs: Sequence[int]) -> int:
    slope = layer.arrays["slope"]
    shape = (1, *layer.shape)
    if not slope.any():  # XNNPACK has no leaky ReLU of slope 0
        return writer.operator("RELU", inputs, layer.name, shape)
    if (slope == slope[0]).all():
        options = schema.LeakyReluOptionsT()
        options.alpha = float(slope[0])
        return writer.operator("LEAKY_RELU", inputs, layer.name, shape, options)
    alpha = writer.constant(slope.reshape((1,) * (len(layer.shape) - 1) + (-1,)))
    return writer.operator("PRELU", [inputs[0], alpha], layer.name, shape)


def _concatenate(writer: GraphWriter, layer: DynamicLayer, inputs: Sequence[int]) -> int:
    axis, parts = layer.attributes["axis"] + 1, list(inputs)
    number = 0
    while True:
        taken, parts = parts[:_MOST_CONCATENATED], parts[_MOST_CONCATENATED:]
        options = schema.ConcatenationOptionsT()
        options.axis = axis
        shape = list(writer.shape(taken[0]))
        shape[axis] = sum(writer.shape(part)[axis] for part in taken)
        number += 1
        name = f"{layer.name}/part{number}" if parts else layer.name
        parts.insert(0, writer.operator("CONCATENATION", taken, name, shape, options))
        if len(parts) == 1:
            return parts[0]


def _pooled(writer: GraphWriter, layer: DynamicLayer, inputs: Sequence[int]) -> int:
    if layer.kind == "global_average_pooling2d":
        return writer.mean(inputs[0], (1, 2), layer.name, keep=len(layer.shape) == 3)
    (rows, columns), strides = layer.attributes["pool_size"], layer.attributes["strides"]
    averaged = layer.kind == "average_pooling2d"
    if (rows, columns) == (1, 1) or (averaged and (strides[0] > rows or strides[1] > columns)):
        # XNNPACK has no pooling of single pixels, and none that leaves pixels out.
        return _window_mean(writer, inputs[0], (rows, columns), strides, layer.name, layer.shape)
    options = window_options(schema.Pool2DOptionsT(), layer)
    options.filterHeight, options.filterWidth = rows, columns
    builtin = "AVERAGE_POOL_2D" if averaged else "MAX_POOL_2D"
    return writer.operator(builtin, inputs, layer.name, (1, *layer.shape), options)


def _window_mean(
    writer: GraphWriter,
    source: int,
    window: Sequence[int],
    strides: Sequence[int],
    name: str,
    shape: Sequence[int],
) -> int:
    """Means of windows inside the image: a depthwise convolution of equal weights, which XNNPACK has."""
    channels = shape[-1]
    options = schema.DepthwiseConv2DOptionsT()
    options.strideH, options.strideW = strides
    options.padding, options.depthMultiplier = schema.Padding.VALID, 1
    options.dilationHFactor = options.dilationWFactor = 1
    share = np.full((1, *window, channels), 1.0 / prod(window), np.float32)
    ones = writer.constant(share)
    zeros = writer.constant(np.zeros(channels, np.float32))
    return writer.operator("DEPTHWISE_CONV_2D", [source, ones, zeros], name, (1, *shape), options)


def _padding(writer: GraphWriter, layer: DynamicLayer, inputs: Sequence[int]) -> int:
    value, strides = inputs[0], layer.attributes.get("strides", (1, 1))
    pads = np.asarray([(0, 0), *layer.attributes["paddings"]], np.int32)
    if max(strides) > 1:
        _, height, width, channels = writer.shape(value)
        shape = (-(-height // strides[0]), -(-width // strides[1]), channels)
        value = _window_mean(writer, value, (1, 1), strides, f"{layer.name}/taken", shape)
    return writer.operator(
        "PAD", [value, writer.constant(pads)], layer.name, (1, *layer.shape), schema.PadOptionsT()
    )


def _slice(writer: GraphWriter, layer: DynamicLayer, inputs: Sequence[int]) -> int:
    parts, shape = ((0, 1, 1), *_parts(writer, layer, inputs[0])), (1, *layer.shape)
    begins, ends, steps = (np.asarray(column, np.int32) for column in zip(*parts, strict=True))
    if (steps == 1).all():
        sizes = np.asarray(shape, np.int32)
        given = [inputs[0], writer.constant(begins), writer.constant(sizes)]
        return writer.operator("SLICE", given, layer.name, shape, schema.SliceOptionsT())
    options = schema.StridedSliceOptionsT()
    options.beginMask = options.endMask = options.ellipsisMask = options.newAxisMask = (
        options.shrinkAxisMask
    ) = 0
    given = [inputs[0], *(writer.constant(column) for column in (begins, ends, steps))]
    return writer.operator("STRIDED_SLICE", given, layer.name, shape, options)


def _parts(writer: GraphWriter, layer: DynamicLayer, source: int) -> Sequence[tuple[int, int, int]]:
    """(begin, end, step) of each axis behind the batch."""
    if layer.kind == "slice":
        return tuple(layer.attributes["parts"])
    pairs = (*layer.attributes["croppings"], (0, 0))
    sizes = writer.shape(source)[1:]
    return tuple((before, size - behind, 1) for size, (before, behind) in zip(sizes, pairs, strict=True))


def _upsampling(writer: GraphWriter, layer: DynamicLayer, inputs: Sequence[int]) -> int:
    """Each pixel times a block of ones."""
    _, height, width, channels = writer.shape(inputs[0])
    rows, columns = layer.shape[0] // height, layer.shape[1] // width
    value = writer.reshape(inputs[0], (1, height, 1, width, 1, channels), f"{layer.name}/pixels")
    ones = writer.constant(np.ones((1, 1, rows, 1, columns, 1), np.float32))
    value = writer.binary("MUL", value, ones, f"{layer.name}/blocks")
    return writer.reshape(value, (1, *layer.shape), layer.name)


def _bilinear(writer: GraphWriter, layer: DynamicLayer, inputs: Sequence[int]) -> int:
    options = schema.ResizeBilinearOptionsT()
    options.alignCorners, options.halfPixelCenters = False, True
    size = writer.constant(np.asarray(layer.shape[:2], np.int32))
    return writer.operator("RESIZE_BILINEAR", [inputs[0], size], layer.name, (1, *layer.shape), options, 3)


_EMIT: dict[str, Emit] = {
    "add": _binary("ADD"),
    "subtract": _binary("SUB"),
    "multiply": _binary("MUL"),
    "concatenate": _concatenate,
    "sigmoid": _unary("LOGISTIC"),
    "tanh": _unary("TANH"),
    "elu": _unary("ELU"),
    "gelu": _gelu,
    "softmax": _softmax,
    "matmul": _matmul,
    "layer_normalization": _normalization,
    "affine": _affine,
    "leaky_relu": _leaky,
    **dict.fromkeys(("global_average_pooling2d", "average_pooling2d", "max_pooling2d"), _pooled),
    "zero_padding": _padding,
    **dict.fromkeys(("cropping2d", "slice"), _slice),
    "transpose": lambda writer, layer, inputs: writer.transpose(
        inputs[0], (0, *(axis + 1 for axis in layer.attributes["axes"])), layer.name
    ),
    "reshape": lambda writer, layer, inputs: writer.reshape(inputs[0], (1, *layer.shape), layer.name),
    "upsampling2d": _upsampling,
    "bilinear": _bilinear,
    "constant": lambda writer, layer, inputs: writer.constant(layer.arrays["value"][None], layer.name),
}
"""What writes the operators of a kind."""
