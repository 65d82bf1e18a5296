"""Search in bfloat16: activations and convolutions in 16 bits, all that decides in 32."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import keras

from tfmpq.quantizers.wrapper import QuantizeWrapper, inner

_COARSE = "mixed_bfloat16"

_EXACT = (keras.layers.InputLayer, keras.layers.Identity)
"""Layers whose output is put on a grid as it comes."""


@contextmanager
def computing_in(precision: str, model: keras.Model) -> Iterator[None]:
    """Have the layers of a quantized model compute in another precision meanwhile.

    In bfloat16, layers get their inputs and the kernels that they multiply in 16 bits. Variables, optimizer
    and gradients of variables stay in float32, and so do the quantizers, which see kernels as they are: of
    codes of 8 bits, rounding to bfloat16 before would change a quarter. BatchNorm computes its statistics in
    float32 by itself, the training model the loss, its norms and gaps. The image is put on its grid before it
    is rounded; the 256 levels of a grid are distinct in bfloat16.

    Args:
        precision: `float32` or `bfloat16`.
        model: Functional model; the configuration that is saved in the end has no trace of this.
    """
    if precision == "float32":
        yield
        return
    changed = [layer for layer in map(inner, model.layers) if not isinstance(layer, _EXACT)]
    wrappers = [layer for layer in model.layers if isinstance(layer, QuantizeWrapper)]
    before = [layer.dtype_policy for layer in changed]
    for layer in changed:
        layer.dtype_policy = _COARSE
    for wrapper in wrappers:
        wrapper.autocast = False  # it would convert what its layer takes as it is
    try:
        yield
    finally:
        for layer, policy in zip(changed, before, strict=True):
            layer.dtype_policy = policy
        for wrapper in wrappers:
            wrapper.autocast = True
