"""Networks of sequences compute the same as networks of images one pixel high."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

from tfmpq.errors import TfmpqError
from tfmpq.graph.fusion import analyse
from tfmpq.graph.lowering import lower
from tfmpq.graph.sequences import lift


def everything(x: Any) -> Any:
    """Every layer of sequences that has a counterpart."""
    x = layers.Normalization(mean=[0.1, 0.2, -0.3], variance=[0.4, 0.5, 0.6])(x)
    x = layers.Conv1D(6, 5, padding="causal", dilation_rate=2, name="causal")(x)
    x = layers.MaxPooling1D(2)(layers.ReLU()(layers.BatchNormalization(axis=2)(x)))
    y = layers.SeparableConv1D(6, 3, strides=2, padding="same", activation="silu", name="separable")(x)
    x = layers.Add()([layers.Conv1D(6, 2, strides=2, groups=3)(x), y])
    x = layers.PReLU(shared_axes=[1])(x)
    x = layers.DepthwiseConv1D(3, padding="same", depth_multiplier=2)(layers.SpatialDropout1D(0.2)(x))
    x = layers.Dense(8, activation="relu", name="by_step")(x)
    x = layers.Concatenate(axis=2)([x, x * 2.0])
    x = layers.UpSampling1D(2)(layers.Cropping1D((1, 0))(layers.ZeroPadding1D(1)(x)))
    x = layers.Reshape((-1, 8))(layers.AveragePooling1D(2)(x))
    largest = layers.GlobalMaxPooling1D()(x)
    mean = layers.Flatten()(layers.GlobalAveragePooling1D(keepdims=True)(x))
    return layers.Dense(4)(layers.Concatenate()([mean, largest]))


def test_every_layer_of_sequences() -> None:
    keras.utils.set_random_seed(1)
    signal = keras.Input((32, 3), name="signal")
    model = keras.Model(signal, everything(signal), name="net")
    generator = np.random.default_rng(2)
    for layer in model.layers:
        if layer.weights and not isinstance(layer, layers.Normalization):
            layer.set_weights([generator.uniform(0.1, 0.6, w.shape) for w in layer.get_weights()])
    signals = generator.normal(size=(3, 32, 3)).astype("float32")
    wanted = model(signals, training=False).numpy()
    lowered = lower(model)
    assert lowered.input_shape == (None, 1, 32, 3)
    np.testing.assert_allclose(lowered(signals[:, None], training=False).numpy(), wanted, rtol=2e-5)
    network = analyse(lowered)
    kinds = {node.name: node.kind for node in network.nodes}
    assert {kinds[name] for name in ("causal", "separable", "by_step")} == {"conv2d"}
    assert network.node("causal").batch_norm is not None
    assert lower(lowered) is lowered


def test_a_model_of_images_stays_itself() -> None:
    image = keras.Input((8, 8, 3))
    model = keras.Model(image, layers.GlobalAveragePooling2D()(layers.Conv2D(4, 3)(image)))
    assert lift(model) is model


def test_sequences_inside_a_nested_model_that_is_called_twice() -> None:
    part_input = keras.Input((16, 4))
    part = keras.Model(part_input, layers.Conv1D(4, 3, padding="same", name="conv")(part_input), name="part")
    image = keras.Input((4, 4, 4))
    x = part(part(layers.Reshape((16, 4))(image)))
    model = keras.Model(image, layers.Dense(2, name="logits")(layers.GlobalAveragePooling1D()(x)))
    lowered = lower(model)
    images = np.random.default_rng(0).normal(size=(2, 4, 4, 4)).astype("float32")
    np.testing.assert_allclose(lowered(images).numpy(), model(images).numpy(), rtol=1e-5, atol=1e-6)
    assert [node.name for node in analyse(lowered).weighted] == ["conv", "conv_2", "logits"]


def test_layers_of_sequences_without_a_counterpart_are_refused_by_name() -> None:
    signal = keras.Input((16, 4))
    x = layers.LSTM(4, name="memory")(layers.Conv1D(4, 3)(signal))
    model = keras.Model(signal, layers.Dense(2)(x))
    with pytest.raises(TfmpqError, match=r"1 that have none: memory \(LSTM\): not supported"):
        analyse(lower(model))
