"""The bridge, and small networks in both Keras."""

from __future__ import annotations

import importlib.util
import os
from types import ModuleType
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import pytest

from tfmpq.graph.fusion import analyse
from tfmpq.quantization.insertion import quantize_model

SHAPE = (8, 8, 3)
CLASSES = 4


@pytest.fixture(scope="session")
def bridge() -> ModuleType:
    # Not importorskip: it would import TFMOT itself, with what that does to tf.keras.
    if importlib.util.find_spec("tensorflow_model_optimization") is None:
        pytest.skip("tensorflow-model-optimization is not installed")
    return importlib.import_module("tfmpq.tfmot")


@pytest.fixture(scope="session")
def tk(bridge: ModuleType) -> Any:
    return importlib.import_module("tf_keras")


@pytest.fixture(scope="session")
def tfmot(bridge: ModuleType) -> Any:
    return importlib.import_module("tensorflow_model_optimization").quantization.keras


@pytest.fixture(scope="session")
def images() -> np.ndarray:
    return np.random.default_rng(3).normal(0, 1, (8, *SHAPE)).astype(np.float32)


def residual(layers: Any, image: Any) -> Any:
    """A residual network of every kind of layer with a kernel, in either Keras."""
    x = layers.Conv2D(6, 3, padding="same", use_bias=False, name="stem")(image)
    x = layers.BatchNormalization(name="stem_bn")(x)
    x = skip = layers.ReLU(name="stem_relu")(x)
    x = layers.DepthwiseConv2D(3, padding="same", use_bias=False, name="dw")(x)
    x = layers.BatchNormalization(name="dw_bn")(x)
    x = layers.ReLU(6.0, name="dw_relu")(x)
    x = layers.Conv2D(6, 1, name="pw")(x)
    x = layers.Add(name="add")([skip, x])
    x = layers.Concatenate(name="both")([x, skip])
    x = layers.Conv2D(5, 3, strides=2, name="down", activation="relu")(x)
    x = layers.GlobalAveragePooling2D(name="gap")(x)
    return layers.Dense(CLASSES, name="logits")(x)


@pytest.fixture(scope="session")
def float_model() -> keras.Model:
    keras.utils.set_random_seed(5)
    image = keras.Input(SHAPE, name="image")
    model = keras.Model(image, residual(keras.layers, image), name="residual")
    rng = np.random.default_rng(7)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            low = [0.5, -0.3, -0.3, 0.5]  # gamma, beta, mean, variance
            layer.set_weights(
                [rng.uniform(a, a + 1, w.shape) for a, w in zip(low, layer.get_weights(), strict=True)]
            )
    return model


def quantized(model: keras.Model, images: np.ndarray, bits: tuple[int, ...]) -> keras.Model:
    network = analyse(model)
    weights = {node.name: bits for node in network.weighted}
    activations = dict.fromkeys(network.tensors, (4, 8)) | {network.tensors[0]: (8,)}
    return quantize_model(model, network, weights, activations, images, (-4, 4))


@pytest.fixture(scope="session")
def searchable(float_model: keras.Model, images: np.ndarray) -> keras.Model:
    """A quantized Keras 3 model whose bit choices are not all alike."""
    model = quantized(float_model, images, (2, 4, 8))
    rng = np.random.default_rng(11)
    for variable in model.trainable_variables:
        if variable.name.endswith("bit_logits"):
            variable.assign(rng.normal(0, 1, variable.shape))
    return model


@pytest.fixture(scope="session")
def make_residual() -> Any:
    return residual
