"""Layers with weights of a network with float activations, recomputed as XNNPACK's kernels compute them.

The grid of each row or image is found in float32, as the kernel finds it. The sum of products is exact.
Releases of XNNPACK multiply by k or divide by 1 / k, so that a value within a few roundings of a tie may
become either code: such values add what one code is worth to the tolerance.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from tfmpq.deploy.proof.windows import summed
from tfmpq.graph.dynamic import DynamicLayer, DynamicWeights

RELATIVE = 2.5e-7
"""Of |sum| + |bias|: four roundings of float32, and twice what was seen in 36 cases."""

_ROUNDOFF = 2.0**-24
_TIE = 8 * _ROUNDOFF
"""k has three roundings (the difference, the quotient, 1 / k), and x k one more; twice these."""
_LOW, _HIGH = -128.0, 127.0


class Expected(NamedTuple):
    """What an operator gives, float64, and how far the runtime's float32 may be off it."""

    value: np.ndarray
    tolerance: np.ndarray


class Held(NamedTuple):
    """Rows as a kernel reads them, float64 each.

    Attributes:
        levels: Code less zero point, whole numbers.
        ties: One where either of two neighbouring codes may be read, else zero.
        steps: What one level is worth, (rows, 1).
    """

    levels: np.ndarray
    ties: np.ndarray
    steps: np.ndarray


def held_rows(x: np.ndarray) -> Held:
    """Put each row on its grid.

    Args:
        x: float32 (rows, values).
    """
    one = np.float32(1)
    low = np.minimum(x.min(1, keepdims=True), np.float32(0))
    high = np.maximum(x.max(1, keepdims=True), np.float32(0))
    span = high - low
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        factor = np.where(span == 0, one, np.float32(255) / np.where(span == 0, one, span))
    below, above = low * factor, high * factor
    near_low = (np.float32(_LOW) + below) + (np.float32(_HIGH) + above) > 0
    exact = np.where(near_low, np.float32(_LOW) - below, np.float32(_HIGH) - above)
    zero = np.rint(np.clip(exact, _LOW, _HIGH)).astype(np.float64)
    scaled = x * factor
    levels = np.clip(np.rint(scaled).astype(np.float64) + zero, _LOW, _HIGH) - zero
    ties = _is_tie(scaled).astype(np.float64)
    # Where the zero point itself lies between two levels, only values that are cut at an end tell.
    other = zero + np.where(exact > zero, 1.0, -1.0)
    unsure = _is_tie(exact) & (other >= _LOW) & (other <= _HIGH)
    moved = np.clip(np.rint(scaled).astype(np.float64) + other, _LOW, _HIGH) - other
    ties = np.maximum(ties, unsure * (moved != levels))
    return Held(levels, ties, (one / factor).astype(np.float64))


def _is_tie(scaled: np.ndarray) -> np.ndarray:
    wide = scaled.astype(np.float64)
    gap = np.abs(wide - np.floor(wide) - 0.5)
    return gap <= _TIE * (np.abs(wide) + 128.0)


def expected_weighted(layer: DynamicLayer, weights: DynamicWeights, x: np.ndarray) -> Expected:
    """What a layer with weights gives for one image, before its activation.

    Args:
        layer: The layer.
        weights: Its weights.
        x: float32 (1, ...), what the runtime's kernel reads.
    """
    scales, bias = weights.scales.astype(np.float64), weights.bias.astype(np.float64)
    if weights.reads is None:
        return _of_floats(layer, weights, x)
    if weights.kernel == "FULLY_CONNECTED":
        rows = _rows(weights, x)
        held = held_rows(rows)
        matrix = weights.integers.reshape(rows.shape[1], -1).astype(np.float64)
        total, loose = held.levels @ matrix, held.ties @ np.abs(matrix)
        steps = held.steps * scales
    else:
        held = held_rows(x.reshape(1, -1))
        images = (part.reshape(x.shape) for part in (held.levels, held.ties))
        integers = weights.integers.astype(np.float64)
        total, loose = (
            summed(layer, image, kernel)
            for image, kernel in zip(images, (integers, np.abs(integers)), strict=True)
        )
        steps = float(held.steps[0, 0]) * scales
    total, loose = total * steps, loose * steps
    value = total + bias
    tolerance = RELATIVE * (np.abs(total) + np.abs(bias)) + loose
    return Expected(value.reshape(1, *layer.shape), tolerance.reshape(1, *layer.shape))


def _rows(weights: DynamicWeights, x: np.ndarray) -> np.ndarray:
    """Rows (positions, values) that a product of matrices reads."""
    if weights.reads != "patch":
        return x.reshape(-1, x.shape[-1])
    (rows, columns), (_, height, width, channels) = weights.patch, x.shape
    split = x.reshape(height // rows, rows, width // columns, columns, channels)
    return split.transpose(0, 2, 1, 3, 4).reshape(-1, rows * columns * channels)


def _of_floats(layer: DynamicLayer, weights: DynamicWeights, x: np.ndarray) -> Expected:
    """A kernel of floats: its integers times their scales, in float32."""
    kernel = weights.integers * weights.channel_scales
    wide = kernel.astype(np.float32).astype(np.float64)
    bias = weights.bias.astype(np.float64)
    value = summed(layer, x.astype(np.float64), wide) + bias
    sizes = summed(layer, np.abs(x.astype(np.float64)), np.abs(wide)) + np.abs(bias)
    terms = weights.integers.size // weights.scales.size + 2
    return Expected(value, terms * _ROUNDOFF * sizes)
