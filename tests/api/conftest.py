"""A small trained model and its data, as a person has them in a notebook."""

from __future__ import annotations

from dataclasses import dataclass

import keras
import numpy as np
import pytest
from keras import layers

Arrays = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Notebook:
    """What a person has: a trained model with a softmax, and arrays."""

    model: keras.Model
    train: Arrays
    test: Arrays


def quarters(count: int, seed: int) -> Arrays:
    """Images of noise with one bright quarter, which is the label: float32 of 0 to 1."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 4, count)
    images = generator.uniform(0, 0.6, (count, 8, 8, 1)).astype(np.float32)
    for image, label in zip(images, labels, strict=True):
        top, left = 4 * (label // 2), 4 * (label % 2)
        image[top : top + 4, left : left + 4] += 0.4
    return images, labels


@pytest.fixture(scope="session")
def notebook() -> Notebook:
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(8, 3, padding="same", activation="relu"),
            layers.Conv2D(16, 3, strides=2, padding="same", activation="relu"),
            layers.AveragePooling2D(2),
            layers.Flatten(),
            layers.Dense(4, activation="softmax"),
        ],
        name="quarters",
    )
    train, test = quarters(400, 1), quarters(120, 2)
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(*train, epochs=12, batch_size=32, verbose=0)
    return Notebook(model, train, test)
