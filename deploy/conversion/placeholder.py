"""A placeholder int8 graph from the TensorFlow converter: a network's structure, not its numbers.

The converter knows how a graph is fused, padded and laid out; it does not know our weights, scales or
packing. So it gets a network of ones, and `tfmpq.deploy.conversion.surgery` writes the real contents
afterwards. Every layer's output is an output of the graph, so that nothing is fused across it and the i-th
output is the i-th layer; all weights are other numbers, so that no two layers look the same and are merged.
This is the only module that imports TensorFlow on the way to a file.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import tensorflow as tf

from tfmpq.deploy.conversion.topology import geometry, transposed_size
from tfmpq.deploy.runtime.quiet import quiet_stderr
from tfmpq.errors import TfmpqError
from tfmpq.graph.frozen import FrozenLayer, FrozenModel, TensorGrid

Build = Callable[[FrozenLayer, list[tf.Tensor], int], tf.Tensor]


def convert_placeholder(frozen: FrozenModel) -> bytes:
    """Convert the structure of a network.

    Args:
        frozen: A network that passed `tfmpq.deploy.conversion.topology.deployable`.

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
            # Else the graph takes and gives floats, with a QUANTIZE before it and a DEQUANTIZE behind it.
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
        value = _BUILDERS[layer.kind](layer, [values[name] for name in layer.inputs], number)
        if layer.activation != "linear":
            value = {"relu": tf.nn.relu, "relu6": tf.nn.relu6}[layer.activation](value)
        # Where codes are only moved, a second fake-quantization would become an operator of its own. What
        # becomes a depthwise convolution computes, and has to be put on a grid.
        keeps = layer.keeps_grid and not _subsamples(layer)
        values[layer.name] = value if keeps else _fake_quantize(value, layer.grid)
    return [values[layer.name] for layer in frozen.layers[1:]]


def _fake_quantize(value: tf.Tensor, grid: TensorGrid) -> tf.Tensor:
    """Put a tensor on int8 codes with the grid's zero point; narrower signed grids are clamped later."""
    low, high = ((-128 - grid.zero_point) * grid.scale, (127 - grid.zero_point) * grid.scale)
    return tf.quantization.fake_quant_with_min_max_vars(value, low, high, num_bits=8)


def _weights(shape: tuple[int, ...], number: int) -> tf.Tensor:
    """Weights of one step each, on a grid that no other layer has."""
    step = 1.0 + number / 4096
    return tf.quantization.fake_quant_with_min_max_vars(
        tf.fill(shape, step), -127.0 * step, 127.0 * step, num_bits=8, narrow_range=True
    )


def _with_bias(value: tf.Tensor, number: int) -> tf.Tensor:
    """Biases that no other layer has; see the head of the file."""
    return value + tf.fill((value.shape[-1],), float(number))


def _conv2d(layer: FrozenLayer, inputs: list[tf.Tensor], number: int) -> tf.Tensor:
    _, strides, dilation = geometry(layer)
    kernel = _weights(layer.weights.integers.shape, number)  # type: ignore[union-attr]
    value = tf.nn.conv2d(inputs[0], kernel, strides, layer.attributes["padding"].upper(), dilations=dilation)
    return _with_bias(value, number)


def _depthwise(layer: FrozenLayer, inputs: list[tf.Tensor], number: int) -> tf.Tensor:
    (height, width), strides, dilation = geometry(layer)
    channels = inputs[0].shape[-1]
    multiplier = 1 if layer.weights is None else layer.weights.integers.shape[3]
    value = tf.nn.depthwise_conv2d(
        inputs[0],
        _weights((height, width, channels, multiplier), number),
        (1, *strides, 1),
        layer.attributes["padding"].upper(),
        dilations=dilation,
    )
    return _with_bias(value, number)


def _transposed(layer: FrozenLayer, inputs: list[tf.Tensor], number: int) -> tf.Tensor:
    _, strides, _ = geometry(layer)
    kernel = _weights(layer.weights.integers.shape, number)  # type: ignore[union-attr]
    shape = (1, *transposed_size(layer, inputs[0].shape[1:]), kernel.shape[2])
    padding = layer.attributes["padding"].upper()
    return _with_bias(tf.nn.conv2d_transpose(inputs[0], kernel, shape, strides, padding), number)


def _dense(layer: FrozenLayer, inputs: list[tf.Tensor], number: int) -> tf.Tensor:
    kernel = _weights(layer.weights.integers.shape, number)  # type: ignore[union-attr]
    return _with_bias(tf.matmul(inputs[0], kernel), number)


def _max_pool(layer: FrozenLayer, inputs: list[tf.Tensor], number: int) -> tf.Tensor:
    if _subsamples(layer):
        return _depthwise(layer, inputs, number)
    window, strides, _ = geometry(layer)
    return tf.nn.max_pool2d(inputs[0], window, strides, layer.attributes["padding"].upper())


def _subsamples(layer: FrozenLayer) -> bool:
    """XNNPACK has no pooling with a 1x1 window and a stride; a depthwise convolution of ones does it."""
    return layer.kind == "max_pooling2d" and geometry(layer)[0] == (1, 1)


def _global_average_pool(layer: FrozenLayer, inputs: list[tf.Tensor], number: int) -> tf.Tensor:
    if "pool_size" in layer.attributes:
        return _depthwise(layer, inputs, number)
    return tf.reduce_mean(inputs[0], (1, 2), keepdims=bool(layer.attributes.get("keepdims")))


def _average_pool(layer: FrozenLayer, inputs: list[tf.Tensor], number: int) -> tf.Tensor:
    """XNNPACK has no int8 average pooling; inside the image equal depthwise weights are one."""
    if not layer.keeps_grid:
        return _depthwise(layer, inputs, number)
    window, strides, _ = geometry(layer)
    return tf.nn.avg_pool2d(inputs[0], window, strides, "SAME")


def _cropping(layer: FrozenLayer, inputs: list[tf.Tensor], number: int) -> tf.Tensor:
    (top, bottom), (left, right) = layer.attributes["croppings"]
    height, width = inputs[0].shape[1:3]
    return inputs[0][:, top : height - bottom, left : width - right]


def _slice(layer: FrozenLayer, inputs: list[tf.Tensor], number: int) -> tf.Tensor:
    return inputs[0][(slice(None), *(slice(*part) for part in layer.attributes["parts"]))]


def _transpose(layer: FrozenLayer, inputs: list[tf.Tensor], number: int) -> tf.Tensor:
    return tf.transpose(inputs[0], (0, *(axis + 1 for axis in layer.attributes["axes"])))


def _concatenate(layer: FrozenLayer, inputs: list[tf.Tensor], number: int) -> tf.Tensor:
    return tf.concat(inputs, layer.attributes["axis"] + 1)


def _zero_padding(layer: FrozenLayer, inputs: list[tf.Tensor], number: int) -> tf.Tensor:
    return tf.pad(inputs[0], ((0, 0), *layer.attributes["paddings"]))


def _reshape(layer: FrozenLayer, inputs: list[tf.Tensor], number: int) -> tf.Tensor:
    return tf.reshape(inputs[0], (1, *layer.attributes["shape"]))


_BUILDERS: dict[str, Build] = {
    "conv2d": _conv2d,
    "depthwise_conv2d": _depthwise,
    "conv2d_transpose": _transposed,
    "dense": _dense,
    "add": lambda layer, inputs, number: inputs[0] + inputs[1],
    "subtract": lambda layer, inputs, number: inputs[0] - inputs[1],
    "multiply": lambda layer, inputs, number: inputs[0] * inputs[1],
    "concatenate": _concatenate,
    "gelu": lambda layer, inputs, number: tf.nn.gelu(inputs[0], bool(layer.attributes.get("approximate"))),
    "sigmoid": lambda layer, inputs, number: tf.sigmoid(inputs[0]),
    "tanh": lambda layer, inputs, number: tf.tanh(inputs[0]),
    "elu": lambda layer, inputs, number: tf.nn.gelu(inputs[0]),  # the converter leaves ELU in float
    "global_average_pooling2d": _global_average_pool,
    "average_pooling2d": _average_pool,
    "max_pooling2d": _max_pool,
    "zero_padding": _zero_padding,
    "cropping2d": _cropping,
    "slice": _slice,
    "transpose": _transpose,
    "reshape": _reshape,
}
