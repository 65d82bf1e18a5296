"""Kinds of trainable variables, told by the last part of their paths."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

ADDED = ("beta", "bias")
"""What is added to a result, and so has no scale of its own."""

AFFINE = ("gamma", *ADDED, "value")
"""Biases, the affine parameters of normalizations, and tensors that are the same for all images (`Constant`):
no weight decay, and perturbed beside the kernels."""

WEIGHTS = (*AFFINE, "kernel")
"""All that a float network learns."""

QUANTIZERS = ("log_step", "bit_logits")
"""What a quantizer learns: logarithms of its steps, and logits of its bit-widths."""


def positions(variables: Sequence[Any], kind: tuple[str, ...]) -> list[int]:
    """Positions of the variables of a kind."""
    return [i for i, variable in enumerate(variables) if variable.path.endswith(kind)]
