"""Biases for layers that have none: a file holds them anyway, and rounding errors are corrected in them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import layers

from tfmpq.graph.replay import Replay, bare
from tfmpq.keras_internals import calls_in_order, operation_of

_WEIGHTED = (layers.Conv2D, layers.DepthwiseConv2D, layers.Conv2DTranspose, layers.Dense)


def with_biases(model: keras.Model) -> keras.Model:
    """Give a bias of zeros to every layer with a kernel that has none and no BatchNorm behind it.

    Args:
        model: Functional model with one input, of layers only.

    Returns:
        A model of new layers that computes the same; `model` itself if every such layer has a bias or a
        BatchNorm, whose offset is one.
    """
    followed = {
        operation_of(call.input_tensors[0])
        for call in calls_in_order(model)
        if type(call.operation) is layers.BatchNormalization
    }
    lacking = {
        layer
        for layer in model.layers
        if type(layer) in _WEIGHTED
        and not layer.use_bias
        and (layer not in followed or layer.activation is not keras.activations.linear)
    }
    if not lacking:
        return model
    (source,) = model.inputs
    name = operation_of(source).name
    image = keras.Input(source.shape[1:], name=name, dtype=source.dtype)
    return keras.Model(image, bare(_WithBiases([name], lacking).replay(model, [image])), name=model.name)


class _WithBiases(Replay):
    """One rebuilding, with biases for some layers."""

    def __init__(self, taken: Sequence[str], lacking: set[Any]) -> None:
        super().__init__(taken)
        self._lacking = lacking

    def outputs(
        self, node: Any, values: dict[int, Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> list[Any]:
        """Build one call again."""
        layer = node.operation
        if layer not in self._lacking:
            return self.copied(layer, args, kwargs)
        copy = type(layer).from_config(layer.get_config() | {"use_bias": True, "name": self.name(layer.name)})
        value = copy(args[0])
        copy.set_weights([*layer.get_weights(), np.zeros(copy.bias.shape, np.float32)])
        return [value]
