"""What a bit assignment costs in time: measured parts of one network on one device.

`tfmpq profile` measures them (`tfmpq.policy.latency_table`). A latency may rise when bits fall: some
kernels are slower for packed weights, and a narrow signed tensor has to be clamped.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tfmpq.errors import UsageError

NANOSECONDS = 10**6
"""In a millisecond, the unit of latencies that people see."""

_REFERENCE_BITS = 8


@dataclass(frozen=True, slots=True)
class LatencyCosts:
    """Measured times of the parts of a network on one device, in whole nanoseconds of one inference.

    Attributes:
        base: What is the same at every width.
        weights: By layer, by weight bits; widths that were not measured are missing.
        activations: By tensor, by activation bits; a tensor that is missing takes no time at 8 bits, and was
            not measured at others.
        conditions: Where and how they were measured, in words.
    """

    base: int
    weights: Mapping[str, Mapping[int, int]]
    activations: Mapping[str, Mapping[int, int]]
    conditions: str = ""

    def of_layer(self, name: str, bits: int) -> int:
        """Nanoseconds of a layer.

        Raises:
            UsageError: It was not measured at this width.
        """
        found = self.weights.get(name, {}).get(bits)
        if found is None:
            raise UsageError(
                "A latency is known for widths that were profiled. "
                f"Received: {bits}-bit weights of layer {name}. Profile again with --weight-bits {bits} too."
            )
        return found

    def of_tensor(self, name: str, bits: int) -> int:
        """Nanoseconds that the width of an activation tensor adds.

        Raises:
            UsageError: It was not measured at this width.
        """
        found = self.activations.get(name, {_REFERENCE_BITS: 0}).get(bits)
        if found is None:
            raise UsageError(
                "A latency is known for widths that were profiled. "
                f"Received: {bits} bits of tensor {name}. Profile again with --activation-bits {bits} too."
            )
        return found

    def total(self, weight_bits: Mapping[str, int], activation_bits: Mapping[str, int]) -> int:
        """Nanoseconds of one inference.

        Args:
            weight_bits: By name of every layer with weights.
            activation_bits: By name of the tensor; those that are not listed have 8.

        Raises:
            UsageError: A width was not measured.
        """
        layers = sum(self.of_layer(name, bits) for name, bits in weight_bits.items())
        return self.base + layers + sum(self.of_tensor(n, bits) for n, bits in activation_bits.items())
