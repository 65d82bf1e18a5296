"""tf_keras models in Keras 3: structure, weights, annotations."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tfmpq.errors import TfmpqError
from tfmpq.graph.fusion import analyse
from tfmpq.graph.lowering import lower
from tfmpq.keras_internals import calls_of
from tfmpq.policy.policy import uniform_policy
from tfmpq.quantizers.config import MixedPrecisionQuantizeConfig

SHAPE = (8, 8, 3)


class _Log:
    def __init__(self) -> None:
        self.lines: list[str] = []

    def log(self, line: str) -> None:
        self.lines.append(line)


def _randomise(model: Any) -> Any:
    rng = np.random.default_rng(2)
    model.set_weights([rng.uniform(0.1, 0.9, w.shape) for w in model.get_weights()])
    return model


def test_a_plain_model_node_by_node(bridge: Any, tk: Any, make_residual: Any, images: np.ndarray) -> None:
    image = tk.Input(SHAPE, name="image")
    model = _randomise(tk.Model(image, make_residual(tk.layers, image), name="residual"))
    imported = bridge.from_tf_keras(model)
    assert imported.model.name == "residual"
    assert [layer.name for layer in imported.model.layers] == [layer.name for layer in model.layers]
    for layer in model.layers:
        copy = imported.model.get_layer(layer.name)
        assert type(copy).__name__ == type(layer).__name__
        for one, other in zip(layer.get_weights(), copy.get_weights(), strict=True):
            np.testing.assert_array_equal(other, one)
    np.testing.assert_allclose(imported.model(images), model(images), rtol=1e-5, atol=1e-5)
    assert (imported.weight_bits, imported.float_layers) == ({}, ())
    assert [node.name for node in analyse(imported.model).weighted] == ["stem", "dw", "pw", "down", "logits"]


def test_nested_models_and_shared_layers(bridge: Any, tk: Any, images: np.ndarray) -> None:
    layers = tk.layers
    block = tk.Sequential(
        [tk.Input((8, 8, 4)), layers.SeparableConv2D(4, 3, padding="same"), layers.PReLU(shared_axes=[1, 2])],
        name="block",
    )
    shared = layers.Conv2D(4, 3, padding="same", name="shared")
    image = tk.Input(SHAPE)
    x = layers.Normalization(mean=[0.1, 0.2, 0.3], variance=[1.0, 2.0, 3.0])(image)
    x = layers.LeakyReLU(0.2)(layers.Conv2D(4, 1)(x))
    x = layers.Add()([shared(x), shared(block(x))])
    x = layers.UpSampling2D()(layers.ZeroPadding2D(1)(layers.AveragePooling2D()(x)))
    model = _randomise(tk.Model(image, layers.Dense(3)(layers.Flatten()(layers.Cropping2D(1)(x)))))
    copy = bridge.from_tf_keras(model).model  # compares the outputs itself
    np.testing.assert_allclose(copy(images), model(images), rtol=1e-5, atol=1e-5)
    assert len(calls_of(copy.get_layer("shared"))) == 2
    np.testing.assert_allclose(lower(copy)(images), model(images), rtol=1e-4, atol=1e-4)


def test_annotations_are_respected(bridge: Any, tk: Any, tfmot: Any) -> None:
    from tensorflow_model_optimization.python.core.quantization.keras.default_8bit import (
        default_8bit_quantize_configs as stock,
    )

    annotate, layers = tfmot.quantize_annotate_layer, tk.layers
    image = tk.Input(SHAPE, name="image")
    x = annotate(layers.Conv2D(4, 3, name="free"), MixedPrecisionQuantizeConfig((2, 4, 8)))(image)
    x = annotate(layers.Conv2D(4, 3, name="fixed"), MixedPrecisionQuantizeConfig((4,)))(x)
    x = annotate(layers.Conv2D(4, 1, name="default"))(x)
    x = annotate(layers.Conv2D(4, 1, name="noop"), stock.NoOpQuantizeConfig())(x)
    x = layers.Conv2D(4, 1, name="bare")(x)
    x = layers.GlobalAveragePooling2D()(x)
    model = tk.Model(image, annotate(layers.Dense(2, name="head"), MixedPrecisionQuantizeConfig((2, 4)))(x))
    log = _Log()
    imported = bridge.from_tf_keras(model, log)
    assert imported.weight_bits == {"free": (2, 4, 8), "fixed": (4,), "default": (8,), "head": (2, 4)}
    assert imported.float_layers == ("noop", "bare")
    assert len(log.lines) == 1
    assert log.lines[0].startswith("noop, bare: annotated to stay in float")
    names = ["free", "fixed", "default", "noop", "bare", "head"]
    candidates = imported.candidates(analyse(imported.model), (3, 5))
    assert list(candidates) == names
    assert candidates == {**imported.weight_bits, "noop": (8,), "bare": (8,)}
    policy = imported.respect(uniform_policy("toy", names, 3))
    assert policy.weight_bits == {"free": 4, "fixed": 4, "default": 8, "noop": 8, "bare": 8, "head": 4}
    assert imported.respect(policy) == policy


def test_operations_between_layers_and_slashes_in_names_come_in(bridge: Any, tk: Any) -> None:
    image = tk.Input(SHAPE)
    x = tk.layers.Conv2D(SHAPE[-1], 3, padding="same", name="block/conv")(image / 255.0)
    x = tf.nn.relu(x + image) * 2.0
    imported = bridge.from_tf_keras(tk.Model(image, tk.layers.Dense(2)(tk.layers.Flatten()(x))))
    assert "block_conv" in [layer.name for layer in imported.model.layers]


def test_what_cannot_come_in_is_named(bridge: Any, tk: Any, tfmot: Any, searchable: Any) -> None:
    layers, image = tk.layers, tk.Input(SHAPE)
    for layer, message in (
        (layers.Lambda(lambda x: x, name="code"), r"Received: code \(Lambda\)"),
        (layers.Activation("hard_sigmoid", name="gate"), r"Received: 'hard_sigmoid' in gate"),
        (layers.BatchNormalization(renorm=True, name="bn"), r"Received: bn, BatchNormalization with renorm"),
        (layers.Conv2D(2, 1, dtype="mixed_bfloat16", name="half"), r"Received: half, Conv2D in bfloat16"),
    ):
        with pytest.raises(TfmpqError, match=message):
            bridge.from_tf_keras(tk.Model(image, layer(image)))
    with pytest.raises(TfmpqError, match=r"cumsum in layer"):
        bridge.from_tf_keras(tk.Model(image, tf.cumsum(image)))
    with pytest.raises(TfmpqError, match="quantized already"):
        bridge.from_tf_keras(bridge.to_tfmot(searchable))
    with pytest.raises(TfmpqError, match="functional or Sequential tf_keras model"):
        bridge.from_tf_keras(searchable)
