"""Where numbers first stop being finite: the layer to look at when a loss has become NaN or infinite."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops


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
    probe = keras.Model(model.inputs[0], [layer.output for layer in model.layers])
    for layer, output in zip(model.layers, probe(images, training=training), strict=True):
        for variable in layer.variables:
            if not _finite(variable):
                return f"variable '{variable.name}' of layer '{layer.name}'"
        if not _finite(output):
            return f"the output of layer '{layer.name}'"
    return None


def _finite(tensor: Any) -> bool:
    return bool(ops.all(ops.isfinite(ops.cast(tensor, "float32"))))
