"""What a bit assignment costs: bytes, bit operations, mean weight bits and, where measured, time.

A layer's activation bits are those of the tensor that it reads. Bytes are those of the storage form (packed
weights, per-channel scales and biases, by the rule table of `tfmpq.graph.containers`), or of the very file
where its form is known (`CostModel.as_held`). None of these numbers
is a latency: kernels of a phone do not run faster for every bit that is saved. A latency is known only
where it was measured (`LatencyCosts`), and it may rise when bits fall.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeVar

import numpy as np

from tfmpq.errors import UsageError
from tfmpq.graph.containers import Container, Operator, container_for
from tfmpq.graph.dynamic import Kernel, container_bits
from tfmpq.policy.latency_cost import NANOSECONDS, LatencyCosts

CostKey = Literal["size", "kernel-size", "bops", "weight-bits", "latency"]
COST_KEYS: tuple[CostKey, ...] = ("size", "kernel-size", "bops", "weight-bits")
"""Costs that every network has; `latency` needs a table."""

REFERENCE_BITS = 8
"""Relative costs are relative to the network with these bits everywhere."""

_FLOAT_BYTES = 4
_FLOAT_BOPS = 32 * 32
_Bits = TypeVar("_Bits", int, float)


@dataclass(frozen=True, slots=True)
class LayerCost:
    """What one layer with weights counts, at one input size of the network.

    Attributes:
        name: Layer name, unique.
        operator: Row of the rule table.
        macs: Multiply-accumulates for one image, groups honoured.
        weights: Number of weight elements, without bias.
        channels: Number of output channels.
        fan_in: Number of weights that feed one output channel.
        reads: Name of the activation tensor that it reads.
        held: Its bytes by weight bits in a file whose form is known; None for the storage form.
        kernel: With float activations, the operator that reads the weights; such a network has one form, and
            its bytes stand for those of the storage form.
    """

    name: str
    operator: Operator
    macs: int
    weights: int
    channels: int
    fan_in: int
    reads: str
    held: Mapping[int, int] | None = None
    kernel: Kernel | None = None

    def container(self, bits: int) -> Container:
        """How the storage form holds the weights at this bit-width."""
        if self.kernel is not None:
            held = container_bits(bits, self.fan_in, self.kernel)
            return Container(held, self.kernel, "native", "float activations")
        return container_for(self.operator, bits, self.fan_in, "storage")

    def stored_bytes(self, bits: int) -> int:
        """Bytes of packed weights, scales and biases in the storage form, or as `held` says."""
        if self.held is not None:
            return self.held[bits]
        return self.container(bits).stored_bytes(self.weights, self.channels)

    def kernel_bytes(self, bits: int) -> int:
        """Bytes of packed weights alone, without scales and biases, in the storage form."""
        return self.container(bits).stored_bytes(self.weights, 0)


@dataclass(frozen=True, slots=True)
class LayerReport:
    """Costs of one layer; `size` in bytes of the storage form, `bops` for one image."""

    name: str
    operator: Operator
    weight_bits: int
    activation_bits: int
    container_bits: int
    size: int
    bops: int


@dataclass(frozen=True, slots=True)
class CostReport:
    """Costs of a whole assignment; the totals are the sums of `by_layer` (and of `fixed_bytes`)."""

    size: int
    kernel_size: int
    bops: int
    mean_weight_bits: float
    fixed_bytes: int
    by_layer: tuple[LayerReport, ...]


@dataclass(frozen=True, slots=True)
class GmpqBops:
    """BOPs as the GMPQ and EdMIPS papers print them."""

    compression: float
    bops: float


@dataclass(frozen=True, slots=True)
class CostModel:
    """Counts of a network, from which the cost of any bit assignment follows.

    Attributes:
        layers: The layers with weights, in graph order.
        fixed_bytes: Bytes of parameter-free helpers that the file stores at any bit-width.
        latency: Measured times; None where there is no table.
    """

    layers: tuple[LayerCost, ...]
    fixed_bytes: int = 0
    latency: LatencyCosts | None = None

    def as_held(self, held: Mapping[str, Mapping[int, int]]) -> CostModel:
        """The same network in a file whose form is known.

        Args:
            held: Bytes of every layer by its name and by weight bits.
        """
        layers = (replace(layer, held=held[layer.name]) for layer in self.layers)
        return replace(self, layers=tuple(layers))

    @property
    def keys(self) -> tuple[CostKey, ...]:
        """The costs that are known."""
        return COST_KEYS if self.latency is None else (*COST_KEYS, "latency")

    @property
    def tensors(self) -> tuple[str, ...]:
        """Names of the activation tensors that the layers read, each once, in graph order."""
        return tuple(dict.fromkeys(layer.reads for layer in self.layers))

    @property
    def float_size(self) -> int:
        """Bytes of float32 weights and biases."""
        return sum(_FLOAT_BYTES * (layer.weights + layer.channels) for layer in self.layers)

    @property
    def float_bops(self) -> int:
        """Bit operations of the float32 network, counted as 32 x 32 for a multiply-accumulate."""
        return sum(layer.macs * _FLOAT_BOPS for layer in self.layers)

    def uniform(self, bits: int = REFERENCE_BITS) -> tuple[dict[str, int], dict[str, int]]:
        """Weight bits by layer and activation bits by tensor, all the same."""
        return {layer.name: bits for layer in self.layers}, dict.fromkeys(self.tensors, bits)

    def size(self, weight_bits: Mapping[str, int]) -> int:
        """Bytes of the storage form.

        Raises:
            UsageError: A layer has no bits, or bits that no container holds.
        """
        return self.fixed_bytes + sum(
            layer.stored_bytes(_bits_of(weight_bits, layer.name)) for layer in self.layers
        )

    def kernel_size(self, weight_bits: Mapping[str, int]) -> int:
        """Bytes of packed weights alone, as other tools count.

        Raises:
            UsageError: A layer has no bits, or bits that no container holds.
        """
        return sum(layer.kernel_bytes(_bits_of(weight_bits, layer.name)) for layer in self.layers)

    def bops(self, weight_bits: Mapping[str, int], activation_bits: Mapping[str, int]) -> int:
        """Bit operations for one image, the sum of macs * weight bits * activation bits.

        This is SAQ's convention (arXiv 2111.12273): every layer counts, first and last at their own bits,
        which that paper keeps at 8 x 8.

        Raises:
            UsageError: A layer or a tensor that it reads has no bits.
        """
        return sum(_bit_product(layer, weight_bits, activation_bits) for layer in self.layers)

    def gmpq_bops(
        self,
        weight_bits: Mapping[str, float],
        activation_bits: Mapping[str, float],
        excluded: Sequence[str] | None = None,
    ) -> GmpqBops:
        """Bit operations in the convention of GMPQ and EdMIPS, to compare with their tables.

        Compression is 1024 / mean(weight bits * activation bits), the mean weighted by multiply-accumulates
        over the layers that were quantized; the BOPs are those of the whole float network divided by it. It
        flatters, for what is left out counts as if it had been compressed.

        Args:
            weight_bits: Bits by layer name.
            activation_bits: Bits by tensor name.
            excluded: Names of the layers that are left out; the first and the last if None, or none of at
                most two layers.

        Raises:
            UsageError: A layer or a tensor that it reads has no bits.
        """
        if excluded is None:
            excluded = (self.layers[0].name, self.layers[-1].name) if len(self.layers) > 2 else ()
        quantized = [layer for layer in self.layers if layer.name not in excluded]
        products = [_bit_product(layer, weight_bits, activation_bits) for layer in quantized]
        compression = _FLOAT_BOPS * sum(layer.macs for layer in quantized) / sum(products)
        return GmpqBops(compression, self.float_bops / compression)

    def mean_weight_bits(self, weight_bits: Mapping[str, int]) -> float:
        """Mean trained bit-width of a weight (not of its container).

        Raises:
            UsageError: A layer has no bits.
        """
        bits = sum(layer.weights * _bits_of(weight_bits, layer.name) for layer in self.layers)
        return bits / sum(layer.weights for layer in self.layers)

    def value(
        self, key: CostKey, weight_bits: Mapping[str, int], activation_bits: Mapping[str, int]
    ) -> float:
        """The cost that a budget of this key limits, in bytes, bit operations, bits or milliseconds."""
        if key == "latency":
            weights = {layer.name: _bits_of(weight_bits, layer.name) for layer in self.layers}
            return self.times().total(weights, activation_bits) / NANOSECONDS
        if key == "size":
            return self.size(weight_bits)
        if key == "kernel-size":
            return self.kernel_size(weight_bits)
        return (
            self.bops(weight_bits, activation_bits) if key == "bops" else self.mean_weight_bits(weight_bits)
        )

    def times(self) -> LatencyCosts:
        """The measured times.

        Raises:
            UsageError: There are none.
        """
        if self.latency is None:
            raise UsageError(
                "A budget of latency needs measured times. Received: none. Give the file of tfmpq profile to "
                "tfmpq search as --latency-table."
            )
        return self.latency

    def reference(self, key: CostKey) -> float:
        """The cost of the uniform 8-bit network."""
        return self.value(key, *self.uniform())

    def report(self, weight_bits: Mapping[str, int], activation_bits: Mapping[str, int]) -> CostReport:
        """Totals and costs by layer.

        Raises:
            UsageError: A layer or a tensor that it reads has no bits.
        """
        rows = []
        for layer in self.layers:
            bits = _bits_of(weight_bits, layer.name)
            rows.append(
                LayerReport(
                    name=layer.name,
                    operator=layer.operator,
                    weight_bits=bits,
                    activation_bits=_bits_of(activation_bits, layer.reads),
                    container_bits=layer.container(bits).bits,
                    size=layer.stored_bytes(bits),
                    bops=_bit_product(layer, weight_bits, activation_bits),
                )
            )
        return CostReport(
            size=self.size(weight_bits),
            kernel_size=self.kernel_size(weight_bits),
            bops=self.bops(weight_bits, activation_bits),
            mean_weight_bits=self.mean_weight_bits(weight_bits),
            fixed_bytes=self.fixed_bytes,
            by_layer=tuple(rows),
        )

    def cost_table(self, key: CostKey, candidates: Mapping[str, Sequence[int]]) -> dict[str, np.ndarray]:
        """Cost of each weight candidate of each layer, so that expected costs are inner products.

        Args:
            key: `size` and `kernel-size` give bytes, `weight-bits` weights * bits (divide the sum by the
                number of weights), `bops` macs * bits (multiply by the activation bits of the tensor that the
                layer reads), `latency` nanoseconds (add those of `tensor_times`).
            candidates: Weight bits to choose from, by layer name.

        Returns:
            int64 array of shape (number of candidates,), by layer name.
        """

        def row(layer: LayerCost) -> list[int]:
            bits = candidates[layer.name]
            if key == "size":
                return [layer.stored_bytes(b) for b in bits]
            if key == "kernel-size":
                return [layer.kernel_bytes(b) for b in bits]
            if key == "latency":
                return [self.times().of_layer(layer.name, b) for b in bits]
            return [(layer.macs if key == "bops" else layer.weights) * b for b in bits]

        return {layer.name: np.array(row(layer), np.int64) for layer in self.layers}

    def tensor_times(self, candidates: Mapping[str, Sequence[int]]) -> dict[str, np.ndarray]:
        """Nanoseconds that each candidate of each activation tensor adds: int64 (number of candidates,)."""
        times = self.times()
        return {
            name: np.array([times.of_tensor(name, b) for b in bits], np.int64)
            for name, bits in candidates.items()
        }


def _bits_of(bits: Mapping[str, _Bits], name: str) -> _Bits:
    if name not in bits:
        raise UsageError(f"Every layer and every tensor that it reads needs bits. Received: none for {name}.")
    return bits[name]


def _bit_product(
    layer: LayerCost, weight_bits: Mapping[str, _Bits], activation_bits: Mapping[str, _Bits]
) -> _Bits:
    return layer.macs * _bits_of(weight_bits, layer.name) * _bits_of(activation_bits, layer.reads)
