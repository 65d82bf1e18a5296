"""Files of float activations: one partition, the numbers of the network, every operator within its bound."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

from tfmpq.deploy.conversion.dynamic_form import build_dynamic
from tfmpq.deploy.proof.dynamic_verify import undelegated, verify_dynamic
from tfmpq.deploy.runtime.interpreter import load
from tfmpq.deploy.tflite.flatbuffer import add_buffer, contents, read_model, write_model
from tfmpq.graph.dynamic import DynamicModel
from tfmpq.graph.fusion import analyse
from tfmpq.graph.lowering import lower
from tfmpq.graph.shortcut import PadShortcut
from tfmpq.graph.tensors import Constant
from tfmpq.quantization.dynamic import freeze_dynamic, quantize_dynamic

from ... import composite_networks


def frozen_of(model: keras.Model, bits: int) -> tuple[DynamicModel, keras.Model]:
    """A model as it is written at one width, and the quantized one."""
    lowered = lower(model)
    network = analyse(lowered, dynamic=True)
    quantized = quantize_dynamic(lowered, network, {node.name: (bits,) for node in network.weighted})
    return freeze_dynamic(quantized, analyse(quantized, dynamic=True)), quantized


def prove(model: keras.Model, bits: int) -> None:
    """Write a model and hold the file against its numbers, its recomputation and the quantized model."""
    frozen, quantized = frozen_of(model, bits)
    content = build_dynamic(frozen)
    images = np.random.default_rng(0).normal(size=(2, *frozen.input_shape)).astype(np.float32)
    proof = verify_dynamic(frozen, content, images)
    assert proof.failures == ()
    assert proof.delegate_partitions == 1 + sum(map(undelegated, frozen.layers))
    wanted = np.asarray(quantized(images, training=False))
    gap = np.abs(load(content).run(images) - wanted).max()
    # A code that falls the other way at a tie is worth a 255th of its row.
    assert gap <= 2e-2 * np.abs(wanted).max()


def everything(image: Any) -> Any:
    """Layers of convolutional networks of all kinds."""
    x = layers.Conv2D(8, 3, padding="same", use_bias=False, name="conv")(image)
    x = layers.ReLU(name="relu")(layers.BatchNormalization(name="norm")(x))
    x = layers.GroupNormalization(2, name="grouped")(x)
    x = layers.DepthwiseConv2D(3, strides=2, padding="same", depth_multiplier=2, name="depthwise")(x)
    x = layers.Conv2D(16, 3, groups=2, padding="same", activation="relu6", name="groups")(x)
    y = layers.Conv2DTranspose(8, 3, strides=2, padding="same", name="transposed")(x)
    y = layers.MaxPooling2D(2, name="max")(layers.LeakyReLU(0.1, name="leaky")(y))
    z = layers.AveragePooling2D(2, 1, padding="same", name="average")(PadShortcut(24, 1)(x))
    x = layers.Concatenate(name="joined")([y, layers.Activation("tanh", name="tanh")(z)])
    x = layers.UpSampling2D(2, name="nearest")(layers.Cropping2D(1, name="cropped")(x))
    x = layers.UpSampling2D(2, interpolation="bilinear", name="bilinear")(x)
    x = layers.ZeroPadding2D(((1, 0), (0, 1)), name="padded")(layers.Permute((2, 1, 3), name="turned")(x))
    x = layers.Multiply(name="gated")([x, layers.Activation("hard_sigmoid", name="gate")(x)])
    x = layers.Subtract(name="less")([layers.Activation("elu", name="elu")(x), x * 0.5])
    x = layers.PReLU(shared_axes=[1, 2], alpha_initializer="normal", name="prelu")(x)
    return layers.Dense(5, name="head")(layers.GlobalAveragePooling2D(name="mean")(x))


def _convolutional() -> keras.Model:
    keras.utils.set_random_seed(0)
    image = keras.Input((8, 8, 3), name="image")
    model = keras.Model(image, everything(image), name="everything")
    generator = np.random.default_rng(1)
    for weight in model.weights:
        if weight.path.endswith(("bias", "beta", "moving_mean")):
            weight.assign(generator.normal(0, 0.1, weight.shape))
        if weight.path.endswith("gamma"):
            weight.assign(generator.normal(0, 1, weight.shape))  # signs of both kinds
    return model


@pytest.mark.parametrize(("name", "bits"), [("vit", 4), ("swin", 2), ("rotary", 3), ("convnext", 8)])
def test_a_transformer_is_proved_in_one_partition(name: str, bits: int) -> None:
    prove(composite_networks.build(name), bits)


@pytest.mark.parametrize("bits", [8, 4])
def test_a_convolutional_network_is_proved_in_one_partition(bits: int) -> None:
    prove(_convolutional(), bits)


def _operators() -> dict[str, Callable[[Any], Any]]:
    file = Path(__file__).parent / "test_trained_operators.py"
    spec = importlib.util.spec_from_file_location("trained_operators_for_dynamic", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.OPERATORS


@pytest.mark.slow
@pytest.mark.parametrize("name", _operators())
@pytest.mark.parametrize("bits", [8, 4, 2])
def test_every_operator_of_integer_networks_is_proved_with_float_activations(name: str, bits: int) -> None:
    keras.utils.set_random_seed(0)
    image = keras.Input((8, 8, 3), name="image")
    logits = layers.Dense(4)(layers.Flatten()(_operators()[name](image)))
    prove(keras.Model(image, logits, name="net"), bits)


@pytest.mark.parametrize("factor", [[0.5, -2.0, 0.0, 1.0], [-1.0, 3.0, 1e-3, 2.0]])
def test_factors_of_channels_behind_weights_go_into_scales_and_signs(factor: list[float]) -> None:
    keras.utils.set_random_seed(0)
    image = keras.Input((4, 4, 3), name="image")
    x = layers.Conv2D(4, 1, bias_initializer="normal", name="conv")(image)
    scale = Constant((1, 1, 4), name="gamma")
    x = layers.Multiply(name="scaled")([scale(x), x])
    y = layers.Rescaling([1.0, -1.0, 2.0, 0.5], [0.1, 0.2, 0.3, 0.4], name="shifted")(x)
    other = layers.Conv2D(4, 3, padding="same", name="read_twice")(y)
    kept = layers.Multiply(name="kept")([other, Constant((1, 1, 4), name="delta")(other)])
    y = layers.Add(name="sum")([kept, other])
    model = keras.Model(image, layers.Dense(3, name="head")(layers.Flatten()(y)), name="net")
    scale.set_weights([np.asarray(factor).reshape(1, 1, 4)])
    frozen, _ = frozen_of(model, 8)
    kinds = [layer.kind for layer in frozen.layers]
    assert ("affine" in kinds, kinds.count("multiply")) == (False, 1)
    prove(model, 8)


def _damaged(content: bytes, name: str) -> bytes:
    """A file in which the last bytes of a constant are others."""
    model = read_model(content)
    tensor = next(t for t in model.subgraphs[0].tensors if (t.name or b"").decode() == name)
    data = contents(model, tensor).copy()
    data[-3:] ^= 0x11
    tensor.buffer = add_buffer(model, data)
    return write_model(model)


@pytest.mark.parametrize(
    ("what", "failure"), [("/weights", "integer"), ("/bias", "bias"), ("/scaled", "further from")]
)
def test_a_file_with_another_number_is_not_proved(what: str, failure: str) -> None:
    frozen, _ = frozen_of(composite_networks.build("convnext"), 8)
    content = build_dynamic(frozen)
    if what == "/scaled":  # the factors of a normalization, which are a constant without a name
        model = read_model(content)
        operator = next(
            o
            for o in model.subgraphs[0].operators
            if (model.subgraphs[0].tensors[int(o.outputs[0])].name or b"") == b"stem_norm/scaled"
        )
        tensor = model.subgraphs[0].tensors[int(operator.inputs[1])]
        tensor.buffer = add_buffer(model, np.ones(composite_networks.WIDTH, np.float32))
        content = write_model(model)
    else:
        content = _damaged(content, f"block_body_dense{what}")
    failures = verify_dynamic(frozen, content).failures
    assert failures
    assert failure in failures[0]


def test_layers_that_pack_and_those_that_do_not() -> None:
    keras.utils.set_random_seed(0)
    image = keras.Input((8, 8, 3), name="image")
    x = layers.Conv2D(5, 4, 4, name="patches")(image)  # 48 inputs
    x = layers.Conv2D(6, 1, name="odd")(x)  # 5
    x = layers.Conv2D(8, 1, name="even")(x)  # 6
    x = layers.Conv2D(4, 2, name="windows")(x)
    x = layers.DepthwiseConv2D(1, name="depthwise")(x)
    model = keras.Model(image, layers.Dense(3, name="head")(layers.Flatten()(x)), name="net")
    frozen, _ = frozen_of(model, 2)
    held = {layer.name: layer.weights for layer in frozen.weighted if layer.weights}
    assert {name: (w.kernel, w.container, w.reads) for name, w in held.items()} == {
        "patches": ("FULLY_CONNECTED", 2, "patch"),
        "odd": ("FULLY_CONNECTED", 8, "row"),
        "even": ("FULLY_CONNECTED", 4, "row"),
        "windows": ("CONV_2D", 8, "image"),
        "depthwise": ("DEPTHWISE_CONV_2D", 8, None),
        "head": ("FULLY_CONNECTED", 2, "row"),
    }
    assert "odd number" in held["odd"].reason
