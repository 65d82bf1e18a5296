"""Vectors as images of one pixel: runtimes take images, and so does the rest of the toolchain."""

from __future__ import annotations

import keras

from tfmpq.graph.replay import Replay, bare
from tfmpq.keras_internals import operation_of

_VECTOR_RANK = 2


def with_image(model: keras.Model) -> keras.Model:
    """Give a model of vectors (length,) an input of images (1, 1, length).

    Args:
        model: Functional model with one input.

    Returns:
        A model of new layers that computes the same; `model` itself if it takes anything else.
    """
    (source,) = model.inputs
    if len(source.shape) != _VECTOR_RANK:
        return model
    name, length = operation_of(source).name, source.shape[1]
    image = keras.Input((1, 1, length), name=name, dtype=source.dtype)
    replay = Replay([name])
    vector = replay.call(keras.layers.Reshape, f"{name}_vector", image, target_shape=(length,))
    return keras.Model(image, bare(replay.replay(model, [vector])), name=model.name)
