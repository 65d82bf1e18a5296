"""A placeholder int8 graph from the TensorFlow converter: a network's structure, not its numbers.

The converter knows how a graph is fused, padded and laid out; it does not know our weights, scales or
packing. So it gets a network of ones, and `tfmpq.deploy.surgery` writes the real contents afterwards.
Every layer's output is an output of the graph, so that nothing is fused across it and the i-th output is
the i-th layer; every bias is another number, so that no two layers look the same and are merged. This is
the only module that imports TensorFlow on the way to a file.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from tfmpq.deploy.quiet import quiet_stderr
from tfmpq.deploy.topology import geometry
from tfmpq.errors import TfmpqError
from tfmpq.frozen import SCALE_PRESERVING, FrozenLayer, FrozenModel, TensorGrid

Build = Callable[[FrozenLayer, list[tf.Tensor], tf.Tensor], tf.Tensor]


def convert_placeholder(frozen: FrozenModel) -> bytes:
    """Convert the structure of a network.

    Args:
        frozen: A network that passed `tfmpq.deploy.topology.deployable`.

    Returns:
        A `.tflite` with batch size 1 whose outputs are those of `frozen.layers[1:]`, in order.

    Raises:
        TfmpqError: The converter refuses the graph.
    """
    signature = [tf.TensorSpec((1, *frozen.input_shape), tf.float32)]
    function = tf.function(lambda image: _forward(frozen, image), input_signature=signature, autograph=False)
    try:
        with quiet_stderr(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            converter = tf.lite.TFLiteConverter.from_concrete_functions([function.get_concrete_function()])
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
            converter.inference_input_type = converter.inference_output_type = tf.int8
            return converter.convert()
    except Exception as error:  # the converter raises whatever its passes raise
        reason = " ".join(str(error).split())[:300]
        raise TfmpqError(
            f"The TensorFlow converter has to accept the graph. Received: {frozen.name}, refused with: "
            f"{reason}. Please report the model."
        ) from error


def _forward(frozen: FrozenModel, image: tf.Tensor) -> list[tf.Tensor]:
    values = {frozen.layers[0].name: _fake_quantize(image, frozen.layers[0].grid)}
    for number, layer in enumerate(frozen.layers[1:], 1):
        source = frozen.layer(layer.inputs[0])
        tag = tf.constant(np.float32(number) * np.float32(source.grid.scale))
        value = _BUILDERS[layer.kind](layer, [values[name] for name in layer.inputs], tag)
        if layer.activation != "linear":
            value = {"relu": tf.nn.relu, "relu6": tf.nn.relu6}[layer.activation](value)
        keeps = layer.kind in SCALE_PRESERVING and not _subsamples(layer)
        values[layer.name] = value if keeps else _fake_quantize(value, layer.grid)
    return [values[layer.name] for layer in frozen.layers[1:]]


def _fake_quantize(value: tf.Tensor, grid: TensorGrid) -> tf.Tensor:
    """Put a tensor on int8 codes with the grid's zero point; narrower signed grids are clamped later."""
    low, high = ((-128 - grid.zero_point) * grid.scale, (127 - grid.zero_point) * grid.scale)
    return tf.quantization.fake_quant_with_min_max_vars(value, low, high, num_bits=8)


def _ones(shape: tuple[int, ...]) -> tf.Tensor:
    """Weights of ones on a grid of scale 1."""
    return tf.quantization.fake_quant_with_min_max_vars(
        tf.ones(shape), -127.0, 127.0, num_bits=8, narrow_range=True
    )


def _conv2d(layer: FrozenLayer, inputs: list[tf.Tensor], tag: tf.Tensor) -> tf.Tensor:
    _, strides, dilation = geometry(layer)
    kernel = _ones(layer.weights.integers.shape)  # type: ignore[union-attr]
    value = tf.nn.conv2d(inputs[0], kernel, strides, layer.attributes["padding"].upper(), dilations=dilation)
    return value + tf.fill((kernel.shape[-1],), tag)


def _depthwise(layer: FrozenLayer, inputs: list[tf.Tensor], tag: tf.Tensor) -> tf.Tensor:
    (height, width), strides, dilation = geometry(layer)
    channels = inputs[0].shape[-1]
    multiplier = 1 if layer.weights is None else layer.weights.integers.shape[3]
    value = tf.nn.depthwise_conv2d(
        inputs[0],
        _ones((height, width, channels, multiplier)),
        (1, *strides, 1),
        layer.attributes["padding"].upper(),
        dilations=dilation,
    )
    return value + tf.fill((channels * multiplier,), tag)


def _dense(layer: FrozenLayer, inputs: list[tf.Tensor], tag: tf.Tensor) -> tf.Tensor:
    kernel = _ones(layer.weights.integers.shape)  # type: ignore[union-attr]
    return tf.matmul(inputs[0], kernel) + tf.fill((kernel.shape[-1],), tag)


def _max_pool(layer: FrozenLayer, inputs: list[tf.Tensor], tag: tf.Tensor) -> tf.Tensor:
    if _subsamples(layer):
        return _depthwise(layer, inputs, tag)
    window, strides, _ = geometry(layer)
    return tf.nn.max_pool2d(inputs[0], window, strides, layer.attributes["padding"].upper())


def _subsamples(layer: FrozenLayer) -> bool:
    """XNNPACK has no pooling with a 1x1 window and a stride; a depthwise convolution of ones does it."""
    return layer.kind == "max_pooling2d" and geometry(layer)[0] == (1, 1)


def _global_average_pool(layer: FrozenLayer, inputs: list[tf.Tensor], tag: tf.Tensor) -> tf.Tensor:
    if "pool_size" in layer.attributes:
        return _depthwise(layer, inputs, tag)
    return tf.reduce_mean(inputs[0], (1, 2), keepdims=bool(layer.attributes.get("keepdims")))


def _zero_padding(layer: FrozenLayer, inputs: list[tf.Tensor], tag: tf.Tensor) -> tf.Tensor:
    return tf.pad(inputs[0], ((0, 0), *layer.attributes["paddings"]))


def _reshape(layer: FrozenLayer, inputs: list[tf.Tensor], tag: tf.Tensor) -> tf.Tensor:
    return tf.reshape(inputs[0], (1, *layer.attributes["shape"]))


_BUILDERS: dict[str, Build] = {
    "conv2d": _conv2d,
    "depthwise_conv2d": _depthwise,
    "dense": _dense,
    "add": lambda layer, inputs, tag: inputs[0] + inputs[1],
    "global_average_pooling2d": _global_average_pool,
    # XNNPACK has no int8 average pooling; a depthwise convolution of equal weights is one.
    "average_pooling2d": _depthwise,
    "max_pooling2d": _max_pool,
    "zero_padding": _zero_padding,
    "reshape": _reshape,
}
