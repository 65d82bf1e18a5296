"""BatchNorm statistics that do not describe the data are found, and estimated as training sees them."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers

from tfmpq.graph.fusion import analyse
from tfmpq.progress import SilentReporter
from tfmpq.quantization.batch_statistics import FACTOR, estimate, with_fitting_statistics, worst_mismatch
from tfmpq.quantization.insertion import quantize_model

DEPTH = 4
SHAPE = (8, 8, 3)


def images_of(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, (count, *SHAPE)).astype("float32")


class Lines(SilentReporter):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def log(self, message: str) -> None:
        self.lines.append(message)


def deep_network(scale: float) -> keras.Model:
    """Convolutions that multiply the standard deviation by about `scale`, each before a BatchNorm."""
    image = x = keras.Input(SHAPE, name="image")
    initializer = keras.initializers.VarianceScaling(scale**2, "fan_in", seed=0)
    for i in range(DEPTH):
        x = layers.Conv2D(
            8, 3, use_bias=False, padding="same", kernel_initializer=initializer, name=f"conv{i}"
        )(x)
        x = layers.BatchNormalization(momentum=0.9, epsilon=1e-5, name=f"bn{i}")(x)
        x = layers.ReLU(name=f"relu{i}")(x)
    x = layers.GlobalAveragePooling2D(name="gap")(x)
    return keras.Model(image, layers.Dense(4, name="logits")(x))


@pytest.mark.parametrize("scale", [0.1, 10.0])
def test_a_vanishing_or_exploding_signal_is_found_and_mended(scale: float) -> None:
    model, images, reporter = deep_network(scale), images_of(96, 1), Lines()
    name, moment = worst_mismatch(model, images)
    assert name == f"bn{DEPTH - 1}"
    assert moment > FACTOR if scale > 1 else moment < 1 / FACTOR
    before = model.get_weights()
    fitted = with_fitting_statistics(model, images, reporter)
    assert fitted is not model
    assert "'bn3'" in reporter.lines[0]
    for ours, theirs in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert worst_mismatch(fitted, images)[1] == pytest.approx(1.0, rel=0.1)


def test_statistics_that_describe_the_images_are_left_alone() -> None:
    model, images, reporter = deep_network(10.0), images_of(96, 1), Lines()
    estimate(model, images)
    assert with_fitting_statistics(model, images_of(96, 2), reporter) is model
    assert reporter.lines == []


def test_the_estimate_of_one_pass_is_the_statistics_of_the_images() -> None:
    model, images = deep_network(0.1), images_of(32, 3)
    estimate(model, images)
    inputs = np.asarray(model.get_layer("conv0")(images))
    norm = model.get_layer("bn0")
    np.testing.assert_allclose(norm.moving_mean, inputs.mean((0, 1, 2)), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(norm.moving_variance, inputs.var((0, 1, 2)), rtol=1e-4)
    assert norm.momentum == 0.9


def test_frozen_layers_and_networks_without_batchnorm_are_left_alone() -> None:
    frozen = deep_network(10.0)
    frozen.trainable = False
    image = keras.Input(SHAPE)
    plain = keras.Model(image, layers.Dense(4)(layers.Flatten()(image)))
    for model in (frozen, plain):
        assert with_fitting_statistics(model, images_of(8, 1), Lines()) is model


@pytest.mark.parametrize("scale", [0.1, 10.0])
def test_ranges_fitted_to_them_hold_what_training_computes(scale: float) -> None:
    model, images = deep_network(scale), images_of(64, 4)
    network = analyse(model, True)
    bits = {node.name: (8,) for node in network.weighted}
    fitted = with_fitting_statistics(model, images, Lines())
    quantized = quantize_model(
        fitted, network, bits, dict.fromkeys(network.tensors, (8,)), images, (-1.0, 1.0)
    )
    wrapper = quantized.get_layer(f"relu{DEPTH - 1}")
    highest = 255 * float(np.exp(np.asarray(wrapper.output_variables["log_step"])[0]))
    probe = keras.Model(model.input, model.get_layer(f"relu{DEPTH - 1}").output)
    seen = np.asarray(probe(images, training=True))
    assert np.mean(seen > highest) < 0.01
    assert highest < 2 * seen.max()
