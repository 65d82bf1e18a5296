"""The rule table: which container, which operator and which rewrite carry a layer's integers.

The cost model, the exporter and `inspect` all read this one table, so that a size that a search promised is
the size that a file has. What LiteRT does with each combination was measured (see docs/architecture.md):
packed INT4/INT2 weights are fast only in FULLY_CONNECTED, so the `litert` target packs dense layers and
stride-1 1x1 convolutions and keeps other convolutions in int8 containers, while `storage` packs everything.
CONV_2D and DEPTHWISE_CONV_2D refuse INT2 weights, so there the storage form decodes them in the graph
(CAST INT2 -> FLOAT32 -> INT8, both exact), which any LiteRT 2.x runtime executes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tfmpq.errors import UsageError

Target = Literal["litert", "storage"]
TARGETS: tuple[Target, ...] = ("litert", "storage")

WEIGHT_BITS = tuple(range(2, 9))
"""Weight bit-widths that can be trained and exported; grids are symmetric and narrow (2 bits: -1, 0, 1)."""

Operator = Literal["conv2d", "pointwise", "depthwise_conv2d", "dense"]
"""`pointwise` is an ungrouped 1x1 convolution of stride 1: it runs as FULLY_CONNECTED."""


@dataclass(frozen=True, slots=True)
class Container:
    """How one layer's weight integers are stored and executed.

    Attributes:
        bits: Bits per weight in the file: 8, 4 or 2.
        builtin: LiteRT operator that reads the weights.
        decode: `native` if the operator reads the packed tensor itself; `cast` if the graph widens it first.
        reason: Why the table says so, for reports.
    """

    bits: int
    builtin: Literal["CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"]
    decode: Literal["native", "cast"]
    reason: str

    def stored_bytes(self, weights: int, channels: int) -> int:
        """Bytes of packed weights, per-channel float32 scales and int32 biases.

        Args:
            weights: Number of weight elements.
            channels: Number of output channels.
        """
        return (weights * self.bits + 7) // 8 + 8 * channels


@dataclass(frozen=True, slots=True)
class _Rule:
    target: Target
    operators: tuple[Operator, ...]
    bits: tuple[int, ...]
    container: int
    reason: str
    decode: Literal["native", "cast"] = "native"
    fan_in_multiple: int = 1


_FULLY_CONNECTED: tuple[Operator, ...] = ("dense", "pointwise")
_CONVOLUTION: tuple[Operator, ...] = ("conv2d", "depthwise_conv2d")
# The first rule that matches decides.
_RULES = (
    _Rule(
        "litert", ("dense",), (2,), 2, "INT2 GEMM: pays off for dense layers at batch 1", fan_in_multiple=4
    ),
    _Rule("litert", _FULLY_CONNECTED, (2, 3, 4), 4, "INT4 GEMM at int8 speed", fan_in_multiple=2),
    _Rule("litert", _FULLY_CONNECTED, WEIGHT_BITS, 8, "no packed GEMM for this width or an odd fan-in"),
    _Rule("litert", _CONVOLUTION, WEIGHT_BITS, 8, "packed convolutions run 3 to 12 times slower than int8"),
    _Rule("storage", _FULLY_CONNECTED, (2,), 2, "INT2 GEMM", fan_in_multiple=4),
    _Rule("storage", _CONVOLUTION, (2,), 2, "INT2, widened in the graph by two exact casts", decode="cast"),
    _Rule("storage", (*_FULLY_CONNECTED, *_CONVOLUTION), (2, 3, 4), 4, "INT4"),
    _Rule("storage", (*_FULLY_CONNECTED, *_CONVOLUTION), WEIGHT_BITS, 8, "no smaller container exists"),
)
_BUILTIN: dict[Operator, Literal["CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"]] = {
    "conv2d": "CONV_2D",
    "depthwise_conv2d": "DEPTHWISE_CONV_2D",
    "dense": "FULLY_CONNECTED",
    "pointwise": "FULLY_CONNECTED",
}


def container_for(operator: Operator, bits: int, fan_in: int, target: Target) -> Container:
    """Look up the container of one layer.

    Args:
        operator: What the layer computes.
        bits: Trained weight bit-width, 2 to 8.
        fan_in: Number of weights that feed one output channel (K of the GEMM).
        target: Which form of the file.

    Raises:
        UsageError: The combination is not in the table.
    """
    for rule in _RULES:
        if (
            rule.target == target
            and operator in rule.operators
            and bits in rule.bits
            and fan_in % rule.fan_in_multiple == 0
        ):
            return Container(rule.container, _BUILTIN[operator], rule.decode, rule.reason)
    raise UsageError(
        f"A layer has {WEIGHT_BITS[0]} to {WEIGHT_BITS[-1]} weight bits, a target is {' or '.join(TARGETS)}. "
        f"Received: operator={operator}, bits={bits}, target={target}. Choose other bits or another target."
    )
