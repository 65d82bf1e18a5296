"""Operations with constant kernels of one image as layers: what a class of the user's calls of Keras' own.

A class derived from `Conv2D` that changes the result of its `call` is a convolution and something else.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from keras import layers

from tfmpq.graph.one_image import Handler, array_of, is_tensor
from tfmpq.graph.replay import Replay

_IMAGE_RANK = 4


def _fits(node: Any, args: tuple[Any, ...]) -> bool:
    """Whether it reads one image of the usual layout, and constants."""
    shape = tuple(node.input_tensors[0].shape)
    last = getattr(node.operation, "data_format", None) in (None, "channels_last")
    return last and len(shape) == _IMAGE_RANK and shape[0] == 1 and not any(map(is_tensor, args[1:]))


def _options(operation: Any) -> dict[str, Any]:
    return {
        "strides": operation.strides,
        "padding": operation.padding,
        "dilation_rate": operation.dilation_rate,
        "use_bias": False,
    }


def _convolution(replay: Replay, node: Any, args: tuple[Any, ...]) -> Any:
    if not _fits(node, args):
        return None
    kernel, channels = array_of(args[1]), int(node.input_tensors[0].shape[-1])
    size, groups = kernel.shape[:2], channels // kernel.shape[2]
    options = _options(node.operation) | {"groups": groups, "kernel_size": size, "filters": kernel.shape[3]}
    return replay.call(layers.Conv2D, node.operation.name, args[0], [kernel], **options)


def _depthwise(replay: Replay, node: Any, args: tuple[Any, ...]) -> Any:
    if not _fits(node, args):
        return None
    kernel = array_of(args[1])
    options = _options(node.operation) | {
        "kernel_size": kernel.shape[:2],
        "depth_multiplier": kernel.shape[3],
    }
    return replay.call(layers.DepthwiseConv2D, node.operation.name, args[0], [kernel], **options)


def _normalized(replay: Replay, node: Any, args: tuple[Any, ...]) -> Any:
    """A factor and an offset for each channel."""
    operation, rank = node.operation, len(node.input_tensors[0].shape)
    if operation.axis not in (-1, rank - 1) or any(map(is_tensor, args[1:])):
        return None
    given: list[Any] = [*map(_numbers, args[1:]), *[None] * (5 - len(args))]
    mean, variance, offset, scale = given
    factor = 1.0 / np.sqrt(variance + operation.epsilon)
    factor = factor if scale is None else factor * scale
    shift = -mean * factor + (0.0 if offset is None else offset)
    return replay.call(
        layers.Rescaling, operation.name, args[0], scale=factor.tolist(), offset=shift.tolist()
    )


def _numbers(value: Any) -> Any:
    return None if value is None else array_of(value).astype(np.float64)


def _rectified(replay: Replay, node: Any, args: tuple[Any, ...]) -> Any:
    """`keras.activations.relu`; lowering takes a slope or another bound apart."""
    operation = node.operation
    if operation.threshold:
        return None
    slope, high = operation.negative_slope or 0.0, operation.max_value
    return replay.call(layers.ReLU, operation.name, args[0], negative_slope=float(slope), max_value=high)


OF_KERNELS: dict[str, Handler] = {
    "Conv": _convolution,
    "DepthwiseConv": _depthwise,
    "BatchNorm": _normalized,
    "ReLU": _rectified,
}
"""Handlers of operations of Keras, by class name."""
