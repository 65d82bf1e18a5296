"""BatchNorm statistics that describe the data, for the ranges that a training will see.

Ranges of activations are fitted to a pass in inference mode, which uses moving statistics. A network with
random weights has statistics that nobody has measured. Its signal shrinks or grows from layer to layer, the
ranges follow it, and in training, where batches are normalized by their own statistics, every activation is
clipped.
"""

from __future__ import annotations

from collections.abc import Iterator

import keras
import numpy as np
from keras import ops

from tfmpq.progress import Reporter

FACTOR = 4.0
"""How far the second moment of a layer's normalized inputs may be from 1, up or down, in its middle channel.

Trained networks on their own images stay within 1.5 (docs/results/beginnings.md)."""

_BATCH = 64
"""Images of one pass; as few as a small training step, so that small feature maps have enough values."""

_VALUES = 2**28
"""Values that the tensors of one pass may hold together: large images are taken fewer at a time."""


def with_fitting_statistics(model: keras.Model, images: np.ndarray, reporter: Reporter) -> keras.Model:
    """The model itself if its BatchNorm statistics describe the images, else a copy with statistics that do.

    Args:
        model: Functional float model; it is left as it is.
        images: Preprocessed images, float32 (N, height, width, channels).
        reporter: Told where statistics are estimated anew, and why.
    """
    worst = worst_mismatch(model, images)
    if worst is None or 1.0 / FACTOR <= worst[1] <= FACTOR:
        return model
    name, moment = worst
    reporter.log(
        f"BatchNorm's moving statistics do not describe these images (at '{name}' the signal is "
        f"{np.sqrt(moment):.2g} times what they say); they are estimated anew, and ranges are fitted to that."
    )
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    estimate(copy, images)
    return copy


def worst_mismatch(model: keras.Model, images: np.ndarray) -> tuple[str, float] | None:
    """The layer whose moving statistics describe its inputs worst, in inference mode.

    Returns:
        Its name, and the mean square of its normalized inputs in the middle one of its channels, which is 1
        where the statistics are right; None if the model has no BatchNorm.
    """
    norms = _norms(model)
    if not norms:
        return None
    probe = keras.Model(model.inputs[0], [norm.input for norm in norms])
    moments = [np.zeros(norm.moving_mean.shape) for norm in norms]
    for chunk in _chunks(model, images, _VALUES // 4):
        tensors = keras.tree.flatten(probe(chunk, training=False))
        for moment, norm, tensor in zip(moments, norms, tensors, strict=True):
            axes = [axis for axis in range(len(tensor.shape)) if axis != norm.axis % len(tensor.shape)]
            shape = [1] * len(tensor.shape)
            shape[norm.axis] = -1
            away = ops.cast(tensor, "float32") - ops.reshape(norm.moving_mean, shape)
            moment += np.asarray(ops.mean(ops.square(away), axis=axes), np.float64) * len(chunk) / len(images)
    found = {}
    for moment, norm in zip(moments, norms, strict=True):
        # Epsilon on both sides: a channel that is always zero is as it says.
        ratios = (moment + norm.epsilon) / (np.asarray(norm.moving_variance, np.float64) + norm.epsilon)
        found[norm.name] = float(np.median(ratios))
    return max(found.items(), key=lambda item: abs(np.log(max(item[1], 1e-300))))


def estimate(model: keras.Model, images: np.ndarray) -> None:
    """Replace the moving statistics by the means of those of batches, as training computes them; in place.

    Args:
        model: Functional float model.
        images: Preprocessed images, float32 (N, height, width, channels).
    """
    norms = _norms(model)
    momenta = [norm.momentum for norm in norms]
    try:
        for index, chunk in enumerate(_chunks(model, images)):
            for norm in norms:
                norm.momentum = index / (index + 1.0)  # so that the moving mean is that of all passes so far
            model(chunk, training=True)
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum


def _norms(model: keras.Model) -> list[keras.layers.BatchNormalization]:
    """The layers that normalize by the batch in training."""
    return [
        layer
        for layer in model.layers
        if isinstance(layer, keras.layers.BatchNormalization) and layer.trainable
    ]


def _chunks(model: keras.Model, images: np.ndarray, most: int = _VALUES) -> Iterator[np.ndarray]:
    """The images in parts of nearly one size, as many as a pass can hold."""
    values = sum(int(np.prod([size or 1 for size in layer.output.shape[1:]])) for layer in model.layers)
    size = max(1, min(_BATCH, most // values))
    yield from np.array_split(images, -(-len(images) // size))
