"""Learned-step quantizers whose bit-width is a learnable choice.

LSQ (Esser et al., ICLR 2020): Q(v) = s * round(clip(v / s, -Q_N, Q_P)) with a learned step s. One step per
tensor (per output channel for weights) *and* bit-width, since a scale shared by all widths makes the low-bit
choices fight. The choice among widths is relaxed to a mixture by logits; `sum_i p_i Q_i(x)` is one tensor, so
that a convolution follows once, whatever the number of candidates: exact, because convolution is bilinear.

Steps are trained as logarithms, so they stay positive. The mathematics is `keras.ops` only.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import ops

from tfmpq.errors import UsageError
from tfmpq.quantizers.relaxation import Relaxation, probabilities

_twice: ContextVar[bool] = ContextVar("tfmpq_twice_differentiable", default=False)


@contextmanager
def twice_differentiable() -> Iterator[None]:
    """Have quantizers keep their values and gradients, with second derivatives on both backends.

    JAX differentiates a hand-written gradient only once: the second time it finds the slope of rounding,
    which is zero. Meanwhile quantizers are composed of functions that have these gradients of themselves,
    with rounding errors held constant; that takes memory for every candidate.
    """
    token = _twice.set(True)
    try:
        yield
    finally:
        _twice.reset(token)


WIDE_BITS = 16
"""Width of activations beyond 8 bits; it is given, never searched."""


@dataclass(frozen=True, slots=True)
class Levels:
    """The integers a quantized value may take.

    Attributes:
        low: Smallest level (-Q_N).
        high: Largest level (Q_P).
    """

    low: int
    high: int


def weight_levels(bits: int) -> Levels:
    """Symmetric narrow levels for weights: -(2^(b-1)-1) .. 2^(b-1)-1, so 2 bits are -1, 0, 1."""
    return Levels(-(2 ** (bits - 1) - 1), 2 ** (bits - 1) - 1)


def activation_levels(bits: int, signed: bool) -> Levels:
    """Levels for activations: -2^(b-1) .. 2^(b-1)-1 if signed, else 0 .. 2^b-1.

    With 16 bits there is no zero point, so that unsigned tensors have the levels 0 .. 2^15-1.
    """
    if signed:
        return Levels(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    return Levels(0, 2 ** (bits - 1 if bits == WIDE_BITS else bits) - 1)


def fake_quantize(
    x: Any,
    steps: Any,
    probabilities: Any,
    levels: Sequence[Levels],
    gradient_scale: Sequence[float],
) -> Any:
    """Mixture of uniform quantizers, `sum_i p_i * s_i * round(clip(x / s_i, low_i, high_i))`.

    The hand-written gradient keeps only `x` and recomputes the quantized values, so its memory does not grow
    with the number of candidates. Rounding is to the nearest, ties to even, as in LiteRT's XNNPACK kernels.

    Args:
        x: Tensor to quantize, any floating dtype and shape.
        steps: (candidates, *step shape), positive; one candidate's is broadcastable to `x`.
        probabilities: (candidates,) tensor, or None for a single candidate with weight 1.
        levels: Levels of each candidate.
        gradient_scale: Factor on each step's gradient, LSQ's 1 / sqrt(N * Q_P).

    Returns:
        Tensor of the shape and dtype of `x`. Gradients are those of LSQ: to `x`, 1 strictly inside the
        clipping range and 0 outside; to a step, round(v) - v inside and the level outside; to p_i,
        <g, Q_i(x)>.
    """
    if probabilities is None:
        probabilities = ops.ones((1,), dtype=x.dtype)
    if _twice.get():
        return _composed(x, steps, probabilities, levels, gradient_scale)
    # One candidate after the other: as one tensor, their sums lose digits that gradients of steps need.
    return _mixture(levels, gradient_scale)(x, probabilities, ops.convert_to_tensor(steps))


def _mixture(levels: Sequence[Levels], gradient_scale: Sequence[float]) -> Any:
    """`fake_quantize` one candidate after the other: a function of x, probabilities and steps."""
    count = len(levels)

    @ops.custom_gradient
    def mixture(x: Any, probabilities: Any, steps: Any) -> Any:
        each = [(x / steps[i], steps[i], levels[i]) for i in range(count)]
        quantized = [ops.round(ops.clip(v, grid.low, grid.high)) * step for v, step, grid in each]
        mixed = quantized[0] if count == 1 else sum(probabilities[i] * quantized[i] for i in range(count))

        def gradient(*args: Any, upstream: Any = None) -> tuple[Any, ...]:
            g = args[0] if upstream is None else upstream
            to_x, to_steps, to_probabilities = 0.0, [], []
            for i, grid in enumerate(levels):
                step = steps[i]
                v = x / step
                inside = ops.cast(ops.logical_and(v > grid.low, v < grid.high), g.dtype)
                rounded = ops.round(ops.clip(v, grid.low, grid.high))
                weighted = g if count == 1 else g * probabilities[i]
                to_x = to_x + weighted * inside
                slope = weighted * (rounded - v * inside)
                to_steps.append(_sum_to_shape(slope, step) * gradient_scale[i])
                if count > 1:
                    to_probabilities.append(ops.sum(g * rounded * step))
            to_p = ops.stack(to_probabilities) if count > 1 else ops.zeros_like(probabilities)
            return to_x, to_p, ops.stack(to_steps)

        return mixed, gradient

    return mixture


def _composed(
    x: Any,
    steps: Any,
    probabilities: Any,
    levels: Sequence[Levels],
    gradient_scale: Sequence[float],
) -> Any:
    """`fake_quantize` without a hand-written gradient: s (clip(v) + r) with a constant r = round(v) - v."""
    mixed = 0.0
    for i, (grid, scale) in enumerate(zip(levels, gradient_scale, strict=True)):
        step = steps[i]
        fixed = ops.stop_gradient(step)
        step = fixed + scale * (step - fixed)
        v = x / step
        clipped = ops.stop_gradient(ops.clip(v, grid.low, grid.high))
        passing = ops.where(ops.logical_and(v > grid.low, v < grid.high), v, clipped)
        rounded = ops.round(clipped) + (passing - ops.stop_gradient(passing))
        mixed = mixed + probabilities[i] * (rounded * step)
    return mixed


def _sum_to_shape(value: Any, like: Any) -> Any:
    """Sum `value` over the axes along which `like` was broadcast."""
    if len(like.shape) == 0:
        return ops.sum(value)
    axes = tuple(axis for axis, size in enumerate(like.shape) if size == 1)
    return ops.sum(value, axis=axes, keepdims=True)


@keras.saving.register_keras_serializable("tfmpq")
class LearnedStepQuantizer:
    """A quantizer with one learned step per candidate bit-width, in TFMOT's quantizer protocol.

    Args:
        bits: Candidate bit-widths, ascending. One candidate is a fixed width without logits.
        signed: Whether values may be negative. Weights always are.
        channel_axes: Axes with a step of their own (weights: the output channel); empty for one step per
            tensor.
        narrow: Use symmetric narrow levels (weights).
        trainable_step: False keeps the step as it was initialised (the input image).
        relaxation: How logits weight the candidates (tfmpq.quantizers.relaxation).
        halfway: Whether the given values lie in the middle between two levels, as pixels do that were
            scaled to -1 .. 1: they are moved up by half a step, and one level more lies above 0 than below.

    Attributes:
        kept: Positions of the candidates in use. Fewer than all leave the others out of the mixture, as if
            their probability were zero; none at all leaves the tensor as it is. No part of the configuration.
    """

    def __init__(
        self,
        bits: Sequence[int],
        signed: bool = True,
        channel_axes: Sequence[int] = (),
        narrow: bool = False,
        trainable_step: bool = True,
        relaxation: Relaxation = "softmax",
        halfway: bool = False,
    ) -> None:
        self.bits = tuple(int(b) for b in bits)
        self.signed = signed
        self.channel_axes = tuple(channel_axes)
        self.narrow = narrow
        self.trainable_step = trainable_step
        self.relaxation = relaxation
        self.halfway = halfway
        if (
            not self.bits
            or list(self.bits) != sorted(set(self.bits))
            or not all(2 <= b <= 8 or (b == WIDE_BITS and not narrow) for b in self.bits)
        ):
            raise UsageError(
                "Candidate bit-widths are distinct, ascending and between 2 and 8. "
                f"Received: bits={tuple(bits)}. Correct the list."
            )
        self.kept = tuple(range(len(self.bits)))

    @property
    def levels(self) -> list[Levels]:
        """Levels of each candidate."""
        if self.narrow:
            return [weight_levels(b) for b in self.bits]
        levels = [activation_levels(b, self.signed) for b in self.bits]
        return [Levels(grid.low + 1, grid.high + 1) for grid in levels] if self.halfway else levels

    def build(
        self, tensor_shape: Sequence[int | None], name: str, layer: keras.layers.Layer
    ) -> dict[str, Any]:
        """Create the variables in `layer`: log-steps (candidates, *step shape) and, with a choice, logits."""
        shape = tuple(size if axis in self.channel_axes else 1 for axis, size in enumerate(tensor_shape))
        if not self.channel_axes:
            shape = ()
        _list_inner_weights_first(layer)
        variables = {
            "log_step": layer.add_weight(
                name=f"{name}_log_step",
                shape=(len(self.bits), *shape),
                initializer="zeros",
                trainable=self.trainable_step,
            )
        }
        if len(self.bits) > 1:
            variables["bit_logits"] = layer.add_weight(
                name=f"{name}_bit_logits", shape=(len(self.bits),), initializer="zeros"
            )
        return variables

    def __call__(self, inputs: Any, training: Any, weights: dict[str, Any], **_: Any) -> Any:
        """Fake-quantize `inputs` in float32, whatever the compute dtype."""
        if not self.kept:
            return inputs
        x = (
            inputs
            if keras.backend.standardize_dtype(inputs.dtype) == "float64"
            else ops.cast(inputs, "float32")
        )
        log_step = ops.cast(ops.convert_to_tensor(weights["log_step"]), x.dtype)
        if len(self.kept) < len(self.bits):
            log_step = ops.stack([log_step[i] for i in self.kept])
        steps = ops.exp(log_step)
        shares = None
        if len(self.kept) > 1:
            logits = ops.cast(ops.convert_to_tensor(weights["bit_logits"]), x.dtype)
            if len(self.kept) < len(self.bits):
                logits = ops.stack([logits[i] for i in self.kept])
            shares = probabilities(logits, [self.bits[i] for i in self.kept], self.relaxation)
        if self.halfway:
            x = x + 0.5 * steps[0]
        grids = [self.levels[i] for i in self.kept]
        elements = math.prod(size for size in inputs.shape[0 if self.narrow else 1 :] if size)
        per_step = elements / max(1, math.prod(inputs.shape[axis] for axis in self.channel_axes))
        scale = [1.0 / math.sqrt(per_step * max(1, grid.high)) for grid in grids]
        return ops.cast(fake_quantize(x, steps, shares, grids, scale), inputs.dtype)

    def probabilities(self, logits: Any) -> Any:
        """Weights of all candidates in the mixture: (candidates,) tensors from logits to probabilities."""
        return probabilities(logits, self.bits, self.relaxation)

    def initial_log_step(self, values: np.ndarray) -> np.ndarray:
        """Log-steps that minimise the mean squared error on `values` (LSQ+'s initialisation).

        Args:
            values: Weights, or a sample of the activation tensor.

        Returns:
            float32 (candidates, *step shape).
        """
        axes = (
            tuple(a for a in range(values.ndim) if a not in self.channel_axes) if self.channel_axes else None
        )
        keep = bool(self.channel_axes)
        return np.stack([np.log(best_step(values, grid, axes, keep)) for grid in self.levels]).astype(
            np.float32
        )

    def get_config(self) -> dict[str, Any]:
        """JSON-able arguments."""
        return {
            "bits": list(self.bits),
            "signed": self.signed,
            "channel_axes": list(self.channel_axes),
            "narrow": self.narrow,
            "trainable_step": self.trainable_step,
            "relaxation": self.relaxation,
            "halfway": self.halfway,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> LearnedStepQuantizer:
        """Rebuild from `get_config`."""
        return cls(**config)


def _list_inner_weights_first(layer: Any) -> None:
    """Give a wrapper of TFMOT's one order of its weights, so that what it saves can be loaded.

    It lists the wrapped layer's weights before ours if that layer was built earlier, and else behind them.
    """
    listed = getattr(layer, "_trainable_weights", None)
    if listed is not None and hasattr(layer, "layer"):
        known = {id(weight) for weight in listed}
        listed.extend(weight for weight in layer.layer.trainable_weights if id(weight) not in known)


def best_step(values: np.ndarray, levels: Levels, axes: tuple[int, ...] | None, keepdims: bool) -> np.ndarray:
    """Step that minimises the mean squared quantization error, by a search over clipping points.

    Args:
        values: Values to quantize.
        levels: Integer levels.
        axes: Axes that share a step; None for all.
        keepdims: Keep reduced axes with size 1.

    Returns:
        Positive float64 steps. Channels that are zero get a small step relative to the others.
    """
    values = np.asarray(values, np.float64)
    peak = np.max(np.abs(values), axis=axes, keepdims=True)
    # A channel of tiny weights has its own step: a BatchNorm behind it may make it as large as the others.
    peak = np.where(peak > 0, peak, float(np.max(peak)) * 1e-3 or 1e-6)
    best = peak / levels.high
    best_error = np.full(peak.shape, np.inf)
    for fraction in np.geomspace(1.0, 0.1 if levels.high < 16 else 0.4, 32):
        step = peak * fraction / levels.high
        rounded = np.clip(np.round(values / step), levels.low, levels.high) * step
        error = np.mean(np.square(rounded - values), axis=axes, keepdims=True)
        better = error < best_error
        best, best_error = np.where(better, step, best), np.where(better, error, best_error)
    return best if keepdims else best.reshape(())
