"""The frozen network: integers, scales and graph, between training and a file.

`tfmpq.quantization.freeze` makes it from a trained quantized Keras model; `tfmpq.deploy` writes it as a
`.tflite`. It holds everything a deployed network is, and nothing of any framework.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import numpy as np

from tfmpq.graph.containers import Operator
from tfmpq.graph.kinds import KEEPS_GRID, LayerKind

Activation = Literal["linear", "relu", "relu6"]
WIDE: Final = 16
"""Bits of the codes in a network of 16-bit activations."""


@dataclass(frozen=True, slots=True)
class TensorGrid:
    """The integer grid of an activation tensor in an int8 or int16 container.

    real = scale * (integer - zero_point).

    Attributes:
        scale: Step size, exactly representable in float32.
        bits: Trained bit-width, 2 to 8, or 16.
        signed: Signed tensors have levels -2^(b-1) .. 2^(b-1)-1 and zero point 0. Unsigned ones (after a
            ReLU) have levels 0 .. 2^b-1 and zero point 127 - (2^b-1), so that int8 saturation is their upper
            clamp and the fused ReLU their lower one.
        halfway: Whether real values given to it lie in the middle between two levels, as pixels do that were
            scaled to -1 .. 1. They are moved up by half a step; the zero point is -1 then, so that every
            pixel is its own code less 128.
        container: Bits of a code, 8 or 16. All tensors of a network have containers of one size. Those of 16
            bits have zero point 0, and unsigned ones of 16 bits the levels 0 .. 2^15-1.
    """

    scale: float
    bits: int = 8
    signed: bool = True
    container: int = 8
    halfway: bool = False

    @property
    def zero_point(self) -> int:
        """The code of real 0."""
        if self.halfway:
            return -1
        return 0 if self.signed or self.container == WIDE else 127 - (2**self.bits - 1)

    @property
    def code_range(self) -> tuple[int, int]:
        """Smallest and largest code that the tensor can take."""
        if self.signed:
            return -(2 ** (self.bits - 1)), 2 ** (self.bits - 1) - 1
        if self.container == WIDE:
            return 0, min(2**self.bits, 2 ** (WIDE - 1)) - 1
        return self.zero_point, 127

    @property
    def dtype(self) -> type[np.signedinteger[Any]]:
        """Type of its codes."""
        return np.int16 if self.container == WIDE else np.int8

    def whole(self, scale: float, signed: bool) -> TensorGrid:
        """A grid of another scale that uses its container to the full."""
        return TensorGrid(scale, self.container, signed, self.container)

    def quantize(self, real: np.ndarray) -> np.ndarray:
        """Real values to codes, ties to even, as the trained quantizer rounds."""
        low, high = self.code_range
        steps = np.asarray(real, np.float32) / np.float32(self.scale)
        codes = np.round(steps + np.float32(0.5) if self.halfway else steps) + self.zero_point
        return np.clip(codes, low, high).astype(self.dtype)

    def dequantize(self, codes: np.ndarray) -> np.ndarray:
        """Codes to float32 values."""
        return (codes.astype(np.float32) - np.float32(self.zero_point)) * np.float32(self.scale)


@dataclass(frozen=True, slots=True, eq=False)
class FrozenWeights:
    """Integer weights of one layer, BatchNorm folded in.

    Attributes:
        integers: int8, in Keras layout: (kh, kw, cin / groups, cout), depthwise (kh, kw, cin, multiplier),
            transposed (kh, kw, cout, cin), dense (cin, cout).
        scales: float32, one per output channel, positive.
        bias: int32 (int64 in a network of 16-bit activations), one per output channel, in units of
            float32(input scale) * scales.
        bits: Trained bit-width; |integers| <= 2^(bits-1) - 1.
    """

    integers: np.ndarray
    scales: np.ndarray
    bias: np.ndarray
    bits: int


@dataclass(frozen=True, slots=True, eq=False)
class FrozenLayer:
    """One node of the frozen network.

    Attributes:
        name: Name of the Keras layer whose parameters it holds, unique.
        kind: What it computes.
        inputs: Names of the layers that produce its inputs.
        grid: Grid of its output tensor (after `activation`).
        activation: Fused activation, applied before the output is rounded to the grid.
        weights: For conv2d, depthwise_conv2d, conv2d_transpose and dense.
        attributes: conv2d, depthwise_conv2d: `strides` (2 ints), `padding` ("same" | "valid"), `dilation`
            (2 ints), `groups` (int, conv2d only). conv2d_transpose: `strides`, `padding`.
            max_/average_pooling2d: `pool_size`, `strides`, `padding`. zero_padding: `paddings`,
            ((before, after), ...) for height, width, channels. cropping2d: `croppings`, the same for height
            and width. slice: `parts`, (begin, end, step) for each axis but the batch. transpose: `axes`,
            where each axis comes from, counted without the batch. concatenate: `axis`, counted so too.
            reshape: `shape` without batch.
            global_average_pooling2d: `keepdims`. gelu: `approximate`, whether by tanh.
    """

    name: str
    kind: LayerKind
    inputs: tuple[str, ...]
    grid: TensorGrid
    activation: Activation = "linear"
    weights: FrozenWeights | None = None
    attributes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def keeps_grid(self) -> bool:
        """Whether the output has the grid of the inputs: codes are moved, or averaged over the border."""
        return self.kind in KEEPS_GRID or (
            self.kind == "average_pooling2d" and self.attributes["padding"] == "same"
        )

    @property
    def operator(self) -> Operator:
        """The row of the rule table for a layer with weights."""
        if self.kind == "conv2d" and self.weights is not None:
            pointwise = self.weights.integers.shape[:2] == (1, 1) and tuple(self.attributes["strides"]) == (
                1,
                1,
            )
            return "pointwise" if pointwise and self.attributes.get("groups", 1) == 1 else "conv2d"
        if self.kind in ("depthwise_conv2d", "dense", "conv2d_transpose"):
            return self.kind
        raise ValueError(f"Only layers with weights have a container. Received: {self.name} ({self.kind}).")

    @property
    def fan_in(self) -> int:
        """Number of weights that feed one output channel."""
        if self.weights is None:
            raise ValueError(f"Only layers with weights have a fan-in. Received: {self.name} ({self.kind}).")
        return self.weights.integers.size // self.weights.scales.size


@dataclass(frozen=True, slots=True, eq=False)
class FrozenModel:
    """A deployable network with one input.

    Attributes:
        name: Model name.
        input_shape: (height, width, channels).
        layers: In topological order; the first is the input.
        metadata: JSON-able facts that travel inside the file: preprocessing, policy, classes, versions.
        outputs: Names of the layers whose tensors the network returns; none stands for the last layer alone.
    """

    name: str
    input_shape: tuple[int, int, int]
    layers: tuple[FrozenLayer, ...]
    metadata: Mapping[str, Any] = field(default_factory=dict)
    outputs: tuple[str, ...] = ()

    @property
    def wide(self) -> bool:
        """Whether activations are held in 16 bits."""
        return self.layers[0].grid.container == WIDE

    @property
    def returned(self) -> tuple[str, ...]:
        """Names of the layers whose tensors the network returns."""
        return self.outputs or (self.layers[-1].name,)

    def layer(self, name: str) -> FrozenLayer:
        """The layer of that name."""
        return next(layer for layer in self.layers if layer.name == name)

    @property
    def weighted(self) -> tuple[FrozenLayer, ...]:
        """The layers that carry weights, in order."""
        return tuple(layer for layer in self.layers if layer.weights is not None)
