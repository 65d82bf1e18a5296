"""A fused network in floating point: what its nodes say, computed without the Keras layers that they are of.

Files are written from nodes: their kinds, attributes, folded weights and activations. If an analysis misreads
a layer, this comes out differently from the user's model.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from tfmpq.graph.equivalence import Difference, require_equal
from tfmpq.graph.kinds import WEIGHTED
from tfmpq.graph.layers import is_transparent
from tfmpq.graph.network import Network, Node
from tfmpq.graph.recognition import function_name, is_a
from tfmpq.graph.shortcut import PadShortcut
from tfmpq.quantization.folding import affine_of, array, norm_factor, norm_offset, normalization_of


def require_fused(model: keras.Model, network: Network, images: np.ndarray) -> tuple[Difference, ...]:
    """Hold a fused network against the model that it is the analysis of.

    Args:
        model: Float model.
        network: Its analysis.
        images: Inputs of the model, float32 (N, height, width, channels).

    Raises:
        TfmpqError: They do not compute the same.
    """
    return require_equal(model, images, run_fused(network, images))


def run_fused(network: Network, images: np.ndarray) -> list[np.ndarray]:
    """Outputs of a fused float network, float64 (N, ...) each.

    Args:
        network: The analysis of a float model.
        images: float32 (N, height, width, channels).
    """
    values: dict[str, Any] = {}
    for node in network.nodes:
        if node.kind == "input":
            values[node.name] = ops.convert_to_tensor(images)
        else:
            values[node.name] = activated(node, _compute(node, [values[name] for name in node.inputs]))
    return [ops.convert_to_numpy(values[name]).astype(np.float64) for name in network.outputs]


def activated(node: Node, result: Any) -> Any:
    """What a node gives, from what it gives before its activation."""
    if node.activation == "linear":
        return result
    return ops.relu(result) if node.activation == "relu" else ops.clip(result, 0.0, 6.0)


def _compute(node: Node, inputs: list[Any]) -> Any:
    """What a node gives before its activation."""
    if node.kind in WEIGHTED:
        return _weighted(node, inputs[0])
    return unweighted(node, inputs)


def unweighted(node: Node, inputs: Sequence[Any]) -> Any:
    """What a node without a kernel gives before its activation."""
    x, layer = inputs[0], node.main
    if is_transparent(layer):
        return x
    match node.kind:
        case "affine":
            if node.fixed_step is not None:  # a hard sigmoid
                return ops.clip(x / 6.0 + 0.5, 0.0, 1.0)
            factor, offset = (ops.convert_to_tensor(v.astype(np.float32)) for v in affine_of(node))
            return x * factor + offset
        case "leaky_relu":
            slope = array(layer.alpha) if hasattr(layer, "alpha") else layer.negative_slope
            slopes = np.broadcast_to(np.asarray(slope, np.float32).reshape(-1), node.output_shape[-1:])
            return ops.maximum(x, 0.0) + ops.convert_to_tensor(slopes) * ops.minimum(x, 0.0)
        case "sigmoid":
            return ops.sigmoid(x)
        case "gelu":
            return ops.gelu(x, approximate=function_name(layer) == "gelu_tanh")
        case "tanh":
            return ops.tanh(x)
        case "elu":
            return ops.elu(x)
        case "add":
            return x + inputs[1]
        case "subtract":
            return x - inputs[1]
        case "multiply":
            return x * inputs[1]
        case "concatenate":
            return ops.concatenate(inputs, axis=layer.axis)
        case "global_average_pooling2d":
            return ops.mean(x, axis=(1, 2), keepdims=len(node.output_shape) == 3)
        case "average_pooling2d":
            return ops.average_pool(x, layer.pool_size, layer.strides, layer.padding)
        case "max_pooling2d":
            return ops.max_pool(x, layer.pool_size, layer.strides, layer.padding)
        case "reshape":
            return ops.reshape(x, (-1, *node.output_shape))
        case "layer_normalization":
            return _normalized(layer, x)
        case "softmax":
            return ops.softmax(x, axis=-1)
        case "matmul":
            return ops.matmul(x, ops.swapaxes(inputs[1], -1, -2) if layer.transpose_b else inputs[1])
        case "constant":
            value = ops.convert_to_tensor(array(layer.value, np.float32)[None])
            return ops.broadcast_to(value, (ops.shape(x)[0], *node.output_shape))
    return _moved(node, x)


def _normalized(layer: Any, x: Any) -> Any:
    facts = normalization_of(layer)
    centred = x - ops.mean(x, axis=-1, keepdims=True) if facts.centred else x
    variance = ops.mean(ops.square(centred), axis=-1, keepdims=True)
    scaled = centred / ops.sqrt(variance + facts.epsilon) * ops.convert_to_tensor(facts.factor)
    return scaled + ops.convert_to_tensor(facts.offset)


def _moved(node: Node, x: Any) -> Any:
    """Kinds that put pixels elsewhere."""
    layer = node.main
    if is_a(layer, PadShortcut):
        side = (layer.filters - int(x.shape[-1])) // 2
        return ops.pad(x[:, :: layer.strides, :: layer.strides], ((0, 0), (0, 0), (0, 0), (side, side)))
    if node.kind == "zero_padding":
        return ops.pad(x, ((0, 0), *(tuple(pair) for pair in layer.padding), (0, 0)))
    if node.kind == "cropping2d":
        (top, bottom), (left, right) = layer.cropping
        return x[:, top : int(x.shape[1]) - bottom, left : int(x.shape[2]) - right]
    if node.kind == "slice":
        return x[(slice(None), *(slice(*part) for part in layer.parts))]
    if node.kind == "transpose":
        return ops.transpose(x, (0, *layer.dims))
    if node.kind == "bilinear":
        height, width, _ = node.output_shape
        return ops.image.resize(x, (height, width), interpolation="bilinear")
    if node.kind == "upsampling2d":
        rows, columns = layer.size
        return ops.repeat(ops.repeat(x, rows, axis=1), columns, axis=2)
    raise ValueError(f"Every kind of node is computed here. Received: {node.kind} of {node.name}.")


def product(node: Node, x: Any, kernel: Any) -> Any:
    """An input times a kernel in the layout of Keras."""
    layer = node.main
    match node.kind:
        case "dense":
            return ops.matmul(x, kernel)
        case "conv2d":
            return ops.conv(x, kernel, layer.strides, layer.padding, dilation_rate=layer.dilation_rate)
        case "depthwise_conv2d":
            return ops.depthwise_conv(
                x, kernel, layer.strides, layer.padding, dilation_rate=layer.dilation_rate
            )
    return ops.conv_transpose(x, kernel, layer.strides, layer.padding)


def affine_behind(node: Node) -> tuple[np.ndarray, np.ndarray]:
    """Factor and offset of each channel behind a kernel, by bias and BatchNorm; float64 (channels,)."""
    layer, norm = node.main, node.batch_norm
    bias: Any = array(layer.bias) if getattr(layer, "use_bias", False) else np.zeros(node.output_shape[-1])
    if norm is None:
        return np.ones_like(bias), bias
    factor = norm_factor(norm)
    return factor, bias * factor + norm_offset(norm, factor)


def _weighted(node: Node, x: Any) -> Any:
    """A kernel with the BatchNorm behind it folded into factors and offsets by channel."""
    factor, offset = (ops.convert_to_tensor(v.astype(np.float32)) for v in affine_behind(node))
    result = product(node, x, ops.convert_to_tensor(array(node.main.kernel, np.float32)))
    return result * factor + offset
