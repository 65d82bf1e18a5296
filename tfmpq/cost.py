"""What a bit assignment costs: bytes, bit operations and mean weight bits, discrete and expected.

A layer's activation bits are those of the tensor that it reads. Bytes are those of the storage form: packed
weights, per-channel scales and biases, by the rule table of `tfmpq.containers`. None of these numbers is a
latency: kernels of a phone do not run faster for every bit that is saved.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import numpy as np

from tfmpq.containers import Container, Operator, container_for
from tfmpq.errors import UsageError

CostKey = Literal["size", "bops", "weight-bits"]
COST_KEYS: tuple[CostKey, ...] = ("size", "bops", "weight-bits")

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
    """

    name: str
    operator: Operator
    macs: int
    weights: int
    channels: int
    fan_in: int
    reads: str

    def container(self, bits: int) -> Container:
        """How the storage form holds the weights at this bit-width."""
        return container_for(self.operator, bits, self.fan_in, "storage")

    def stored_bytes(self, bits: int) -> int:
        """Bytes of packed weights, scales and biases in the storage form."""
        return self.container(bits).stored_bytes(self.weights, self.channels)


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
    """

    layers: tuple[LayerCost, ...]
    fixed_bytes: int = 0

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
        """The cost that a budget of this key limits, in bytes, bit operations or bits."""
        if key == "size":
            return self.size(weight_bits)
        return (
            self.bops(weight_bits, activation_bits) if key == "bops" else self.mean_weight_bits(weight_bits)
        )

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
            bops=self.bops(weight_bits, activation_bits),
            mean_weight_bits=self.mean_weight_bits(weight_bits),
            fixed_bytes=self.fixed_bytes,
            by_layer=tuple(rows),
        )

    def cost_table(self, key: CostKey, candidates: Mapping[str, Sequence[int]]) -> dict[str, np.ndarray]:
        """Cost of each weight candidate of each layer, so that expected costs are inner products.

        Args:
            key: `size` gives bytes, `weight-bits` weights * bits (divide the sum by the number of weights),
                `bops` macs * bits (multiply by the activation bits of the tensor that the layer reads).
            candidates: Weight bits to choose from, by layer name.

        Returns:
            int64 array of shape (number of candidates,), by layer name.
        """

        def row(layer: LayerCost) -> list[int]:
            bits = candidates[layer.name]
            if key == "size":
                return [layer.stored_bytes(b) for b in bits]
            return [(layer.macs if key == "bops" else layer.weights) * b for b in bits]

        return {layer.name: np.array(row(layer), np.int64) for layer in self.layers}


class ExpectedCost:
    """Differentiable costs of independent random choices, as fractions of the uniform 8-bit network.

    Expected BOPs are the sum of macs * E[weight bits] * E[activation bits], which is exact for independent
    choices; so is every other cost, being linear in the probabilities.
    """

    def __init__(
        self,
        model: CostModel,
        weight_candidates: Mapping[str, Sequence[int]],
        activation_candidates: Mapping[str, Sequence[int]],
    ) -> None:
        """Prepares the tables.

        Args:
            model: Counts of the network.
            weight_candidates: Weight bits to choose from, by layer name.
            activation_candidates: Activation bits to choose from, by name of the tensor that is read.
        """
        self._model = model
        totals = {key: model.reference(key) for key in COST_KEYS}
        totals["weight-bits"] *= sum(layer.weights for layer in model.layers)
        self._fixed = model.fixed_bytes / totals["size"]
        self._tables = {
            key: {name: row / totals[key] for name, row in model.cost_table(key, weight_candidates).items()}
            for key in COST_KEYS
        }
        self._activations = {name: np.array(activation_candidates[name]) for name in model.tensors}

    def __call__(
        self, key: CostKey, weight_probs: Mapping[str, Any], activation_probs: Mapping[str, Any]
    ) -> Any:
        """The expected cost.

        Args:
            key: Which cost.
            weight_probs: Tensor of shape (number of candidates,) by layer name; a layer that has only one
                candidate can be left out.
            activation_probs: The same by tensor name.

        Returns:
            float32 scalar tensor; 1.0 is the cost of the uniform 8-bit network.
        """
        tables = self._tables[key]
        terms = {layer.name: _expectation(tables, weight_probs, layer.name) for layer in self._model.layers}
        if key == "bops":
            bits = {
                name: _expectation(self._activations, activation_probs, name) for name in self._activations
            }
            terms = {layer.name: terms[layer.name] * bits[layer.reads] for layer in self._model.layers}
        return sum(terms.values()) + (self._fixed if key == "size" else 0.0)


def _expectation(tables: Mapping[str, np.ndarray], probs: Mapping[str, Any], name: str) -> Any:
    from keras import ops

    table = ops.convert_to_tensor(tables[name], dtype="float32")
    if name not in probs and len(tables[name]) == 1:
        return table[0]
    return ops.sum(table * ops.cast(probs[name], "float32"))


def _bits_of(bits: Mapping[str, _Bits], name: str) -> _Bits:
    if name not in bits:
        raise UsageError(f"Every layer and every tensor that it reads needs bits. Received: none for {name}.")
    return bits[name]


def _bit_product(
    layer: LayerCost, weight_bits: Mapping[str, _Bits], activation_bits: Mapping[str, _Bits]
) -> _Bits:
    return layer.macs * _bits_of(weight_bits, layer.name) * _bits_of(activation_bits, layer.reads)
