"""The rule table: which container, which operator and which rewrite carry a layer's integers.

The cost model, the exporter, `specialize` and `inspect` all read this one table, so that a size that a search
promised is the size that a file has. What each runtime does with each combination was measured (see
docs/architecture.md; `tfmpq probe` repeats it on the runtime at hand):

- `litert`: LiteRT 2.x on x86 with AVX2 or ARM with dot product. Packed INT4/INT2 weights are fast only in
  FULLY_CONNECTED, so dense layers and stride-1 1x1 convolutions are packed. Other convolutions are int8, or
  unfolded into a packed matrix product where that pays: `tfmpq.graph.forms` weighs one against the other.
- `litert-int8`: LiteRT on CPUs that multiply packed weights in scalar code only (Cortex-A53 and A72, 32-bit
  ARM). Every container is int8.
- `storage`: the smallest file. CONV_2D and DEPTHWISE_CONV_2D refuse INT2 weights, and TRANSPOSE_CONV INT4 as
  well, so there the graph decodes them (CAST -> FLOAT32 -> INT8, both exact), which any LiteRT 2.x executes.
- `tflite-runtime`: version 2.14 refuses packed weights per channel in FULLY_CONNECTED. Every container is
  int8, and 1x1 convolutions stay convolutions.
- `tflm`: microcontrollers. Convolutions read INT4, dense layers read int8.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tfmpq.errors import UsageError
from tfmpq.graph.unfolding import Order

Target = Literal["litert", "litert-int8", "storage", "tflite-runtime", "tflm"]
TARGETS: tuple[Target, ...] = ("litert", "litert-int8", "storage", "tflite-runtime", "tflm")

SPECIALIZED: tuple[Target, ...] = tuple(target for target in TARGETS if target != "storage")
"""Targets that an existing file can be rewritten for; the storage form is written by an export."""

DELEGATED: frozenset[Target] = frozenset({"litert", "litert-int8", "tflite-runtime"})
"""Targets whose files XNNPACK takes as a whole; the others are proved by the `litert` form made of them."""

WIDE_TARGET: Target = "litert"
"""The target whose files may have 16-bit activations."""

WEIGHT_BITS = tuple(range(2, 9))
"""Weight bit-widths that can be trained and exported; grids are symmetric and narrow (2 bits: -1, 0, 1)."""

Operator = Literal["conv2d", "pointwise", "depthwise_conv2d", "dense", "conv2d_transpose"]
"""`pointwise` is an ungrouped 1x1 convolution of stride 1: it can run as FULLY_CONNECTED."""

Builtin = Literal["CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV"]


@dataclass(frozen=True, slots=True)
class Container:
    """How one layer's weight integers are stored and executed.

    Attributes:
        bits: Bits per weight in the file: 8, 4 or 2.
        builtin: LiteRT operator that reads the weights.
        decode: `native` if the operator reads the packed tensor itself; `cast` if the graph widens it first.
        reason: Why the table says so, for reports.
        order: How the windows of a convolution are unfolded for a matrix product; None where nothing is.
    """

    bits: int
    builtin: Builtin
    decode: Literal["native", "cast"]
    reason: str
    order: Order | None = None

    def stored_bytes(self, weights: int, channels: int, bias_bytes: int = 4) -> int:
        """Bytes of packed weights, per-channel float32 scales and biases.

        Args:
            weights: Number of weight elements.
            channels: Number of output channels.
            bias_bytes: Bytes of one bias; 8 where accumulators of 16-bit activations need 64 bits.
        """
        return (weights * self.bits + 7) // 8 + (4 + bias_bytes) * channels


@dataclass(frozen=True, slots=True)
class _Rule:
    targets: tuple[Target, ...]
    operators: tuple[Operator, ...]
    bits: tuple[int, ...]
    container: int
    reason: str
    decode: Literal["native", "cast"] = "native"
    fan_in_multiple: int = 1

    def covers(self, operator: Operator, bits: int, fan_in: int, target: Target) -> bool:
        return (
            target in self.targets
            and operator in self.operators
            and bits in self.bits
            and fan_in % self.fan_in_multiple == 0
        )


_FULLY_CONNECTED: tuple[Operator, ...] = ("dense", "pointwise")
_CONVOLUTION: tuple[Operator, ...] = ("conv2d", "depthwise_conv2d")
_TRANSPOSED: tuple[Operator, ...] = ("conv2d_transpose",)
_ALL: tuple[Operator, ...] = (*_FULLY_CONNECTED, *_CONVOLUTION, *_TRANSPOSED)
_LOW = (2, 3, 4)
_INT2_DENSE = "INT2 GEMM: pays off for dense layers at batch 1"
_SLOW = "packed convolutions run 3 to 12 times slower than int8"
_CAST = "INT2, widened in the graph by two exact casts"
_CAST_INT4 = "INT4, widened in the graph by two exact casts"
_INT8_ONLY = "transposed convolutions read int8 only"
_REFUSED = "this runtime refuses packed weights with a scale per channel here"
# The first rule that matches decides.
_RULES = (
    _Rule(("litert",), ("dense",), (2,), 2, _INT2_DENSE, fan_in_multiple=4),
    _Rule(("litert",), _FULLY_CONNECTED, _LOW, 4, "INT4 GEMM at int8 speed", fan_in_multiple=2),
    _Rule(("litert",), _FULLY_CONNECTED, _LOW, 8, "no packed GEMM for an odd fan-in"),
    _Rule(("litert", "tflite-runtime"), _CONVOLUTION, _LOW, 8, _SLOW),
    _Rule(("litert-int8",), _ALL, _LOW, 8, "packed GEMM is scalar code on this CPU"),
    _Rule(("storage",), _FULLY_CONNECTED, (2,), 2, "INT2 GEMM", fan_in_multiple=4),
    _Rule(("storage",), (*_CONVOLUTION, *_TRANSPOSED), (2,), 2, _CAST, decode="cast"),
    _Rule(("storage",), _TRANSPOSED, (3, 4), 4, _CAST_INT4, decode="cast"),
    _Rule(("litert", "litert-int8", "tflite-runtime", "tflm"), _TRANSPOSED, _LOW, 8, _INT8_ONLY),
    _Rule(("storage",), _ALL, _LOW, 4, "INT4"),
    _Rule(("tflite-runtime",), _FULLY_CONNECTED, _LOW, 8, _REFUSED),
    _Rule(("tflm",), ("pointwise", *_CONVOLUTION), _LOW, 4, "INT4 convolution"),
    _Rule(("tflm",), ("dense",), _LOW, 8, _REFUSED),
    _Rule(TARGETS, _ALL, WEIGHT_BITS, 8, "no smaller container exists"),
)
# What a layer may have instead, where bytes are worth the time: `tfmpq.graph.forms` chooses.
_ALTERNATIVES = (
    _Rule(("litert",), ("conv2d",), _LOW, 4, "INT4 GEMM of unfolded windows", fan_in_multiple=2),
    _Rule(("litert",), ("conv2d",), (2,), 2, "INT2 GEMM of unfolded windows", fan_in_multiple=4),
    _Rule(("litert",), ("pointwise",), (2,), 2, "INT2 GEMM", fan_in_multiple=4),
)
_BUILTIN: dict[Operator, Builtin] = {
    "conv2d": "CONV_2D",
    "depthwise_conv2d": "DEPTHWISE_CONV_2D",
    "dense": "FULLY_CONNECTED",
    "pointwise": "CONV_2D",
    "conv2d_transpose": "TRANSPOSE_CONV",
}
_POINTWISE_AS_FULLY_CONNECTED: frozenset[Target] = frozenset({"litert", "litert-int8", "storage"})


def require_wide_target(target: str) -> None:
    """Refuse to write 16-bit activations for a target that has no form for them.

    Raises:
        UsageError: It has none.
    """
    if target != WIDE_TARGET:
        raise UsageError(
            f"16-bit activations are written for --target {WIDE_TARGET}. Received: {target}. Choose that "
            "target, or 8 bits."
        )


def wide_container(operator: Operator, target: Target) -> Container:
    """Container of a layer that reads 16-bit activations.

    Raises:
        UsageError: The target has no such form.
    """
    require_wide_target(target)
    return Container(8, _BUILTIN[operator], "native", "int8, which LiteRT's own kernels for int16 read")


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
        if rule.covers(operator, bits, fan_in, target):
            rewritten = operator == "pointwise" and target in _POINTWISE_AS_FULLY_CONNECTED
            builtin: Builtin = "FULLY_CONNECTED" if rewritten else _BUILTIN[operator]
            return Container(rule.container, builtin, rule.decode, rule.reason)
    raise UsageError(
        f"A layer has {WEIGHT_BITS[0]} to {WEIGHT_BITS[-1]} weight bits, a target is {' or '.join(TARGETS)}. "
        f"Received: operator={operator}, bits={bits}, target={target}. Choose other bits or another target."
    )


def alternatives(operator: Operator, bits: int, fan_in: int, target: Target) -> tuple[Container, ...]:
    """Smaller containers that a layer may have instead of that of `container_for`, larger ones first.

    Those of `conv2d` hold the weights of a matrix product of unfolded windows, for which the convolution has
    to be ungrouped.

    Args:
        operator: What the layer computes.
        bits: Trained weight bit-width, 2 to 8.
        fan_in: Number of weights that feed one output channel (K of the GEMM).
        target: Which form of the file.
    """
    return tuple(
        Container(rule.container, "FULLY_CONNECTED", rule.decode, rule.reason)
        for rule in _ALTERNATIVES
        if rule.covers(operator, bits, fan_in, target)
    )
