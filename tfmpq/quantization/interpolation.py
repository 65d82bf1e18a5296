"""Bilinear interpolation by whole factors, as operators that the runtime computes exactly.

A pixel that is interpolated by a factor k lies, with half-pixel centres, at (j + 1/2) / k - 1/2 from an old
one, j = 0 .. k-1. Its weights of the old pixels before, at and behind it are whole multiples of 1 / (2 k), so
that one depthwise convolution of small integers gives all k * k new pixels of an old one as channels. The
border is repeated once.
"""

from __future__ import annotations

import numpy as np

from tfmpq.graph.frozen import FrozenLayer, FrozenWeights, TensorGrid
from tfmpq.graph.network import Node


def taps(factor: int) -> np.ndarray:
    """Weights of the pixels before, at and behind, in units of 1 / (2 * factor): int64 (factor, 3)."""
    ahead = 2 * np.arange(factor) + 1 - factor
    return np.stack([np.maximum(-ahead, 0), 2 * factor - np.abs(ahead), np.maximum(ahead, 0)], axis=1)


def bilinear(
    node: Node, inputs: tuple[str, ...], source: TensorGrid, target: TensorGrid
) -> list[FrozenLayer]:
    """The layers of a bilinear UpSampling2D; the last one has its name."""
    rows, columns = node.main.size
    height, width, channels = node.output_shape
    height, width = height // rows, width // columns
    layers: list[FrozenLayer] = []
    value = inputs[0]
    for axis, size in ((0, height), (1, width)):
        value = _with_border(
            layers, node.name, value, axis, (height + 2 * axis, width, channels), size, source
        )
    kernel = np.einsum("ia,jb->abij", taps(rows), taps(columns)).reshape(3, 3, 1, rows * columns)
    integers = np.repeat(kernel, channels, axis=2).astype(np.int8)
    count = channels * rows * columns
    scales = np.full(count, np.float32(1.0 / (4 * rows * columns)))
    weights = FrozenWeights(integers, scales, np.zeros(count, np.int32), 8)
    point = {"strides": (1, 1), "padding": "valid", "dilation": (1, 1)}
    new, split, order = (f"{node.name}_{part}" for part in ("pixels", "split", "order"))
    shape = (height, width, channels, rows, columns)
    return [
        *layers,
        FrozenLayer(new, "depthwise_conv2d", (value,), target, "linear", weights, point),
        FrozenLayer(split, "reshape", (new,), target, attributes={"shape": shape}),
        FrozenLayer(order, "transpose", (split,), target, attributes={"axes": (0, 3, 1, 4, 2)}),
        FrozenLayer(node.name, "reshape", (order,), target, attributes={"shape": node.output_shape}),
    ]


def _with_border(
    layers: list[FrozenLayer],
    name: str,
    value: str,
    axis: int,
    shape: tuple[int, int, int],
    size: int,
    grid: TensorGrid,
) -> str:
    """Repeat the first and the last row or column; returns the name of the result."""
    word = ("row", "column")[axis]
    ends = []
    for place, begin in (("first", 0), ("last", size - 1)):
        parts = [(0, extent, 1) for extent in shape]
        parts[axis] = (begin, begin + 1, 1)
        ends.append(f"{name}_{place}_{word}")
        layers.append(FrozenLayer(ends[-1], "slice", (value,), grid, attributes={"parts": tuple(parts)}))
    made = f"{name}_{word}s"
    inputs = (ends[0], value, ends[1])
    layers.append(FrozenLayer(made, "concatenate", inputs, grid, attributes={"axis": axis}))
    return made
