"""Layers with a kernel as matrix products: the kernel as matrices, and what they are multiplied with.

Every such layer is `groups` independent products (positions, inputs) x (inputs, outputs) and a bias. A
depthwise convolution has a group for each channel of its input. A transposed convolution is written from its
output: a row holds, for every tap of the kernel, the pixel that reaches the position through that tap, or
zeros where the tap falls between two pixels, which with strides most of them do.
"""

from __future__ import annotations

import numpy as np

from tfmpq.graph.network import Node

Positions = tuple[np.ndarray, ...]
"""Image, row and column of some positions of an output: int64 (positions,) each."""


def as_matrices(kernel: np.ndarray, node: Node) -> np.ndarray:
    """A kernel in the layout of Keras as (groups, inputs, outputs); output channels keep their order."""
    if node.kind == "conv2d_transpose":
        kernel = kernel.swapaxes(2, 3)
    groups = group_count(node)
    return kernel.reshape(-1, groups, node.output_shape[-1] // groups).transpose(1, 0, 2)


def as_kernel(matrices: np.ndarray, node: Node) -> np.ndarray:
    """The inverse of `as_matrices`."""
    shape, rows = tuple(node.main.kernel.shape), matrices.transpose(1, 0, 2)
    if node.kind == "conv2d_transpose":
        return rows.reshape(*shape[:2], shape[3], shape[2]).swapaxes(2, 3)
    return rows.reshape(shape)


def input_matrices(node: Node, x: np.ndarray, positions: Positions) -> np.ndarray:
    """What the matrices of a convolution's kernel are multiplied with.

    Args:
        node: A convolution of any kind.
        x: Its input, (images, height, width, channels).
        positions: Where in its output.

    Returns:
        (groups, positions, inputs), dtype of `x`.
    """
    image, *places = (place[:, None, None] for place in positions)
    reached = _reached_by_transposed if node.kind == "conv2d_transpose" else _reached
    pixels, inside = [], np.ones((), bool)
    for axis, place in enumerate(places):
        size = x.shape[axis + 1]
        taps = np.expand_dims(np.arange(node.main.kernel_size[axis]), (0, 2 - axis))
        pixel = reached(node, axis, size, place, taps)
        inside = inside & (pixel >= 0) & (pixel < size)
        pixels.append(np.clip(pixel, 0, size - 1))
    # Padding the whole tensor instead would copy gigabytes.
    found = x[image, pixels[0], pixels[1]]
    found[~inside] = 0
    groups = group_count(node)
    grouped = found.reshape(len(found), -1, groups, x.shape[-1] // groups).transpose(2, 0, 1, 3)
    return grouped.reshape(groups, len(found), -1)


def group_count(node: Node) -> int:
    """Number of independent products that a layer with a kernel is."""
    layer = node.main
    return int(layer.kernel.shape[2]) if node.kind == "depthwise_conv2d" else int(getattr(layer, "groups", 1))


def _reached(node: Node, axis: int, size: int, place: np.ndarray, taps: np.ndarray) -> np.ndarray:
    """Along one axis, the pixels that taps meet at places of the output; some lie outside of the image."""
    layer = node.main
    stride, dilation = layer.strides[axis], layer.dilation_rate[axis]
    spread = (node.output_shape[axis] - 1) * stride + (layer.kernel_size[axis] - 1) * dilation + 1
    before = max(spread - size, 0) // 2  # pixels that `same` adds; `valid` lacks none
    return place * stride - before + taps * dilation


def _reached_by_transposed(
    node: Node, axis: int, size: int, place: np.ndarray, taps: np.ndarray
) -> np.ndarray:
    """The pixels that reach places of the output through taps; -1 where a tap falls between two pixels."""
    layer = node.main
    stride = layer.strides[axis]
    spread = (size - 1) * stride + layer.kernel_size[axis]
    before = max(spread - node.output_shape[axis], 0) // 2  # places that `same` cuts off; `valid` cuts none
    pixel, between = np.divmod(place + before - taps, stride)
    return np.where(between == 0, pixel, -1)
