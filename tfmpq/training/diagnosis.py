"""Where a training has gone wrong: the layer to look at when nothing is learned any more."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from tfmpq.quantizers.choices import float_network
from tfmpq.training.backend import value_and_gradient
from tfmpq.training.sharpness import global_norm
from tfmpq.training.variables import WEIGHTS, positions


def first_not_finite(model: keras.Model, images: Any, training: bool) -> str | None:
    """Go through a functional model layer by layer, its variables before its output.

    Args:
        model: Functional model; a pass in training mode moves its statistics.
        images: Batch of inputs.
        training: Whether BatchNorm uses the statistics of the batch.

    Returns:
        What is not finite first, for example "the output of layer 'conv1'"; None if everything is.
    """
    if not np.all(np.isfinite(images)):
        return "the batch of images"
    for layer, output in _outputs(model, images, training):
        for variable in layer.variables:
            if not _finite(variable):
                return f"variable '{variable.name}' of layer '{layer.name}'"
        if not _finite(output):
            return f"the output of layer '{layer.name}'"
    return None


def where_signal_dies(model: keras.Model, images: Any, training: bool) -> str | None:
    """The first layer behind which nothing depends on the image any more.

    Args:
        model: Functional model; a pass in training mode moves its statistics.
        images: Batch of at least two different inputs.
        training: Whether BatchNorm uses the statistics of the batch.

    Returns:
        For example "behind layer 'relu3' all images are the same"; None if there is no such layer.
    """
    for layer, output in _outputs(model, images, training):
        values = ops.convert_to_numpy(ops.cast(output, "float32"))
        if len(values) > 1 and not np.ptp(values, axis=0).any():
            return f"behind layer '{layer.name}' all images are the same"
        if len(np.unique(values)) <= 2:
            return f"layer '{layer.name}' gives one of two values only, the ends of its range"
    return None


def where_signal_explodes(model: keras.Model, images: Any, training: bool) -> str:
    """The layer behind which values grow most, compared with the float network of the same weights.

    Args:
        model: Functional model; a pass in training mode moves its statistics.
        images: Batch of inputs.
        training: Whether BatchNorm uses the statistics of the batch.

    Returns:
        For example "the output of layer 'conv1' is 3e+08 times that of the float network".
    """
    with float_network(model):
        expected = [_spread(output) for _, output in _outputs(model, images, training)]
    found = [(layer.name, _spread(output)) for layer, output in _outputs(model, images, training)]
    ratios = [(value / max(usual, 1e-30), name) for (name, value), usual in zip(found, expected, strict=True)]
    ratio, name = max(ratios, key=lambda pair: abs(np.log(max(pair[0], 1e-30))))
    return f"the output of layer '{name}' is {ratio:.2g} times that of the float network"


def usual_gradient(
    model: Any, trainable: Sequence[Any], state: Sequence[Any], images: Any, labels: Any
) -> float:
    """Norm of the gradient of the float network of a quantized training model; nothing is changed.

    Labels are those of other images, so that it does not become small where a network knows its images.

    Args:
        model: Quantized training model with an objective.
        trainable: Values of its trainable variables.
        state: Values of its non-trainable variables.
        images: Batch of inputs.
        labels: Their labels, at least two.
    """
    others = np.roll(np.asarray(labels), 1, axis=0)
    tensors = [ops.convert_to_tensor(value) for value in trainable]

    def loss(tensors: Sequence[Any]) -> tuple[Any, Any]:
        outputs, _ = model.stateless_call(list(tensors), list(state), images, training=True)
        return model.objective.loss(others, ops.cast(outputs, "float32")), ()

    with float_network(model):
        _, gradients = value_and_gradient(loss, tensors)
    weights = positions(model.trainable_variables, WEIGHTS)
    return float(global_norm([gradients[i] for i in weights]))


def _outputs(model: keras.Model, images: Any, training: bool) -> Any:
    """Every layer with its output, in the order of the network."""
    probe = keras.Model(model.inputs[0], [layer.output for layer in model.layers])
    return zip(model.layers, keras.tree.flatten(probe(images, training=training)), strict=True)


def _spread(tensor: Any) -> float:
    return float(ops.std(ops.cast(tensor, "float32")))


def _finite(tensor: Any) -> bool:
    return bool(ops.all(ops.isfinite(ops.cast(tensor, "float32"))))
