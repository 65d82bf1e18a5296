"""Activations that are quantized where a kernel reads them, on a grid of the values that are there.

XNNPACK's dynamically quantized kernels take float inputs. They look for the smallest and the largest value of
each row (FULLY_CONNECTED) or image (CONV_2D) and put it on 256 levels. All of it happens in float32, and so
it does here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from keras import ops

InputGrid = Literal["row", "patch", "image"]
"""What has one grid: each row of the last axis, each patch that a kernel as large as its strides reads, or
each image."""

LOW, HIGH = -128.0, 127.0

SMALLEST = 1e-36
"""Below this span 255 / span is not finite."""


class Grid(NamedTuple):
    """The grids of a tensor, each of them broadcastable to it.

    Attributes:
        factor: Levels for a unit, k = 255 / (largest - smallest).
        step: 1 / k.
        zero_point: Level of 0.
    """

    factor: Any
    step: Any
    zero_point: Any


def grid_of(x: Any, axes: Sequence[int]) -> Grid:
    """The grids of a tensor.

    Args:
        x: float32.
        axes: Axes over which values share a grid.
    """
    low = ops.minimum(ops.min(x, axis=tuple(axes), keepdims=True), 0.0)
    high = ops.maximum(ops.max(x, axis=tuple(axes), keepdims=True), 0.0)
    span = high - low
    equal = span < SMALLEST
    factor = ops.where(equal, ops.ones_like(span), 255.0 / ops.where(equal, ops.ones_like(span), span))
    below, above = low * factor, high * factor
    # Of the two levels for 0 the one that keeps the end which is further off is taken.
    near_low = (LOW + below) + (HIGH + above) > 0.0
    zero_point = ops.round(ops.clip(ops.where(near_low, LOW - below, HIGH - above), LOW, HIGH))
    return Grid(factor, 1.0 / factor, zero_point)


def codes_of(x: Any, grid: Grid) -> Any:
    """Levels of a tensor, whole numbers from -128 to 127; ties to even."""
    return ops.clip(ops.round(x * grid.factor) + grid.zero_point, LOW, HIGH)


def quantize_input(x: Any, what: InputGrid, patch: tuple[int, int] = (1, 1)) -> Any:
    """What a kernel reads of a tensor; its gradient to the tensor is the identity.

    Args:
        x: float32; for `patch` and `image` (batch, height, width, channels).
        what: What has one grid.
        patch: Height and width of a patch, which divide those of the image.
    """
    x = ops.convert_to_tensor(x)
    if what == "row":
        axes: tuple[int, ...] = (-1,)
        return _passed(x, axes)
    if what == "image":
        return _passed(x, tuple(range(1, len(x.shape))))
    (_, height, width, channels), (rows, columns) = x.shape, patch
    split = (-1, height // rows, rows, width // columns, columns, channels)
    return ops.reshape(_passed(ops.reshape(x, split), (2, 4, 5)), (-1, height, width, channels))


def _passed(x: Any, axes: tuple[int, ...]) -> Any:
    @ops.custom_gradient
    def held(values: Any) -> Any:
        given, values = values.dtype, ops.cast(values, "float32")
        grid = grid_of(values, axes)

        def gradient(*args: Any, upstream: Any = None) -> Any:
            return args[0] if upstream is None else upstream

        return ops.cast((codes_of(values, grid) - grid.zero_point) * grid.step, given), gradient

    return held(x)
