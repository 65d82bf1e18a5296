"""What the reference networks share: padding as published, normalisation, the size of the input."""

from __future__ import annotations

from typing import Any

from keras import layers

Tensor = Any
"""A symbolic Keras tensor."""

SMALL_INPUT = 96
"""Inputs whose shorter side is below this many pixels keep their resolution in the stem."""

MOMENTUM = 0.9
"""Of the moving averages in BatchNorm, as in torchvision: short trainings are too short for 0.99 and more."""


def is_small(input_shape: tuple[int, int, int]) -> bool:
    """Whether the stem of a network leaves out its strides and its pooling."""
    return min(input_shape[:2]) < SMALL_INPUT


def convolution(
    x: Tensor, filters: int, kernel: int, name: str, *, strides: int = 1, use_bias: bool = False
) -> Tensor:
    """A convolution with symmetric zero padding of kernel // 2, as torchvision computes it.

    "same" padding is symmetric for stride 1 only, so that strided convolutions get a ZeroPadding2D layer.
    """
    padding = "same" if strides == 1 else "valid"
    if strides > 1 and kernel > 1:
        x = layers.ZeroPadding2D(kernel // 2, name=f"{name}_pad")(x)
    return layers.Conv2D(
        filters,
        kernel,
        strides=strides,
        padding=padding,
        use_bias=use_bias,
        kernel_initializer="he_normal",
        name=name,
    )(x)


def normalization(x: Tensor, name: str, *, epsilon: float = 1e-5) -> Tensor:
    """BatchNormalization with the epsilon of torchvision unless told otherwise."""
    return layers.BatchNormalization(epsilon=epsilon, momentum=MOMENTUM, name=name)(x)


def relu(x: Tensor, name: str) -> Tensor:
    """A ReLU layer of its own, so that its output tensor can be quantized."""
    return layers.ReLU(name=name)(x)
