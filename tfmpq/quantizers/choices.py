"""The wrapped layers of a quantized model, and the bit-widths that it can still choose."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import keras

from tfmpq.quantizers.learned_step import LearnedStepQuantizer
from tfmpq.quantizers.wrapper import QuantizeWrapper


def quantize_wrappers(model: keras.Model) -> list[QuantizeWrapper]:
    """The wrapped layers of a quantized model."""
    return [layer for layer in model.layers if isinstance(layer, QuantizeWrapper)]


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
        if wrapper.weight_quantizer is not None and "bit_logits" in wrapper.weight_variables:
            logits = wrapper.weight_variables["bit_logits"]
            yield BitChoice("weight", wrapper.name, wrapper.weight_quantizer, logits)
        if wrapper.output_quantizer is not None and "bit_logits" in wrapper.output_variables:
            logits = wrapper.output_variables["bit_logits"]
            yield BitChoice("activation", wrapper.name, wrapper.output_quantizer, logits)
