"""ResNet-18 and ResNet-50 of He et al. (arXiv 1512.03385) with torchvision's names, padding and strides.

ResNet-50 has its stride on the 3x3 convolution (torchvision's, "v1.5"). Inputs with a side below 96 pixels
keep the 7x7 stem, with stride 1 and without the max-pooling, so that every weight has the same shape at any
input size.
"""

from __future__ import annotations

from collections.abc import Callable

import keras
from keras import layers

from tfmpq.models.blocks import Tensor, convolution, is_small, normalization, relu

_WIDTHS = (64, 128, 256, 512)


def resnet18(input_shape: tuple[int, int, int], classes: int) -> keras.Model:
    """ResNet-18: 11,689,512 parameters with 1000 classes (without moving statistics), logits out."""
    return _resnet("resnet18", (2, 2, 2, 2), basic_block, input_shape, classes)


def resnet50(input_shape: tuple[int, int, int], classes: int) -> keras.Model:
    """ResNet-50 v1.5: 25,557,032 parameters with 1000 classes (without moving statistics), logits out."""
    return _resnet("resnet50", (3, 4, 6, 3), bottleneck_block, input_shape, classes)


def _resnet(
    name: str,
    depths: tuple[int, ...],
    block: Callable[[Tensor, int, int, str], Tensor],
    input_shape: tuple[int, int, int],
    classes: int,
) -> keras.Model:
    small = is_small(input_shape)
    inputs = keras.Input(input_shape, name="image")
    x = convolution(inputs, 64, 7, "conv1", strides=1 if small else 2)
    x = relu(normalization(x, "bn1"), "relu1")
    if not small:
        # Zero padding is exact here: after a ReLU no value is below zero.
        x = layers.ZeroPadding2D(1, name="maxpool_pad")(x)
        x = layers.MaxPooling2D(3, 2, name="maxpool")(x)
    for stage, (depth, width) in enumerate(zip(depths, _WIDTHS, strict=True), start=1):
        for index in range(depth):
            strides = 2 if stage > 1 and index == 0 else 1
            x = block(x, width, strides, f"layer{stage}.{index}")
    x = layers.GlobalAveragePooling2D(name="avgpool")(x)
    return keras.Model(inputs, layers.Dense(classes, name="fc")(x), name=name)


def basic_block(x: Tensor, width: int, strides: int, name: str) -> Tensor:
    """Two 3x3 convolutions and a shortcut, projected where the shape changes."""
    shortcut = projection(x, width, strides, name) if strides > 1 or x.shape[-1] != width else x
    y = convolution(x, width, 3, f"{name}.conv1", strides=strides)
    y = relu(normalization(y, f"{name}.bn1"), f"{name}.relu1")
    y = normalization(convolution(y, width, 3, f"{name}.conv2"), f"{name}.bn2")
    return relu(layers.Add(name=f"{name}.add")([y, shortcut]), f"{name}.relu2")


def bottleneck_block(x: Tensor, width: int, strides: int, name: str) -> Tensor:
    """1x1, 3x3 (with the stride) and 1x1 convolutions to four times the width, and a shortcut."""
    filters = 4 * width
    shortcut = projection(x, filters, strides, name) if strides > 1 or x.shape[-1] != filters else x
    y = relu(normalization(convolution(x, width, 1, f"{name}.conv1"), f"{name}.bn1"), f"{name}.relu1")
    y = convolution(y, width, 3, f"{name}.conv2", strides=strides)
    y = relu(normalization(y, f"{name}.bn2"), f"{name}.relu2")
    y = normalization(convolution(y, filters, 1, f"{name}.conv3"), f"{name}.bn3")
    return relu(layers.Add(name=f"{name}.add")([y, shortcut]), f"{name}.relu3")


def projection(x: Tensor, filters: int, strides: int, name: str) -> Tensor:
    """A 1x1 convolution with BatchNorm on the shortcut (option B)."""
    x = convolution(x, filters, 1, f"{name}.downsample.0", strides=strides)
    return normalization(x, f"{name}.downsample.1")
