"""Biases for layers that have none: a file holds them anyway, and rounding errors are corrected in them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import layers

from tfmpq.graph.recognition import LINEAR, function_name
from tfmpq.graph.replay import Replay, config_of, weights_of
from tfmpq.keras_internals import calls_in_order, operation_of

_WEIGHTED = (layers.Conv2D, layers.DepthwiseConv2D, layers.Conv2DTranspose, layers.Dense)


def with_biases(model: keras.Model, note: Callable[[str], None] = lambda line: None) -> keras.Model:
    """Give a bias of zeros to every layer with a kernel that has none and no BatchNorm behind it.

    Args:
        model: Functional model with one input, of layers only.
        note: Hears which layers got another name, one line each.

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
        if type(layer) in _WEIGHTED  # not those in quantizers: a trained network stays as it is
        and not layer.use_bias
        and (layer not in followed or function_name(layer) != LINEAR)
    }
    if not lacking:
        return model
    replay = _WithBiases(model, note)
    replay.lacking = lacking
    (source,) = model.inputs
    image = replay.input(source, source.shape[1:])
    return replay.model(image, replay.replay(model, [image]), model)


class _WithBiases(Replay):
    """One rebuilding, with biases for some layers."""

    lacking: set[Any]

    def outputs(
        self, node: Any, values: dict[int, Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> list[Any]:
        """Build one call again."""
        layer = node.operation
        if layer not in self.lacking:
            return self.copied(layer, args, kwargs)
        copy = type(layer).from_config(config_of(layer) | {"use_bias": True, "name": self.name(layer.name)})
        value = copy(args[0])
        copy.set_weights([*weights_of(layer), np.zeros(copy.bias.shape, np.float32)])
        return [value]
