"""Reconstruction: layers that give what they gave."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from keras import layers
from scipy import ndimage

from tfmpq.graph.lowering import lower
from tfmpq.progress import SilentReporter
from tfmpq.quantization import reconstruction
from tfmpq.quantization.reconstruction import reconstruct
from tfmpq.quantizers.wrapper import inner

from ..quantized_networks import grouped_network, images_of, quantize, randomise


@pytest.fixture(scope="module")
def reconstructed() -> tuple[Any, ...]:
    from ..quantized_networks import residual_network

    keras.utils.set_random_seed(0)
    model = randomise(residual_network(), 0)
    images = images_of(64, 1)
    network, plain = quantize(model, (3,), (8,), images)
    _, fitted = quantize(model, (3,), (8,), images)
    reconstruct(fitted, model, network, images, SilentReporter())
    return model, network, plain, fitted


def test_the_network_comes_closer_to_the_float_one_on_other_images(reconstructed: Any) -> None:
    model, _, plain, fitted = reconstructed
    images = images_of(64, 2)
    wanted = model.predict_on_batch(images)
    errors = [np.mean(np.square(m.predict_on_batch(images) - wanted)) for m in (plain, fitted)]
    assert errors[1] < 0.7 * errors[0]


def test_kernels_lie_on_their_grid(reconstructed: Any) -> None:
    _, network, _, fitted = reconstructed
    for node in network.weighted:
        wrapper = fitted.get_layer(node.name)
        levels = wrapper.weight_quantizer.levels[0]
        ratio = np.asarray(wrapper.layer.kernel) / np.exp(np.asarray(wrapper.weight_variables["log_step"])[0])
        np.testing.assert_allclose(ratio, np.clip(np.round(ratio), levels.low, levels.high), atol=1e-4)


def test_channels_keep_their_means(reconstructed: Any) -> None:
    model, network, _, fitted = reconstructed
    images = images_of(64, 1)
    node = network.node("down")
    before = keras.Model(fitted.inputs, fitted.get_layer("pool").output).predict_on_batch(images)
    given_ = inner(fitted.get_layer("down"))
    source = keras.Model(model.inputs, model.get_layer("pool").output).predict_on_batch(images)
    means = []
    for layer, x in ((node.main, source), (given_, before)):
        y = keras.ops.conv(x, layer.kernel, strides=2, padding="valid") + layer.bias
        means.append(np.asarray(y).mean((0, 1, 2)))
    np.testing.assert_allclose(means[1], means[0], atol=1e-4)


def test_biases_alone_can_be_corrected() -> None:
    from ..quantized_networks import residual_network

    keras.utils.set_random_seed(0)
    model = randomise(residual_network(), 0)
    images = images_of(64, 1)
    network, plain = quantize(model, (2,), (8,), images)
    _, corrected = quantize(model, (2,), (8,), images)
    reconstruct(corrected, model, network, images, SilentReporter(), kernels=False)
    for node in network.weighted:
        one, other = plain.get_layer(node.name), corrected.get_layer(node.name)
        np.testing.assert_array_equal(one.layer.kernel, other.layer.kernel)
        np.testing.assert_array_equal(one.weight_variables["log_step"], other.weight_variables["log_step"])
    wanted = model.predict_on_batch(images).mean(0)
    off = [np.abs(made.predict_on_batch(images).mean(0) - wanted).max() for made in (plain, corrected)]
    assert off[1] < 0.1 * off[0]


GROUPED = {"grouped": "grouped", "multiplied": "multiplied_bn", "up": "up", "sparse": "sparse_bn"}
"""Layers with a kernel, and those that add to their results: the bias is in the first, or in BatchNorm."""


def smooth_images(count: int, seed: int) -> np.ndarray:
    """Images whose neighbours and channels go together, as those of photographs do."""
    noise = ndimage.uniform_filter(images_of(count, seed, (8, 8, 2)), (0, 3, 3, 0)) * 3
    return np.concatenate([noise, noise.sum(-1, keepdims=True), noise[..., :1]], -1).clip(-1, 1)


@pytest.fixture(scope="module")
def grouped() -> tuple[Any, ...]:
    """The float network; quantized to the nearest levels, reconstructed, and with only biases corrected."""
    keras.utils.set_random_seed(0)
    model = randomise(grouped_network(), 0)
    images = smooth_images(128, 1)
    network, plain = quantize(model, (3,), (8,), images)
    _, fitted = quantize(model, (3,), (8,), images)
    _, corrected = quantize(model, (3,), (8,), images)
    reconstruct(fitted, model, network, images, SilentReporter())
    reconstruct(corrected, model, network, images, SilentReporter(), kernels=False)
    return model, plain, fitted, corrected


def values_of(model: keras.Model, name: str, images: np.ndarray) -> np.ndarray:
    return np.asarray(keras.Model(model.inputs, model.get_layer(name).output).predict_on_batch(images))


def test_groups_multipliers_and_transposed_convolutions_are_fitted(grouped: Any) -> None:
    model, plain, fitted, corrected = grouped
    images = smooth_images(128, 2)

    def errors(name: str, *models: keras.Model) -> list[float]:
        wanted = values_of(model, name, images)
        return [float(np.mean(np.square(values_of(made, name, images) - wanted))) for made in models]

    for name in GROUPED:
        nearest_level, found = errors(f"{name}_relu", corrected, fitted)
        assert found < 0.75 * nearest_level, name
    for better in (corrected, fitted):
        before, after = errors("logits", plain, better)
        assert after < 0.1 * before


@pytest.mark.parametrize("name", GROUPED)
def test_their_channels_keep_their_means(grouped: Any, name: str) -> None:
    images = smooth_images(128, 1)
    wanted, *found = (values_of(made, GROUPED[name], images).mean((0, 1, 2), np.float64) for made in grouped)
    plain, fitted, corrected = (np.abs(means - wanted).max() for means in found)
    assert plain > 1e-3
    assert max(fitted, corrected) < 1e-5


@pytest.mark.parametrize("name", GROUPED)
def test_corrected_biases_leave_their_kernels(grouped: Any, name: str) -> None:
    _, plain, fitted, corrected = (made.get_layer(name) for made in grouped)
    np.testing.assert_array_equal(corrected.layer.kernel, plain.layer.kernel)
    assert np.any(np.asarray(fitted.layer.kernel) != np.asarray(plain.layer.kernel))


def test_kernels_too_long_for_their_moments_lose_no_means(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconstruction, "MAX_FAN_IN", 10)
    keras.utils.set_random_seed(0)
    model = randomise(grouped_network(), 0)
    images = smooth_images(64, 1)
    network, plain = quantize(model, (2,), (8,), images)
    _, fitted = quantize(model, (2,), (8,), images)
    reconstruct(fitted, model, network, images, SilentReporter())
    for name in ("grouped", "up"):
        kernels = [np.asarray(m.get_layer(name).quantized_kernel()) for m in (plain, fitted)]
        np.testing.assert_allclose(*kernels, atol=1e-6)
    wanted = model.predict_on_batch(images).mean(0)
    off = [np.abs(made.predict_on_batch(images).mean(0) - wanted).max() for made in (plain, fitted)]
    assert off[1] < 0.2 * off[0]


def test_steps_of_activations_stay(reconstructed: Any) -> None:
    _, network, plain, fitted = reconstructed
    for name in network.tensors[1:]:
        for model in (plain, fitted):
            assert "log_step" in model.get_layer(name).output_variables
        np.testing.assert_array_equal(
            *(np.asarray(m.get_layer(name).output_variables["log_step"]) for m in (plain, fitted))
        )


def test_branches_gates_and_separate_activations_are_passed_through() -> None:
    """Operators between the kernels: what reads several tensors, and what is no layer with weights."""

    def gated_network() -> keras.Model:
        image = keras.Input((8, 8, 3), name="image")
        x = layers.Conv2D(8, 3, padding="same", name="stem")(image)
        x = layers.Activation("hard_silu", name="stem_act")(x)
        y = layers.Conv2D(4, 1, activation="relu", name="left")(x)
        z = layers.Conv2D(4, 3, padding="same", activation="relu", name="right")(x)
        x = layers.Concatenate(name="join")([y, z])
        gate = layers.GlobalAveragePooling2D(keepdims=True, name="squeeze")(x)
        gate = layers.Conv2D(8, 1, activation="sigmoid", name="excite")(gate)
        x = layers.Multiply(name="scale")([x, gate])
        x = layers.GlobalAveragePooling2D(name="gap")(x)
        return keras.Model(image, layers.Dense(4, name="logits")(x))

    keras.utils.set_random_seed(0)
    model = lower(gated_network())
    images = images_of(128, 1)
    network, plain = quantize(model, (3,), (8,), images)
    _, fitted = quantize(model, (3,), (8,), images)
    reconstruct(fitted, model, network, images, SilentReporter())
    others = images_of(64, 2)
    wanted = model.predict_on_batch(others)
    errors = [np.mean(np.square(m.predict_on_batch(others) - wanted)) for m in (plain, fitted)]
    assert errors[1] < 0.7 * errors[0]


def test_what_a_layer_is_given_is_what_the_quantized_network_computes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Concatenated tensors are put on a grid that they share, by a layer of its own."""
    image = keras.Input((8, 8, 3), name="image")
    parts = [layers.Conv2D(4, 1, activation="relu", name=name)(image) for name in ("left", "right")]
    x = layers.Conv2D(4, 3, name="behind")(layers.Concatenate(name="join")(parts))
    model = randomise(keras.Model(image, layers.GlobalAveragePooling2D(name="gap")(x)), 3)
    images = images_of(8, 1)
    network, quantized = quantize(model, (4,), (4,), images)
    given_: dict[str, np.ndarray] = {}
    rows = reconstruction._rows

    def noted(node: Any, inputs: Any, *rest: Any) -> Any:
        given_[node.name] = inputs[1]
        return rows(node, inputs, *rest)

    monkeypatch.setattr(reconstruction, "_rows", noted)
    reconstruct(quantized, model, network, images, SilentReporter())
    before = quantized.get_layer("behind").input
    computed = keras.Model(quantized.inputs, before).predict_on_batch(images)
    levels = np.unique(np.round(np.asarray(computed), 5))
    np.testing.assert_array_equal(np.unique(np.round(given_["behind"], 5)), levels)
