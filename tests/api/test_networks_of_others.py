"""Networks as others publish them, from a file of Keras 2 to a proved file, with random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tfmpq
from tfmpq.deploy.runtime.interpreter import load

# tf_keras warns that its own .h5 form is old.
pytestmark = pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file:UserWarning")


def keyword_spotting(tk: Any) -> Any:
    """A spectrogram; depthwise convolutions, whose configuration has groups, and dropout."""
    sound = tk.Input((12, 6, 1))
    x = tk.layers.Conv2D(8, (5, 3), strides=2, padding="same", name="stem/conv")(sound)
    x = tk.layers.ReLU()(tk.layers.BatchNormalization()(x))
    x = tk.layers.DepthwiseConv2D(3, padding="same")(tk.layers.Dropout(0.2)(x))
    x = tk.layers.Flatten()(tk.layers.AveragePooling2D((6, 3))(x))
    return tk.Model(sound, tk.layers.Dense(4, activation="softmax")(x))


def autoencoder(tk: Any) -> Any:
    """Vectors to vectors."""
    vector = tk.Input((24,))
    x = tk.layers.Dense(12)(vector)
    x = tk.layers.Activation("relu")(tk.layers.BatchNormalization()(x))
    return tk.Model(vector, tk.layers.Dense(24)(tk.layers.Dense(6, activation="relu")(x)))


def residual(tk: Any) -> Any:
    """Sums and scaling as operations; a softmax before a reshape."""
    image = tk.Input((8, 8, 3))
    x = tk.layers.Conv2D(6, 3, padding="same", activation="relu")(image / 4.0)
    x = x + tk.layers.Conv2D(6, 3, padding="same")(x)
    x = tk.layers.Conv2D(4, 1)(tk.layers.GlobalAveragePooling2D(keepdims=True)(x))
    return tk.Model(image, tk.layers.Reshape((4,))(tk.layers.Activation("softmax")(x)))


def detector(tk: Any) -> Any:
    """Two outputs; a permutation before Flatten, PReLU, pooling over the border."""
    image = tk.Input((9, 9, 3))
    x = tk.layers.PReLU(shared_axes=[1, 2], alpha_initializer="random_uniform")(tk.layers.Conv2D(6, 3)(image))
    x = tk.layers.MaxPooling2D(3, 2, padding="same")(x)
    x = tk.layers.Flatten()(tk.layers.Permute((3, 2, 1))(x))
    x = tk.layers.Dense(8, activation="tanh")(x)
    return tk.Model(image, [tk.layers.Dense(2, activation="softmax")(x), tk.layers.Dense(4)(x)])


@pytest.mark.parametrize("build", [keyword_spotting, autoencoder, residual, detector])
def test_a_file_of_keras_2_becomes_a_proved_file_near_to_it(build: Any, tmp_path: Path) -> None:
    tk = pytest.importorskip("tf_keras")
    tk.utils.set_random_seed(3)
    model = build(tk)
    model.save(tmp_path / "model.h5")
    generator = np.random.default_rng(0)
    inputs = generator.normal(0, 1, (96, *model.input_shape[1:])).astype(np.float32)
    np.save(tmp_path / "inputs.npy", inputs)
    made = tfmpq.quantize(
        str(tmp_path / "model.h5"),
        f"npz:{tmp_path / 'inputs.npy'}",
        weight_bits=8,
        out=tmp_path / "model.tflite",
        progress=False,
    )
    assert made.export.verification.passed
    assert made.quantized.top1 is None
    network = load(tmp_path / "model.tflite")
    found = network.run_all(inputs.reshape(-1, *network.image_shape))
    wanted = model(inputs, training=False)
    for one, other in zip(wanted if isinstance(wanted, list) else [wanted], found, strict=True):
        expected, values = np.asarray(one), other.reshape(one.shape)
        if np.allclose(expected.sum(-1), 1.0):  # probabilities, of which the file gives the logits
            values = np.exp(values - values.max(-1, keepdims=True))
            values /= values.sum(-1, keepdims=True)
        noise = np.mean((expected - values) ** 2) / np.mean((expected - expected.mean(0)) ** 2)
        assert 10 * np.log10(noise) < -20
