"""The wrapped layers of a quantized model, and the bit-widths that it can still choose."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import keras

from tfmpq.quantizers.learned_step import LearnedStepQuantizer
from tfmpq.quantizers.wrapper import QuantizeWrapper


def quantize_wrappers(model: keras.Model) -> list[QuantizeWrapper]:
    """The wrapped layers of a quantized model."""
    return [layer for layer in model.layers if isinstance(layer, QuantizeWrapper)]


@contextmanager
def float_network(model: keras.Model) -> Iterator[None]:
    """Have a quantized model compute what the float network of its weights does meanwhile."""
    quantizers = [q for wrapper in quantize_wrappers(model) for _, q, _ in wrapper.quantizers]
    kept = [quantizer.kept for quantizer in quantizers]
    for quantizer in quantizers:
        quantizer.kept = ()
    try:
        yield
    finally:
        for quantizer, positions in zip(quantizers, kept, strict=True):
            quantizer.kept = positions


@dataclass(frozen=True, slots=True, eq=False)
class BitChoice:
    """A bit-width that a searchable model can still choose.

    Attributes:
        kind: Whether it is that of weights or of an activation tensor.
        name: Of the layer or tensor.
        quantizer: Has the candidates.
        logits: Variable (candidates,).
    """

    kind: Literal["weight", "activation"]
    name: str
    quantizer: LearnedStepQuantizer
    logits: Any


def bit_choices(model: keras.Model) -> Iterator[BitChoice]:
    """All choices of a searchable model."""
    for wrapper in quantize_wrappers(model):
        for kind, quantizer, variables in wrapper.quantizers:
            if "bit_logits" in variables:
                yield BitChoice(kind, wrapper.name, quantizer, variables["bit_logits"])
