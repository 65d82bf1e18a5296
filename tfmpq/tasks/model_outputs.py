"""The outputs of a Keras model; apart from `outputs`, which needs no framework."""

from __future__ import annotations

from typing import Any

import keras

from tfmpq.graph.fusion import is_shared_quantizer, producer_of
from tfmpq.graph.recognition import function_name, is_a
from tfmpq.keras_internals import call_of, operation_of
from tfmpq.tasks.outputs import PROBABILITY, Output


def outputs_of(model: keras.Model) -> tuple[Output, ...]:
    """The outputs of a functional model, plain or quantized, in its order; named after their layers."""
    return tuple(
        Output(producer_of(tensor), tuple(tensor.shape[1:]), PROBABILITY if _is_probability(tensor) else 0.0)
        for tensor in model.outputs
    )


def _is_probability(tensor: Any) -> bool:
    """Whether a sigmoid, exact or hard, gives a tensor, perhaps in another shape."""
    layer = operation_of(tensor)
    if is_shared_quantizer(layer) or is_a(layer, keras.layers.Reshape, keras.layers.Flatten):
        return _is_probability(call_of(tensor).input_tensors[0])
    return is_a(layer, keras.layers.Activation) and function_name(layer) in ("sigmoid", "hard_sigmoid")
