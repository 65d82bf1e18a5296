"""Trains a small network on handwritten digits and saves it: a model for `make demo` to compress.

    python examples/digits.py digits.keras

Depthwise-separable blocks as in MobileNet, 241,000 weights, nearly all of them in 1x1 convolutions. The
digits are the 1,797 of scikit-learn, brought to 16x16 pixels; the test part is not trained on.
"""

from __future__ import annotations

import sys
from pathlib import Path

import keras
import numpy as np
from keras import layers

from tfmpq.data import load_dataset

WIDTHS, STRIDES = (64, 128, 256, 256, 512), (1, 2, 1, 2, 1)
EPOCHS = 12


def network() -> keras.Model:
    """Pixels in, a probability for each digit out."""
    image = keras.Input((16, 16, 3), name="image")
    x = layers.Rescaling(1 / 255)(image)
    x = layers.Conv2D(32, 3, padding="same", use_bias=False)(x)
    x = layers.ReLU()(layers.BatchNormalization(momentum=0.9)(x))
    for width, strides in zip(WIDTHS, STRIDES, strict=True):
        x = layers.DepthwiseConv2D(3, strides=strides, padding="same", use_bias=False)(x)
        x = layers.ReLU()(layers.BatchNormalization(momentum=0.9)(x))
        x = layers.Conv2D(width, 1, use_bias=False)(x)
        x = layers.ReLU()(layers.BatchNormalization(momentum=0.9)(x))
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(image, layers.Dense(10, activation="softmax")(x), name="digits")


def main(path: Path) -> None:
    """Train and save."""
    keras.utils.set_random_seed(0)
    digits, model = load_dataset("digits"), network()
    steps = EPOCHS * -(-len(digits.train) // 32)
    rate = keras.optimizers.schedules.CosineDecay(2e-3, steps)
    model.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy", metrics=["accuracy"])
    train, test = digits.train, digits.test
    held = (np.asarray(test.array, np.float32), test.labels)
    model.fit(
        np.asarray(train.array, np.float32), train.labels, batch_size=32, epochs=EPOCHS, validation_data=held,
        verbose=2,
    )  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    model.save(path)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
