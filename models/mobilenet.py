"""MobileNetV2 (arXiv 1801.04381), width 1.0, with the layer names and the padding of keras.applications.

Inputs with a side below 96 pixels lose the first two strides (of `Conv1` and `block_1_depthwise`), so that
32x32 images end on 4x4 features; every weight keeps its shape.
"""

from __future__ import annotations

from typing import NamedTuple

import keras
from keras import layers

from tfmpq.models.blocks import Tensor, is_small, normalization


class _Stage(NamedTuple):
    expansion: int
    filters: int
    blocks: int
    strides: int


# Table 2 of the paper.
_STAGES = (
    _Stage(1, 16, 1, 1),
    _Stage(6, 24, 2, 2),
    _Stage(6, 32, 3, 2),
    _Stage(6, 64, 4, 2),
    _Stage(6, 96, 3, 1),
    _Stage(6, 160, 3, 2),
    _Stage(6, 320, 1, 1),
)


def mobilenet_v2(input_shape: tuple[int, int, int], classes: int) -> keras.Model:
    """MobileNetV2: 3,504,872 parameters with 1000 classes (without moving statistics), logits out."""
    small = is_small(input_shape)
    inputs = keras.Input(input_shape, name="image")
    x = _conv(inputs, 32, 3, "Conv1", strides=1 if small else 2)
    x = _relu6(_norm(x, "bn_Conv1"), "Conv1_relu")
    number = 0
    for stage in _STAGES:
        for index in range(stage.blocks):
            strides = stage.strides if index == 0 and not (small and number == 1) else 1
            prefix = f"block_{number}" if number else "expanded_conv"
            x = _inverted_residual(x, stage.expansion, stage.filters, strides, prefix)
            number += 1
    x = _relu6(_norm(_conv(x, 1280, 1, "Conv_1"), "Conv_1_bn"), "out_relu")
    x = layers.GlobalAveragePooling2D(name="global_average_pooling2d")(x)
    return keras.Model(inputs, layers.Dense(classes, name="predictions")(x), name="mobilenet_v2")


def _inverted_residual(x: Tensor, expansion: int, filters: int, strides: int, prefix: str) -> Tensor:
    y = x
    if expansion > 1:
        y = _conv(y, expansion * x.shape[-1], 1, f"{prefix}_expand")
        y = _relu6(_norm(y, f"{prefix}_expand_BN"), f"{prefix}_expand_relu")
    if strides > 1:
        y = layers.ZeroPadding2D(_strided_padding(y), name=f"{prefix}_pad")(y)
    y = layers.DepthwiseConv2D(
        3,
        strides=strides,
        padding="same" if strides == 1 else "valid",
        use_bias=False,
        name=f"{prefix}_depthwise",
    )(y)
    y = _relu6(_norm(y, f"{prefix}_depthwise_BN"), f"{prefix}_depthwise_relu")
    y = _norm(_conv(y, filters, 1, f"{prefix}_project"), f"{prefix}_project_BN")
    if strides == 1 and x.shape[-1] == filters:
        y = layers.Add(name=f"{prefix}_add")([x, y])
    return y


def _strided_padding(x: Tensor) -> tuple[tuple[int, int], ...]:
    # As keras.applications pads before a strided 3x3 convolution: even sides after the image only.
    return tuple((side % 2, 1) for side in x.shape[1:3])


def _conv(x: Tensor, filters: int, kernel: int, name: str, strides: int = 1) -> Tensor:
    return layers.Conv2D(
        filters,
        kernel,
        strides=strides,
        padding="same",
        use_bias=False,
        kernel_initializer="he_normal",
        name=name,
    )(x)


def _norm(x: Tensor, name: str) -> Tensor:
    return normalization(x, name, epsilon=1e-3)


def _relu6(x: Tensor, name: str) -> Tensor:
    return layers.ReLU(6.0, name=name)(x)
