"""Inputs as runtimes and the rest of the toolchain take them: images, and float32 all the way.

A vector is an image of one pixel. A model whose input has another type casts it first, as Keras does. Layers
that compute in float16, bfloat16 or float64 do so in float32: the function is quantized, not its rounding.
"""

from __future__ import annotations

from collections.abc import Callable

import keras

from tfmpq.graph.replay import Replay
from tfmpq.keras_internals import all_layers

_VECTOR_RANK = 2


def with_image(model: keras.Model, note: Callable[[str], None] = lambda line: None) -> keras.Model:
    """Give a model of vectors (length,), or of another type of numbers, an input of images in float32.

    Args:
        model: Functional model with one input.
        note: Hears which layers got another name, one line each.

    Returns:
        A model of new layers that computes the same, of images (1, 1, length) in the place of vectors;
        `model` itself if it takes images and computes in float32 already.
    """
    (source,) = model.inputs
    vector = len(source.shape) == _VECTOR_RANK
    types = {source.dtype, *(layer.compute_dtype for layer in all_layers(model))}
    if not vector and types == {"float32"}:
        return model
    replay = Replay(model, note)
    image = value = replay.input(source, (1, 1, source.shape[1]) if vector else source.shape[1:], "float32")
    if vector:
        value = replay.call(
            keras.layers.Reshape, f"{image.name}_vector", image, target_shape=source.shape[1:]
        )
    return replay.model(image, replay.replay(model, [value]), model)
