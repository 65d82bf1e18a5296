"""What LiteRT does with each kind of weights, measured with version 2.3; `tfmpq probe` repeats it.

The rule table of `tfmpq.graph.containers` uses only what is answered rightly here. A combination that is
answered with wrong numbers and without an error is refused wherever a file with it turns up.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from tfmpq.graph.containers import Builtin

Activations = Literal["int8", "int16", "float32"]
"""Type of an operator's input and output; this toolchain writes int8, and int16 where asked."""

Kernel = Literal["delegated", "builtin", "refused", "wrong"]
"""`delegated`: XNNPACK runs it, exactly. `builtin`: LiteRT's own kernels run it, at most one step off (float:
within what quantizing the input costs). `refused`: an error. `wrong`: other numbers, and no error."""

_D: Kernel = "delegated"
_B: Kernel = "builtin"
_R: Kernel = "refused"
_W: Kernel = "wrong"
# For each width of the weights: with a scale per channel, with one scale for all.
_KERNELS: Mapping[tuple[Builtin, Activations], Mapping[int, tuple[Kernel, Kernel]]] = {
    ("CONV_2D", "int8"): {8: (_D, _D), 4: (_B, _B), 2: (_R, _R)},
    ("CONV_2D", "int16"): {8: (_B, _B), 4: (_B, _B), 2: (_R, _W)},
    ("CONV_2D", "float32"): {8: (_D, _D), 4: (_B, _B), 2: (_W, _W)},
    ("DEPTHWISE_CONV_2D", "int8"): {8: (_D, _D), 4: (_B, _B), 2: (_R, _R)},
    ("DEPTHWISE_CONV_2D", "int16"): {8: (_B, _B), 4: (_W, _W), 2: (_R, _W)},
    ("DEPTHWISE_CONV_2D", "float32"): {8: (_B, _W), 4: (_R, _R), 2: (_R, _R)},
    ("FULLY_CONNECTED", "int8"): {8: (_D, _D), 4: (_D, _D), 2: (_D, _B)},
    ("FULLY_CONNECTED", "int16"): {8: (_B, _B), 4: (_B, _B), 2: (_B, _B)},
    ("FULLY_CONNECTED", "float32"): {8: (_D, _D), 4: (_D, _D), 2: (_D, _B)},
    ("TRANSPOSE_CONV", "int8"): {8: (_D, _D), 4: (_R, _R), 2: (_R, _R)},
    ("TRANSPOSE_CONV", "int16"): {8: (_B, _B), 4: (_R, _R), 2: (_R, _R)},
    ("TRANSPOSE_CONV", "float32"): {8: (_D, _D), 4: (_R, _R), 2: (_R, _R)},
}
_PER_BYTE = {8: 1, 4: 2, 2: 4}


def kernel_for(
    builtin: Builtin,
    weight_bits: int,
    activations: Activations = "int8",
    per_channel: bool = True,
    fan_in: int = 0,
) -> Kernel:
    """What LiteRT does with an operator that reads packed weights itself.

    Args:
        builtin: The operator.
        weight_bits: Bits per weight in the file: 8, 4 or 2.
        activations: Type of its input and output.
        per_channel: Whether each output channel has a scale.
        fan_in: Weights that feed one output; XNNPACK takes no rows of packed weights that end within a byte.
    """
    kernel = _KERNELS[builtin, activations][weight_bits][0 if per_channel else 1]
    ragged = builtin == "FULLY_CONNECTED" and fan_in % _PER_BYTE[weight_bits]
    return "builtin" if kernel == "delegated" and ragged else kernel
