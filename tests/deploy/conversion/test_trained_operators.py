"""Every operator from a Keras layer with learned grids to integers, to a file, to the runtime."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import pytest
from keras import layers

from tfmpq.deploy.conversion.surgery import build_tflite
from tfmpq.deploy.proof.verify import verify
from tfmpq.deploy.runtime.interpreter import load, tensor_values
from tfmpq.errors import TfmpqError
from tfmpq.graph.frozen import FrozenModel
from tfmpq.graph.fusion import analyse
from tfmpq.graph.lowering import lower
from tfmpq.keras_internals import calls_of
from tfmpq.quantization.freeze import freeze, snap_biases
from tfmpq.quantization.insertion import quantize_model

WIDTHS = (2, 3, 4, 6, 8)
Build = Callable[[Any], Any]


def conv(x: Any, filters: int = 6, **options: Any) -> Any:
    return layers.Conv2D(filters, 3, padding="same", **options)(x)


def norm(x: Any) -> Any:
    return layers.BatchNormalization()(x)


def squeeze_and_excite(x: Any, gate: str) -> Any:
    x = conv(x, activation="relu")
    pixel = layers.Reshape((1, 1, 6))(layers.GlobalAveragePooling2D()(x))
    pixel = layers.Conv2D(6, 1, activation=gate)(layers.Conv2D(3, 1, activation="relu")(pixel))
    return layers.Multiply()([x, pixel])


def dense_block(x: Any) -> Any:
    x = conv(x, activation="relu")
    for _ in range(2):
        y = conv(layers.ReLU()(norm(x)), 4)
        x = layers.Concatenate()([x, y])
    return layers.MaxPooling2D(2)(x)


def sequence(x: Any) -> Any:
    return layers.Reshape((16, 6))(layers.MaxPooling2D(2)(conv(x, activation="relu")))


def time_classifier(x: Any) -> Any:
    x = layers.Conv1D(6, 5, padding="causal", dilation_rate=2)(x)
    x = layers.MaxPooling1D(2)(layers.ReLU()(norm(x)))
    y = layers.SeparableConv1D(6, 3, padding="same")(x)
    return layers.GlobalAveragePooling1D()(layers.Add()([x, y]))


OPERATORS: dict[str, Build] = {
    "concatenate": dense_block,
    "concatenate_7": lambda x: layers.Concatenate()([conv(x, 2, activation="relu") for _ in range(7)]),
    "multiply": lambda x: layers.Multiply()([conv(x), conv(x, activation="relu")]),
    "add_pixel": lambda x: layers.Add()([conv(x), layers.GlobalAveragePooling2D(keepdims=True)(conv(x))]),
    "sigmoid": lambda x: squeeze_and_excite(x, "sigmoid"),
    "hard_sigmoid": lambda x: squeeze_and_excite(x, "hard_sigmoid"),
    "silu": lambda x: layers.Activation("silu")(norm(conv(x))),
    "hard_silu": lambda x: layers.Activation("hard_silu")(norm(conv(x))),
    "gelu": lambda x: conv(layers.Activation("gelu")(norm(conv(x)))),
    "gelu_tanh": lambda x: conv(keras.ops.gelu(norm(conv(x)))),
    "leaky_relu": lambda x: layers.LeakyReLU(0.13)(conv(x)),
    "prelu": lambda x: layers.PReLU(shared_axes=[1, 2])(conv(x)),
    "leaky_relu_of_vector": lambda x: layers.PReLU()(layers.Dense(6)(layers.Flatten()(conv(x)))),
    "relu_alone": lambda x: layers.ReLU(6.0)(layers.MaxPooling2D(2)(conv(x))),
    "batch_norm_alone": lambda x: norm(layers.MaxPooling2D(2)(conv(norm(x), activation="relu"))),
    "batch_norm_of_vector": lambda x: layers.ReLU()(norm(layers.GlobalAveragePooling2D()(conv(x)))),
    "rescaling": lambda x: conv(layers.Rescaling(1.7, -0.4)(x), activation="relu"),
    "normalization": lambda x: layers.Conv2D(6, 3)(layers.Normalization(mean=0.1, variance=0.3)(x)),
    "depth_multiplier": lambda x: norm(layers.DepthwiseConv2D(3, depth_multiplier=3, strides=2)(conv(x))),
    "separable": lambda x: norm(layers.SeparableConv2D(6, 3, padding="same")(conv(x))),
    "groups": lambda x: norm(layers.Conv2D(6, 3, groups=2, strides=2, padding="same")(conv(x))),
    "dilation": lambda x: norm(layers.Conv2D(6, 3, dilation_rate=2, padding="same")(conv(x))),
    "average_over_border": lambda x: layers.AveragePooling2D(3, 1, padding="same")(conv(x)),
    "global_max": lambda x: layers.GlobalMaxPooling2D()(conv(x)),
    "upsampling": lambda x: layers.UpSampling2D((2, 3))(layers.MaxPooling2D(2)(conv(x))),
    "cropping": lambda x: layers.Cropping2D(((1, 0), (2, 3)))(conv(x)),
    "subtract": lambda x: layers.Subtract()([conv(x), conv(x, activation="relu")]),
    "maximum": lambda x: layers.Maximum()([conv(x), conv(x)]),
    "average": lambda x: layers.Average()([conv(x), conv(x, activation="relu")]),
    "tanh": lambda x: conv(layers.Activation("tanh")(norm(conv(x)))),
    "elu": lambda x: conv(layers.Activation("elu")(norm(conv(x)))),
    "selu": lambda x: conv(layers.Activation("selu")(norm(conv(x)))),
    "relu_1": lambda x: conv(layers.ReLU(1.0)(norm(conv(x)))),
    "permute": lambda x: layers.Permute((3, 1, 2))(conv(x, activation="relu")),
    "slice": lambda x: conv(x)[:, 1:7, 2:, 1:4],
    "strided_slice": lambda x: conv(x)[:, ::2, 1::3],
    "concatenate_rows": lambda x: layers.Concatenate(axis=1)([conv(x), conv(x, activation="relu")]),
    "depth_to_space": lambda x: keras.ops.reshape(
        keras.ops.transpose(keras.ops.reshape(conv(x, 8), (-1, 8, 8, 2, 2, 2)), (0, 1, 3, 2, 4, 5)),
        (-1, 16, 16, 2),
    ),
    "bilinear": lambda x: conv(layers.UpSampling2D((2, 3), interpolation="bilinear")(conv(x))),
    "bilinear_5": lambda x: layers.UpSampling2D(5, interpolation="bilinear")(conv(x, 2, strides=4)),
    "resized_down": lambda x: conv(layers.Resizing(4, 2)(conv(x))),
    "conv1d": lambda x: norm(layers.Conv1D(6, 3, strides=2, padding="same")(sequence(x))),
    "conv1d_groups": lambda x: layers.Conv1D(6, 4, groups=2, activation="relu")(sequence(x)),
    "conv1d_pointwise": lambda x: layers.Conv1D(8, 1)(sequence(x)),
    "depthwise_conv1d": lambda x: layers.DepthwiseConv1D(3, depth_multiplier=2, strides=2)(sequence(x)),
    "conv2d_transpose": lambda x: layers.Conv2DTranspose(5, 3, strides=2, padding="same")(conv(x)),
    "conv2d_transpose_valid": lambda x: layers.Conv2DTranspose(6, (4, 2), strides=(3, 2), activation="relu6")(
        layers.MaxPooling2D(2)(conv(x))
    ),
    "conv2d_transpose_of_one": lambda x: layers.ReLU()(
        norm(layers.Conv2DTranspose(1, 2, strides=3, padding="same")(conv(x)))
    ),
    "conv1d_transpose": lambda x: layers.Conv1DTranspose(6, 4, strides=2, padding="same")(sequence(x)),
    "time_classifier": lambda x: time_classifier(sequence(x)),
}
INEXACT = {"prelu", "leaky_relu_of_vector", "average_over_border"}
"""Layers that the file rounds otherwise than training: twice, and ties away from zero."""


def trained(
    build: Build, weight_bits: int, activation_bits: int = 8, shape: tuple[int, ...] = (8, 8, 3)
) -> tuple[keras.Model, FrozenModel, Any]:
    """A quantized model with random weights, its integers, and images."""
    keras.utils.set_random_seed(weight_bits)
    image = keras.Input(shape, name="image")
    x = build(image)
    x = layers.Flatten()(x) if len(x.shape) > 2 else x
    model = keras.Model(image, layers.Dense(4, name="logits")(x), name="net")
    generator = np.random.default_rng(weight_bits)
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            size = layer.moving_mean.shape[0]
            layer.set_weights(
                [
                    generator.uniform(0.5, 1.5, size) * generator.choice([-1.0, 1.0], size),
                    generator.normal(0.3, 0.5, size),
                    generator.normal(0, 0.3, size),
                    generator.uniform(0.2, 2.0, size),
                ]
            )
        elif isinstance(layer, layers.PReLU):
            layer.set_weights([generator.uniform(-0.2, 0.6, w.shape) for w in layer.get_weights()])
    model = lower(model)
    images = generator.uniform(-1, 1, (24, *model.input_shape[1:])).astype("float32")
    network = analyse(model)
    weights = {node.name: (weight_bits,) for node in network.weighted}
    activations = {name: (activation_bits,) for name in network.tensors} | {network.tensors[0]: (8,)}
    quantized = quantize_model(model, network, weights, activations, images, (-1.0, 1.0))
    found = analyse(quantized)
    assert [(n.name, n.grid_of, n.signed) for n in found.nodes] == [
        (n.name, n.grid_of, n.signed) for n in network.nodes
    ]
    snap_biases(quantized, found)
    return quantized, freeze(quantized, found), images


def prove(frozen: FrozenModel, target: Any, images: np.ndarray) -> bytes:
    content = build_tflite(frozen, target)
    proof = verify(frozen, content, target, images[:2])
    assert proof.failures == ()
    assert all(check.off_by_more == 0 for check in proof.operators)
    assert sum(check.off_by_one for check in proof.operators if check.kernels == "xnnpack") <= 1
    return content


@pytest.mark.parametrize("bits", WIDTHS)
@pytest.mark.parametrize("operator", OPERATORS)
def test_operator(operator: str, bits: int) -> None:
    quantized, frozen, images = trained(OPERATORS[operator], bits)
    logits = load(prove(frozen, "litert", images)).run(images)
    wanted, step = quantized(images, training=False).numpy(), frozen.layers[-1].grid.scale
    off = np.abs(logits - wanted) / step
    assert off.max() < (3.5 if operator in INEXACT else 1.5)
    assert np.mean(off > 0.5) < (0.75 if operator in INEXACT else 0.15)


@pytest.mark.parametrize("bits", WIDTHS)
def test_network_of_sequences(bits: int) -> None:
    quantized, frozen, images = trained(time_classifier, bits, shape=(24, 3))
    assert images.shape[1:] == (1, 24, 3)
    for target in ("litert", "storage"):
        prove(frozen, target, images)
    logits = load(build_tflite(frozen, "litert")).run(images)
    assert np.mean(logits.argmax(1) == quantized(images, training=False).numpy().argmax(1)) > 0.9


@pytest.mark.parametrize(
    "operator",
    ["concatenate", "sigmoid", "depth_multiplier", "groups", "dilation", "silu", "conv2d_transpose"],
)
@pytest.mark.parametrize("bits", [2, 4])
def test_operator_in_storage_form(operator: str, bits: int) -> None:
    _, frozen, images = trained(OPERATORS[operator], bits)
    prove(frozen, "storage", images)


@pytest.mark.parametrize("bits", [2, 4, 7])
@pytest.mark.parametrize(
    "operator", ["concatenate", "multiply", "hard_silu", "batch_norm_alone", "upsampling"]
)
def test_operator_with_few_activation_bits(operator: str, bits: int) -> None:
    _, frozen, images = trained(OPERATORS[operator], 4, bits)
    prove(frozen, "litert", images)
    assert {layer.grid.bits for layer in frozen.layers[1:]} >= {bits}


@pytest.mark.parametrize("bits", range(2, 8))
def test_signed_and_unsigned_activations_of_few_bits(bits: int) -> None:
    """Zero points make saturation the upper clamp behind a ReLU; signed tensors have zero point 0."""
    _, frozen, images = trained(lambda x: norm(conv(conv(x, activation="relu"))), 4, bits)
    few = {layer.name: layer.grid for layer in frozen.layers if layer.grid.bits == bits}
    assert {(grid.signed, grid.zero_point) for grid in few.values()} == {
        (True, 0),
        (False, 127 - (2**bits - 1)),
    }
    content = prove(frozen, "litert", images)
    codes = frozen.layers[0].grid.quantize(3 * images)  # far beyond what was calibrated
    values = tensor_values(content, list(few), codes, "default")
    for name, grid in few.items():
        low, high = grid.code_range
        assert high - low + 1 == 2**bits
        assert low <= values[name].min() <= values[name].max() <= high


WIDE = (
    "concatenate",
    "multiply",
    "add_pixel",
    "leaky_relu",
    "prelu",
    "relu_alone",
    "batch_norm_alone",
    "batch_norm_of_vector",
    "rescaling",
    "depth_multiplier",
    "separable",
    "groups",
    "dilation",
    "average_over_border",
    "global_max",
    "upsampling",
    "cropping",
    "conv2d_transpose",
    "time_classifier",
    "subtract",
    "maximum",
    "average",
    "relu_1",
    "permute",
    "slice",
    "strided_slice",
    "concatenate_rows",
    "depth_to_space",
    "bilinear",
    "resized_down",
)


@pytest.mark.parametrize("operator", WIDE)
def test_operator_with_16_bit_activations(operator: str) -> None:
    quantized, frozen, images = trained(OPERATORS[operator], 4, 16)
    assert frozen.wide
    content = build_tflite(frozen, "litert")
    proof = verify(frozen, content, "litert", images[:2])
    assert proof.failures == ()
    assert all(check.off_by_more == 0 for check in proof.operators)
    logits, wanted = load(content).run(images), quantized(images, training=False).numpy()
    assert np.abs(logits - wanted).max() < 12 * frozen.layers[-1].grid.scale


@pytest.mark.parametrize("operator", ["sigmoid", "gelu"])
def test_operator_that_is_inexact_with_16_bit_activations_is_refused(operator: str) -> None:
    _, frozen, _ = trained(OPERATORS[operator], 8, 16)
    with pytest.raises(TfmpqError, match="more than one step off"):
        build_tflite(frozen, "litert")


def test_tensors_that_are_concatenated_have_one_trained_quantizer() -> None:
    quantized, frozen, _ = trained(dense_block, 4)
    shared = [layer for layer in quantized.layers if layer.name.endswith("_grid")]
    assert len(shared) == 1
    assert len(calls_of(shared[0])) == 3
    grids = {
        frozen.layer(name).grid
        for layer in frozen.layers
        if layer.kind == "concatenate"
        for name in layer.inputs
    }
    assert len(grids) == 1
