"""Sums of products, and windows of one image, in float64 and NumPy; for integers and floats alike."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tfmpq.deploy.conversion.topology import geometry, transposed_size, window_padding
from tfmpq.graph.dynamic import DynamicLayer
from tfmpq.graph.frozen import FrozenLayer

Layer = FrozenLayer | DynamicLayer


def summed(layer: Layer, value: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """What a layer with weights sums up for every element of its output.

    Args:
        layer: The layer, of which kind, strides, padding, dilation and groups are read.
        value: Its input, float64 with a batch of 1.
        kernel: float64, in Keras layout.
    """
    return _SUMS[layer.kind](layer, value, kernel)


def _conv2d(layer: Layer, value: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    groups = int(layer.attributes.get("groups", 1))
    parts = zip(np.split(value, groups, axis=-1), np.split(kernel, groups, axis=-1), strict=True)
    return np.concatenate([_correlate(layer, part, own) for part, own in parts], axis=-1)


def _correlate(layer: Layer, value: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    total: np.ndarray | float = 0.0
    for (row, column), window in windows(layer, value):
        # One large matrix product instead of one per image row.
        total = total + window.reshape(-1, window.shape[-1]) @ kernel[row, column]
    return np.asarray(total).reshape(*window.shape[:-1], -1)


def _depthwise(layer: Layer, value: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    total: np.ndarray | float = 0.0
    for (row, column), window in windows(layer, value):
        total = total + window[..., None] * kernel[row, column]
    products = np.asarray(total)
    return products.reshape(*products.shape[:3], -1)


def _transposed(layer: Layer, value: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Every pixel adds its multiple of the kernel to a window of the output, which `same` cuts evenly."""
    (rows, columns), (down, right), _ = geometry(layer)
    _, height, width, _ = value.shape
    size = transposed_size(layer, value.shape[1:])
    whole = np.zeros((1, height * down + rows, width * right + columns, kernel.shape[2]))
    for row, column in np.ndindex(rows, columns):
        reached = whole[:, row : row + height * down : down, column : column + width * right : right]
        reached += value @ kernel[row, column].T
    spread = ((height - 1) * down + rows, (width - 1) * right + columns)
    top, left = (max(extent - kept, 0) // 2 for extent, kept in zip(spread, size, strict=True))
    return whole[:, top : top + size[0], left : left + size[1]]


_SUMS: dict[str, Callable[[Layer, np.ndarray, np.ndarray], np.ndarray]] = {
    "conv2d": _conv2d,
    "depthwise_conv2d": _depthwise,
    "conv2d_transpose": _transposed,
    "dense": lambda layer, value, kernel: value @ kernel,
}


def windows(layer: Layer, value: np.ndarray, fill: float = 0.0) -> list[tuple[tuple[int, int], np.ndarray]]:
    """For every position in the window the (1, rows, columns, channels) values that it meets."""
    pads = window_padding(layer, value.shape[1:])
    padded = np.pad(value, ((0, 0), *pads, (0, 0)), constant_values=fill)
    (height, width), (down, right), (row_step, column_step) = geometry(layer)
    rows = (padded.shape[1] - (height - 1) * row_step - 1) // down * down + 1
    columns = (padded.shape[2] - (width - 1) * column_step - 1) // right * right + 1
    return [
        (
            (i, j),
            padded[
                :,
                i * row_step : i * row_step + rows : down,
                j * column_step : j * column_step + columns : right,
            ],
        )
        for i in range(height)
        for j in range(width)
    ]
