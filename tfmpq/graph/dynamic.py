"""The frozen network with float activations: integers and scales of weights, float numbers of all else.

The file of such a network takes and gives float32. Its kernels quantize what they read, each row or image on
a grid of its own (`tfmpq.quantizers.dynamic`). Like `tfmpq.graph.frozen` it holds nothing of any framework.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np

from tfmpq.errors import UsageError
from tfmpq.graph.frozen import Activation
from tfmpq.graph.kinds import NodeKind

if TYPE_CHECKING:  # files are rewritten without Keras
    from tfmpq.quantizers.dynamic import InputGrid

DYNAMIC = "dynamic"
"""What stands for the bits of activations that are float, quantized where a kernel reads them."""

NO_DATA = "none"
"""What a file records in the place of data where none were needed."""

DYNAMIC_TARGET: Final = "litert"
"""The form of a file whose runtime has kernels that quantize what they read."""

Kernel = Literal["FULLY_CONNECTED", "CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV"]


def require_dynamic_target(target: str) -> None:
    """Refuse a target whose runtime does not quantize what kernels read.

    Raises:
        UsageError: It is another one than `litert`.
    """
    if target != DYNAMIC_TARGET:
        raise UsageError(
            f"Float activations that kernels quantize are for --target {DYNAMIC_TARGET}. Received: "
            f"{target}. Choose "
            "that target, or leave --activation-bits dynamic out."
        )


@dataclass(frozen=True, slots=True, eq=False)
class DynamicWeights:
    """Weights of one layer, BatchNorm folded in.

    Attributes:
        integers: int8, in Keras layout, as `FrozenWeights.integers`.
        scales: float32 (channels,), positive.
        bias: float32 (channels,).
        bits: Trained bit-width; |integers| <= 2^(bits-1) - 1.
        kernel: LiteRT operator that reads them.
        container: Bits of a weight in the file: 8, 4 or 2.
        reads: What of the input has one grid; None where the kernel computes with floats, and the weights
            become floats once, when the file is loaded.
        patch: Height and width of a patch, where each has one grid.
    """

    integers: np.ndarray
    scales: np.ndarray
    bias: np.ndarray
    bits: int
    kernel: Kernel
    container: int
    reads: InputGrid | None
    patch: tuple[int, int] = (1, 1)

    @property
    def reason(self) -> str:
        """Why they have this container."""
        if self.reads is None:
            return "int8, which becomes float when the file is loaded: no kernel reads integers here"
        if self.kernel == "CONV_2D":
            return "int8: convolutions read no fewer bits"
        fits = self.container < 8 or self.bits > 4
        return (
            f"INT{self.container} product" if fits else "int8: no packed product for an odd number of inputs"
        )

    @property
    def channel_scales(self) -> np.ndarray:
        """The scales in a shape that is broadcast to the integers."""
        if self.kernel == "DEPTHWISE_CONV_2D":
            return self.scales.reshape(self.integers.shape[2:])
        return self.scales[:, None] if self.kernel == "TRANSPOSE_CONV" else self.scales

    @property
    def stored_bytes(self) -> int:
        """Bytes of packed weights, scales and biases."""
        return (self.integers.size * self.container + 7) // 8 + 8 * self.scales.size


@dataclass(frozen=True, slots=True, eq=False)
class DynamicLayer:
    """One node of the frozen network.

    Attributes:
        name: Name of the Keras layer whose parameters it holds, unique.
        kind: What it computes.
        inputs: Names of the layers that produce its inputs.
        shape: Of its output, without the batch.
        activation: Fused activation.
        weights: Of layers with a kernel.
        arrays: float32 numbers by name: `factor` and `offset` (affine, layer_normalization), `slope`
            (leaky_relu), `value` (constant).
        attributes: As `FrozenLayer.attributes`. layer_normalization: `epsilon` and `centred`. matmul:
            `transpose_b`. affine: `bounded`, whether the result is cut to 0 .. 1. zero_padding: `strides`,
            where only every so many rows and columns are taken first.
    """

    name: str
    kind: NodeKind | Literal["input"]
    inputs: tuple[str, ...]
    shape: tuple[int, ...]
    activation: Activation = "linear"
    weights: DynamicWeights | None = None
    arrays: Mapping[str, np.ndarray] = field(default_factory=dict)
    attributes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class DynamicModel:
    """A deployable network with one input and float activations.

    Attributes:
        name: Model name.
        input_shape: (height, width, channels).
        layers: In topological order; the first is the input.
        metadata: JSON-able facts that travel inside the file.
        outputs: Names of the layers whose tensors the network returns.
    """

    name: str
    input_shape: tuple[int, int, int]
    layers: tuple[DynamicLayer, ...]
    metadata: Mapping[str, Any]
    outputs: tuple[str, ...]

    @property
    def weighted(self) -> tuple[DynamicLayer, ...]:
        """The layers that carry weights, in order."""
        return tuple(layer for layer in self.layers if layer.weights is not None)

    def layer(self, name: str) -> DynamicLayer:
        """The layer of that name."""
        return next(layer for layer in self.layers if layer.name == name)


def container_bits(bits: int, fan_in: int, kernel: Kernel) -> int:
    """Bits that hold a weight: kernels with packed weights are those of FULLY_CONNECTED."""
    if kernel != "FULLY_CONNECTED" or bits > 4:
        return 8
    if bits == 2 and fan_in % 4 == 0:
        return 2
    return 4 if fan_in % 2 == 0 else 8
