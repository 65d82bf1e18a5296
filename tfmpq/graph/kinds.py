"""The kinds of operators: one table of what is true of a kind whatever its layer is.

A kind has its place in every step from a Keras layer to a proved file. docs/architecture.md, "How to add",
lists these places, and `tests/test_operator_kinds.py` fails for a kind that lacks one of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

LayerKind = Literal[
    "input",
    "conv2d",
    "depthwise_conv2d",
    "conv2d_transpose",
    "dense",
    "add",
    "subtract",
    "multiply",
    "concatenate",
    "sigmoid",
    "tanh",
    "elu",
    "gelu",
    "global_average_pooling2d",
    "average_pooling2d",
    "max_pooling2d",
    "zero_padding",
    "cropping2d",
    "slice",
    "transpose",
    "reshape",
]
"""Kinds of the layers of a frozen network."""

FloatKind = Literal["layer_normalization", "softmax", "matmul", "constant"]
"""Kinds that exist with float activations only."""

NodeKind = Literal[LayerKind, FloatKind, "affine", "leaky_relu", "upsampling2d", "bilinear"]
"""Kinds of fused nodes. Those that are neither a `LayerKind` nor a `FloatKind` become several layers, or a
depthwise one, when frozen to integers: `affine` multiplies each channel by a factor and adds an offset."""


@dataclass(frozen=True, slots=True)
class Kind:
    """Facts about one kind of operator.

    Attributes:
        written_as: LiteRT's operators that compute it in a file; none for a kind that becomes other kinds.
        weighted: Whether it has a kernel, whose bit-width is searched.
        absorbs: Whether it takes the ReLU behind it into itself.
        keeps_grid: Whether its output is made of the very codes of its inputs, and so has their grid.
        keeps_sign: Whether inputs without negative values give an output without them.
        exact_wide: Whether the runtime's kernel for 16-bit activations is at most one step off.
        integer: Whether it exists with integer activations.
    """

    written_as: tuple[str, ...] = ()
    weighted: bool = False
    absorbs: bool = False
    keeps_grid: bool = False
    keeps_sign: bool = False
    exact_wide: bool = True
    integer: bool = True


OPERATORS: dict[NodeKind, Kind] = {
    "conv2d": Kind(("CONV_2D",), weighted=True, absorbs=True),
    "depthwise_conv2d": Kind(("DEPTHWISE_CONV_2D",), weighted=True, absorbs=True),
    "conv2d_transpose": Kind(("TRANSPOSE_CONV",), weighted=True, absorbs=True),
    "dense": Kind(("FULLY_CONNECTED",), weighted=True, absorbs=True),
    "add": Kind(("ADD",), absorbs=True),
    "subtract": Kind(("SUB",), absorbs=True),
    "multiply": Kind(("MUL",), absorbs=True, keeps_sign=True),
    "concatenate": Kind(("CONCATENATION",), keeps_grid=True, keeps_sign=True),
    # LOGISTIC for 16 bits is up to 6 steps off, GELU up to 2 (docs/operators.md).
    "sigmoid": Kind(("LOGISTIC",), exact_wide=False),
    "tanh": Kind(("TANH",), exact_wide=False),
    # The converter has no int8 ELU, the runtime has: an operator of one input and one table, as GELU is.
    "elu": Kind(("GELU",), exact_wide=False),
    "gelu": Kind(("GELU",), exact_wide=False),
    # XNNPACK has no int8 average pooling, and no max pooling with a 1x1 window and a stride: depthwise
    # convolutions of ones compute both (MEAN of a single pixel would be dropped by the converter).
    "global_average_pooling2d": Kind(("MEAN", "DEPTHWISE_CONV_2D"), keeps_sign=True),
    "average_pooling2d": Kind(("DEPTHWISE_CONV_2D", "AVERAGE_POOL_2D"), keeps_sign=True),
    "max_pooling2d": Kind(("MAX_POOL_2D", "DEPTHWISE_CONV_2D"), keeps_grid=True, keeps_sign=True),
    "zero_padding": Kind(("PAD",), keeps_grid=True, keeps_sign=True),
    "cropping2d": Kind(("STRIDED_SLICE", "SLICE"), keeps_grid=True, keeps_sign=True),
    "slice": Kind(("STRIDED_SLICE", "SLICE"), keeps_grid=True, keeps_sign=True),
    "transpose": Kind(("TRANSPOSE",), keeps_grid=True, keeps_sign=True),
    "reshape": Kind(("RESHAPE",), keeps_grid=True, keeps_sign=True),
    "affine": Kind(absorbs=True),
    "leaky_relu": Kind(),
    "upsampling2d": Kind(keeps_grid=True, keeps_sign=True),
    "bilinear": Kind(keeps_sign=True),
    "layer_normalization": Kind(integer=False),
    "softmax": Kind(integer=False),
    "matmul": Kind(integer=False),
    "constant": Kind(integer=False),
}
"""Every kind but the input."""

WEIGHTED = frozenset(name for name, kind in OPERATORS.items() if kind.weighted)
ABSORBING = frozenset(name for name, kind in OPERATORS.items() if kind.absorbs)
KEEPS_GRID = frozenset(name for name, kind in OPERATORS.items() if kind.keeps_grid)
KEEPS_SIGN = frozenset(name for name, kind in OPERATORS.items() if kind.keeps_sign)
INEXACT_WIDE = frozenset(name for name, kind in OPERATORS.items() if not kind.exact_wide)
