"""The small ResNets for 32x32 images: ResNet-20 of He et al. and the ResNet-8 of MLPerf Tiny.

At 96 pixels and more the stem convolution gets a stride of 2 and a 3x3 max-pooling of stride 2 follows it.
"""

from __future__ import annotations

from collections.abc import Callable

import keras
from keras import layers

from tfmpq.graph.shortcut import PadShortcut
from tfmpq.models.blocks import Tensor, convolution, is_small, normalization, relu
from tfmpq.models.resnet import projection

_WIDTHS = (16, 32, 64)


def resnet20(input_shape: tuple[int, int, int], classes: int) -> keras.Model:
    """ResNet-20 with parameter-free shortcuts: 269,722 parameters with 10 classes, logits out.

    Source: arXiv 1512.03385, section 4.2, option A; torchvision-like layer names.
    """
    return _resnet20("resnet20", _padded, input_shape, classes)


def resnet20_projection(input_shape: tuple[int, int, int], classes: int) -> keras.Model:
    """ResNet-20 with 1x1 convolutions on the two shortcuts that change shape (option B), logits out."""
    return _resnet20("resnet20_projection", projection, input_shape, classes)


def resnet8(input_shape: tuple[int, int, int], classes: int) -> keras.Model:
    """The image-classification network of MLPerf Tiny: 78,666 parameters with 10 classes, logits out.

    Its convolutions have biases, its projections no BatchNorm, and strided convolutions pad as "same".
    Source: mlcommons/tiny, benchmark/training/image_classification/keras_model.py.
    """
    inputs = keras.Input(input_shape, name="image")
    strides = 1 if is_small(input_shape) else 2
    x = _same(inputs, 16, 3, strides, "conv1")
    x = relu(normalization(x, "bn1", epsilon=1e-3), "relu1")
    if strides > 1:
        x = layers.MaxPooling2D(3, 2, padding="same", name="maxpool")(x)
    for stage, width in enumerate(_WIDTHS, start=1):
        x = _stack(x, width, 1 if stage == 1 else 2, f"stack{stage}")
    x = layers.GlobalAveragePooling2D(name="avgpool")(x)
    return keras.Model(inputs, layers.Dense(classes, name="dense")(x), name="resnet8")


def _resnet20(
    name: str,
    shortcut: Callable[[Tensor, int, int, str], Tensor],
    input_shape: tuple[int, int, int],
    classes: int,
) -> keras.Model:
    inputs = keras.Input(input_shape, name="image")
    small = is_small(input_shape)
    x = convolution(inputs, 16, 3, "conv1", strides=1 if small else 2)
    x = relu(normalization(x, "bn1"), "relu1")
    if not small:
        x = layers.ZeroPadding2D(1, name="maxpool_pad")(x)
        x = layers.MaxPooling2D(3, 2, name="maxpool")(x)
    for stage, width in enumerate(_WIDTHS, start=1):
        for index in range(3):
            strides = 2 if stage > 1 and index == 0 else 1
            block = f"layer{stage}.{index}"
            kept = x if strides == 1 else shortcut(x, width, strides, block)
            y = convolution(x, width, 3, f"{block}.conv1", strides=strides)
            y = relu(normalization(y, f"{block}.bn1"), f"{block}.relu1")
            y = normalization(convolution(y, width, 3, f"{block}.conv2"), f"{block}.bn2")
            x = relu(layers.Add(name=f"{block}.add")([y, kept]), f"{block}.relu2")
    x = layers.GlobalAveragePooling2D(name="avgpool")(x)
    return keras.Model(inputs, layers.Dense(classes, name="linear")(x), name=name)


def _padded(x: Tensor, filters: int, strides: int, name: str) -> Tensor:
    return PadShortcut(filters, strides, name=f"{name}.shortcut")(x)


def _stack(x: Tensor, width: int, strides: int, name: str) -> Tensor:
    y = _same(x, width, 3, strides, f"{name}_conv1")
    y = relu(normalization(y, f"{name}_bn1", epsilon=1e-3), f"{name}_relu1")
    y = normalization(_same(y, width, 3, 1, f"{name}_conv2"), f"{name}_bn2", epsilon=1e-3)
    kept = x if strides == 1 else _same(x, width, 1, strides, f"{name}_shortcut")
    return relu(layers.Add(name=f"{name}_add")([kept, y]), f"{name}_relu2")


def _same(x: Tensor, filters: int, kernel: int, strides: int, name: str) -> Tensor:
    return layers.Conv2D(
        filters, kernel, strides=strides, padding="same", kernel_initializer="he_normal", name=name
    )(x)
