"""Networks as a user writes them; the end-to-end tests name them as `user_networks:FUNCTION`."""

from __future__ import annotations

import keras
from keras import layers


def small(input_shape: tuple[int, int, int], classes: int) -> keras.Model:
    """Every operator with weights: convolution, depthwise, pointwise and dense; the stem keeps 8 bits."""
    image = keras.Input(input_shape, name="image")
    x = layers.Conv2D(16, 3, padding="same", use_bias=False, name="stem")(image)
    x = layers.BatchNormalization(momentum=0.9, name="stem_bn")(x)
    x = layers.ReLU(name="stem_relu")(x)
    x = layers.DepthwiseConv2D(3, padding="same", use_bias=False, name="depthwise")(x)
    x = layers.BatchNormalization(momentum=0.9, name="depthwise_bn")(x)
    x = layers.ReLU(6.0, name="depthwise_relu")(x)
    x = layers.Conv2D(32, 1, use_bias=False, name="pointwise")(x)
    x = layers.BatchNormalization(momentum=0.9, name="pointwise_bn")(x)
    x = layers.ReLU(name="pointwise_relu")(x)
    x = layers.Conv2D(32, 3, strides=2, padding="same", activation="relu", name="down")(x)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(image, layers.Dense(classes, name="logits")(x), name="small")


def two_heads(input_shape: tuple[int, int, int], classes: int) -> keras.Model:
    """Two outputs, of which a training could take one."""
    image = keras.Input(input_shape, name="image")
    x = layers.Conv2D(8, 3, activation="relu", name="stem")(image)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    heads = [layers.Dense(classes, name=name)(x) for name in ("logits", "others")]
    return keras.Model(image, heads, name="two_heads")


def twice(input_shape: tuple[int, int, int], classes: int) -> keras.Model:
    """The same output, given twice."""
    network = small(input_shape, classes)
    return keras.Model(network.input, [network.output, network.output], name="twice")


def unsupported(input_shape: tuple[int, int, int], classes: int) -> keras.Model:
    """Two layers that have no quantized counterpart."""
    image = keras.Input(input_shape, name="image")
    x = layers.Conv2D(8, 3, activation="softplus", name="bent")(image)
    x = layers.LayerNormalization(name="normalised")(x)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(image, layers.Dense(classes, name="logits")(x), name="unsupported")


def tiny(input_shape: tuple[int, int, int], classes: int) -> keras.Model:
    """A few kilobytes, with BatchNorm and one layer of each speed: for runs that are kept as test data."""
    image = keras.Input(input_shape, name="image")
    x = layers.Conv2D(4, 3, strides=2, padding="same", use_bias=False, name="stem")(image)
    x = layers.BatchNormalization(momentum=0.9, name="stem_bn")(x)
    x = layers.ReLU(name="stem_relu")(x)
    x = layers.Conv2D(8, 3, strides=2, padding="same", activation="relu", name="down")(x)
    x = layers.Conv2D(8, 1, activation="relu", name="pointwise")(x)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(image, layers.Dense(classes, name="logits")(x), name="tiny")
