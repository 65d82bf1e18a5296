"""Training in the unit of the labels: metres or millimetres give the same course.

With a loss that has no unit, the gradient of an output in the unit u is proportional to 1 / u, as are those
of the layer that computes it, whose weights are proportional to u: relative to them a step would be 1 / u^2.
The gradients of these weights are multiplied by u^2, and all relative steps are those of u = 1.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import keras
from keras import layers

from tfmpq.graph.slicing import Slice
from tfmpq.keras_internals import call_of, operation_of
from tfmpq.quantizers.wrapper import inner

_LINEAR = (
    layers.Add,
    layers.Subtract,
    layers.Concatenate,
    layers.Reshape,
    layers.Flatten,
    layers.Permute,
    layers.Identity,
    layers.Dropout,
    layers.ReLU,
    layers.LeakyReLU,
    layers.ZeroPadding2D,
    layers.Cropping2D,
    layers.UpSampling2D,
    layers.AveragePooling2D,
    layers.MaxPooling2D,
    layers.GlobalAveragePooling2D,
    layers.Rescaling,
    Slice,
)
"""Layers whose outputs have the unit of their inputs."""


def in_units(model: keras.Model, unit: float, gradients: Sequence[Any]) -> list[Any]:
    """Gradients of a training model's variables, with those in the unit of the output rescaled.

    Args:
        model: Functional model, plain or quantized.
        unit: Of the labels: their standard deviation.
        gradients: In the order of `trainable_variables`.
    """
    if unit == 1.0:
        return list(gradients)
    last = {id(variable) for variable in _variables(model.outputs[0])}
    return [
        gradient * unit**2 if id(variable) in last else gradient
        for gradient, variable in zip(gradients, model.trainable_variables, strict=True)
    ]


def _variables(tensor: Any) -> Iterator[Any]:
    """Weights of the layers that give a tensor its unit."""
    layer = operation_of(tensor)
    bare = inner(layer)
    if type(bare) in _LINEAR:
        for source in call_of(tensor).input_tensors:
            yield from _variables(source)
        return
    for name in ("kernel", "bias", "gamma", "beta"):
        if (variable := getattr(bare, name, None)) is not None:
            yield variable
