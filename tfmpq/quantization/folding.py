"""Factors and offsets by channel: taken from layers, and put on the grid of an accumulator."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from tfmpq.graph.frozen import WIDE, FrozenWeights, TensorGrid
from tfmpq.graph.network import Node
from tfmpq.graph.recognition import is_a

_BIAS_LIMIT = 2.0**30
"""Half of what int32 holds: the other half is for the products that are added to the bias."""

_WIDE_BIAS_LIMIT = 2.0**45
"""With 16-bit activations accumulators have 64 bits, of which the runtime scales 48."""

_SMALLEST_MULTIPLIER = 2.0**-30
_LARGEST_MULTIPLIER = 255.0
_LARGEST_WEIGHT = 127


@dataclass(frozen=True, slots=True, eq=False)
class Folded:
    """A node's weights with BatchNorm folded in, before the bias is rounded.

    Attributes:
        integers: int8, in Keras layout.
        scales: float32 (channels,).
        bias: float64 (channels,), real values.
        bias_grid: float64 (channels,), the real value of one accumulator step.
        wide: Whether biases may need 64 bits.
    """

    integers: np.ndarray
    scales: np.ndarray
    bias: np.ndarray
    bias_grid: np.ndarray
    wide: bool

    def weights(self, bits: int) -> FrozenWeights:
        """The same with an integer bias."""
        bias = np.round(self.bias / self.bias_grid).astype(np.int64 if self.wide else np.int32)
        return FrozenWeights(self.integers, self.scales, bias, bits)


def fold(
    integers: np.ndarray,
    scales: np.ndarray,
    bias: np.ndarray,
    channel_shape: tuple[int, ...],
    source: TensorGrid,
    target: TensorGrid,
) -> Folded:
    """Choose scales with which biases fit into int32 and multipliers into the runtime's range.

    Args:
        integers: Weights in steps, in Keras layout.
        scales: Step of each output channel, float64 (channels,).
        bias: Real biases, float64 (channels,).
        channel_shape: Shape in which `channels` values broadcast over `integers`.
        source: Grid of the input.
        target: Grid of the output.
    """
    # A channel that BatchNorm has all but switched off would need a bias beyond int32, or a multiplier beyond
    # the runtime's: give it the coarsest grid that fits, on which its weights round to (nearly) nothing.
    wide = source.container == WIDE
    limit = _WIDE_BIAS_LIMIT if wide else _BIAS_LIMIT
    floor = np.maximum(
        np.abs(bias) / (source.scale * limit), target.scale / source.scale * _SMALLEST_MULTIPLIER
    )
    raised = np.maximum(scales, floor)
    integers = np.round(integers * (scales / raised).reshape(channel_shape))
    kept = raised.astype(np.float32)
    # The product in float32, because that is the bias's scale in the file.
    grid = (np.float32(source.scale) * kept).astype(np.float64)
    # The runtime refuses multipliers of 256. From 255 on one step of the accumulator saturates the output, so
    # that a smaller scale of weights and bias changes nothing.
    largest = np.float32(_LARGEST_MULTIPLIER * target.scale / source.scale)
    return Folded(integers.astype(np.int8), np.minimum(kept, largest), bias, grid, wide)


def fold_by_channel(factor: np.ndarray, offset: np.ndarray, source: TensorGrid, target: TensorGrid) -> Folded:
    """A factor and an offset for each channel as a depthwise 1x1 kernel (1, 1, channels, 1).

    Its 8-bit weights use the whole range, so that the offset has a fine grid.
    """
    shape = (1, 1, factor.size, 1)
    integers = _LARGEST_WEIGHT * np.where(factor < 0, -1.0, 1.0).reshape(shape)
    return fold(integers, np.abs(factor) / _LARGEST_WEIGHT, offset, shape, source, target)


def array(tensor: Any, dtype: Any = np.float64) -> np.ndarray:
    """A Keras tensor or variable as a NumPy array."""
    return np.asarray(tensor).astype(dtype)


def norm_factor(norm: keras.layers.BatchNormalization) -> np.ndarray:
    """What BatchNorm multiplies each channel by; float64 (channels,)."""
    factor = 1.0 / np.sqrt(array(norm.moving_variance) + norm.epsilon)
    return factor * array(norm.gamma) if norm.scale else factor


def norm_offset(norm: keras.layers.BatchNormalization, factor: np.ndarray) -> np.ndarray:
    """What BatchNorm adds to each channel; float64 (channels,)."""
    return (array(norm.beta) if norm.center else 0.0) - array(norm.moving_mean) * factor


def affine_of(node: Node) -> tuple[np.ndarray, np.ndarray]:
    """Factor and offset of each channel of an `affine` node, float64 (channels,)."""
    layer, channels = node.main, node.output_shape[-1]
    factor: Any = 1.0
    offset: Any = 0.0
    if is_a(layer, keras.layers.BatchNormalization):
        factor = norm_factor(layer)
        offset = norm_offset(layer, factor)
    elif is_a(layer, keras.layers.Rescaling):
        factor, offset = np.asarray(layer.scale, np.float64), np.asarray(layer.offset, np.float64)
    elif is_a(layer, keras.layers.Activation) and node.fixed_step is not None:
        # Hard sigmoid, relu6(x + 3) / 6. Its value at 0 lies half-way between two codes; training takes
        # the upper one.
        factor, offset = 1.0 / 6.0, 0.5 + 2.0**-13
    return (
        np.broadcast_to(factor, (channels,)).astype(np.float64),
        np.broadcast_to(offset, (channels,)).astype(np.float64),
    )


@dataclass(frozen=True, slots=True, eq=False)
class Normalization:
    """What a layer normalization computes: factor * (x - mean) / sqrt(variance + epsilon) + offset.

    Attributes:
        factor: float32 (channels,).
        offset: float32 (channels,).
        epsilon: Added to the variance.
        centred: Whether the mean is taken off; without, the variance is the mean of the squares.
    """

    factor: np.ndarray
    offset: np.ndarray
    epsilon: float
    centred: bool


def normalization_of(layer: Any) -> Normalization:
    """The numbers of a LayerNormalization, or of an RMSNormalization."""
    root = is_a(layer, keras.layers.RMSNormalization)
    factor = layer.scale if root else layer.gamma
    channels = layer.input.shape[-1]
    offset = None if root else layer.beta
    return Normalization(
        np.ones(channels, np.float32) if factor is None else array(factor, np.float32),
        np.zeros(channels, np.float32) if offset is None else array(offset, np.float32),
        float(layer.epsilon),
        not root,
    )
