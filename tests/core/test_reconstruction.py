"""Reconstruction: rounding that is never worse than the nearest, and layers that give what they gave."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from keras import layers

from tfmpq import reconstruction
from tfmpq.graph import analyse
from tfmpq.lowering import lower
from tfmpq.progress import SilentReporter
from tfmpq.quantizers import weight_levels
from tfmpq.reconstruction import MAX_IMAGES, _windows, affordable_images, optimal_rounding, reconstruct
from tfmpq.wrapper import inner

from .conftest import images_of, quantize, randomise


def problem(seed: int, groups: int, inputs: int, outputs: int) -> tuple[np.ndarray, ...]:
    """A kernel, correlated second moments and steps."""
    generator = np.random.default_rng(seed)
    mix = generator.normal(size=(groups, inputs, inputs))
    moments = mix @ mix.transpose(0, 2, 1) / inputs + 0.05 * np.eye(inputs)
    kernel = generator.normal(size=(groups, inputs, outputs))
    return kernel, moments, generator.uniform(0.2, 0.9, (groups, 1, outputs))


def loss(integers: np.ndarray, kernel: np.ndarray, moments: np.ndarray, steps: np.ndarray) -> np.ndarray:
    error = integers * steps - kernel
    return np.einsum("gio,gij,gjo->go", error, moments, error)


def nearest(kernel: np.ndarray, steps: np.ndarray, bits: int) -> np.ndarray:
    levels = weight_levels(bits)
    return np.clip(np.round(kernel / steps), levels.low, levels.high)


@given(st.integers(0, 10**6), st.integers(1, 3), st.integers(1, 20), st.integers(1, 4), st.integers(2, 8))
def test_no_output_is_worse_than_with_the_nearest_level(
    seed: int, groups: int, inputs: int, outputs: int, bits: int
) -> None:
    kernel, moments, steps = problem(seed, groups, inputs, outputs)
    levels = weight_levels(bits)
    found = optimal_rounding(kernel, moments, steps, levels)
    assert np.all(found == np.round(found))
    assert found.min() >= levels.low
    assert found.max() <= levels.high
    plain = loss(nearest(kernel, steps, bits), kernel, moments, steps)
    assert np.all(loss(found, kernel, moments, steps) <= plain * (1 + 1e-9))


@given(st.integers(0, 10**6))
def test_inputs_that_have_nothing_in_common_are_rounded_to_the_nearest_level(seed: int) -> None:
    kernel, _, steps = problem(seed, 1, 12, 3)
    moments = np.diag(np.random.default_rng(seed).uniform(0.1, 3, 12))[None]
    found = optimal_rounding(kernel, moments, steps, weight_levels(4))
    np.testing.assert_array_equal(found, nearest(kernel, steps, 4))


@given(st.integers(0, 10**6))
def test_it_is_optimal_brain_quantization_with_a_fixed_order(seed: int) -> None:
    """The textbook form, with the inverse of the moments that are left, one output at a time."""
    inputs, bits = 7, 3
    kernel, moments, steps = problem(seed, 1, inputs, 1)
    levels = weight_levels(bits)
    left = list(np.argsort(-np.diag(moments[0])))
    free, integers = kernel[0, :, 0].copy(), np.zeros(inputs)
    while left:
        inverse = np.linalg.inv(moments[0][np.ix_(left, left)])
        first = left[0]
        integers[first] = np.clip(np.round(free[first] / steps[0, 0, 0]), levels.low, levels.high)
        error = free[first] - integers[first] * steps[0, 0, 0]
        free[left] -= error / inverse[0, 0] * inverse[:, 0]
        left = left[1:]
    plain = nearest(kernel, steps, bits)
    best = min(
        (integers[None, :, None], plain), key=lambda q: float(loss(q, kernel, moments, steps).squeeze())
    )
    found = optimal_rounding(kernel, moments, steps, levels)
    np.testing.assert_allclose(
        loss(found, kernel, moments, steps), loss(best, kernel, moments, steps), rtol=1e-9
    )


def test_on_average_little_is_left_to_the_best_of_all_roundings() -> None:
    excess, gain = [], []
    for seed in range(40):
        kernel, moments, steps = problem(seed, 1, 6, 1)
        every = np.array(list(itertools.product((-1, 0, 1), repeat=6)), float)[:, None, :, None]
        best = min(float(loss(q, kernel, moments, steps).squeeze()) for q in every)
        found = loss(optimal_rounding(kernel, moments, steps, weight_levels(2)), kernel, moments, steps)
        excess.append(float(found.squeeze()) / best)
        gain.append(
            float(loss(nearest(kernel, steps, 2), kernel, moments, steps).squeeze() / found.squeeze())
        )
    assert np.mean(excess) < 1.35
    assert np.mean(gain) > 1.1


@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize(("strides", "dilation", "size"), [(1, 1, 3), (2, 1, 3), (2, 1, 2), (1, 2, 3)])
@pytest.mark.parametrize("depthwise", [False, True])
def test_windows_times_kernel_is_the_convolution(
    padding: str, strides: int, dilation: int, size: int, depthwise: bool
) -> None:
    image = keras.Input((7, 9, 4))
    kind: Callable[..., Any] = layers.DepthwiseConv2D if depthwise else layers.Conv2D
    channels = () if depthwise else (5,)
    layer = kind(
        *channels, size, strides=strides, padding=padding, dilation_rate=dilation, use_bias=False, name="conv"
    )
    model = keras.Model(image, layer(image))
    node = analyse(model).node("conv")
    x = images_of(2, 0, (7, 9, 4))
    wanted = model.predict_on_batch(x)
    picks = np.unravel_index(np.arange(np.prod(wanted.shape[:3])), wanted.shape[:3])
    windows = _windows(node, x, picks)
    kernel = np.asarray(layer.kernel).reshape(size * size, 4, -1)
    found = np.einsum("pkc,kco->pco" if depthwise else "pkc,kco->po", windows, kernel)
    np.testing.assert_allclose(found.reshape(wanted.shape), wanted, atol=1e-5)


@pytest.fixture(scope="module")
def reconstructed() -> tuple[Any, ...]:
    from .conftest import residual_network

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
    from .conftest import residual_network

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


def test_steps_of_activations_stay(reconstructed: Any) -> None:
    _, network, plain, fitted = reconstructed
    for name in network.tensors[1:]:
        for model in (plain, fitted):
            assert "log_step" in model.get_layer(name).output_variables
        np.testing.assert_array_equal(
            *(np.asarray(m.get_layer(name).output_variables["log_step"]) for m in (plain, fitted))
        )


def test_the_number_of_images_obeys_the_memory() -> None:
    small = keras.Input((8, 8, 3))
    assert affordable_images(analyse(keras.Model(small, layers.Conv2D(2, 1)(small)))) == MAX_IMAGES
    large = keras.Input((1024, 1024, 3))
    count = affordable_images(analyse(keras.Model(large, layers.Conv2D(61, 1)(large))))
    assert count == 8  # 4 GiB / (2 networks * 4 bytes * 64 channels * 2^20 pixels)


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
    fit = reconstruction._fit
    monkeypatch.setattr(
        reconstruction,
        "_fit",
        lambda node, *rest: given_.update({node.name: rest[1].given}) or fit(node, *rest),
    )
    reconstruct(quantized, model, network, images, SilentReporter())
    before = quantized.get_layer("behind").input
    computed = keras.Model(quantized.inputs, before).predict_on_batch(images)
    levels = np.unique(np.round(np.asarray(computed), 5))
    np.testing.assert_array_equal(np.unique(np.round(given_["behind"], 5)), levels)
