"""Inputs and precisions of every kind become images and float32."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

from tfmpq.graph.fusion import analyse
from tfmpq.graph.lowering import lower


def vector() -> keras.Model:
    source = keras.Input((12,), name="features")
    x = layers.Reshape((4, 3))(layers.BatchNormalization()(layers.Dense(12, activation="relu")(source)))
    return keras.Model(source, layers.Dense(2)(layers.GlobalAveragePooling1D()(layers.Conv1D(4, 3)(x))))


def pixels() -> keras.Model:
    image = keras.Input((8, 8, 3), dtype="uint8", name="features")
    x = layers.Conv2D(4, 3)(layers.Rescaling(1 / 255.0)(layers.RandomFlip()(image)))
    return keras.Model(image, layers.Dense(2)(layers.Flatten()(x)))


def precise(name: str) -> keras.Model:
    image = keras.Input((8, 8, 3), name="features")
    x = layers.Conv2D(4, 3, dtype=name, activation="relu")(image)
    x = layers.GlobalAveragePooling2D(dtype=name)(layers.BatchNormalization(dtype=name)(x))
    return keras.Model(image, layers.Dense(2, dtype=name)(x))


@pytest.mark.parametrize(
    ("model", "shape", "tolerance"),
    [
        (vector, (1, 1, 12), 1e-5),
        (pixels, (8, 8, 3), 1e-5),
        (lambda: precise("float64"), (8, 8, 3), 1e-5),
        (lambda: precise("mixed_float16"), (8, 8, 3), 1e-2),
    ],
)
def test_the_lowered_network_takes_images_in_float32(
    model: Any, shape: tuple[int, ...], tolerance: float
) -> None:
    keras.utils.set_random_seed(2)
    made = model()
    lowered = lower(made)
    assert tuple(lowered.inputs[0].shape[1:]) == shape == analyse(lowered).input_shape
    assert {lowered.inputs[0].dtype, *(layer.compute_dtype for layer in lowered.layers)} == {"float32"}
    assert lowered.inputs[0].name == "features"
    given = np.random.default_rng(0).integers(0, 256, (3, *made.input_shape[1:])).astype(made.inputs[0].dtype)
    wanted = np.asarray(made(given, training=False), np.float32)
    found = np.asarray(lowered(given.reshape(-1, *shape).astype(np.float32), training=False))
    np.testing.assert_allclose(found, wanted, rtol=tolerance, atol=tolerance * np.abs(wanted).max())
