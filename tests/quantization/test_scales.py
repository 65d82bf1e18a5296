"""Units do not matter: networks whose tensors are tiny or huge are quantized as well as any."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers

from tfmpq.graph.fusion import analyse
from tfmpq.graph.lowering import lower
from tfmpq.progress import SilentReporter
from tfmpq.quantization.freeze import freeze
from tfmpq.quantization.insertion import quantize_model
from tfmpq.quantization.reconstruction import reconstruct
from tfmpq.quantizers.learned_step import activation_levels, best_step, weight_levels

SCALES = (1e-8, 1e-4, 1.0, 1e4, 1e8)
IMAGES = np.random.default_rng(0).uniform(0, 1, (48, 8, 8, 3)).astype("float32")


def network(inside: float, outside: float) -> keras.Model:
    """Convolutions whose outputs are `inside` times what they were, and an output `outside` times."""
    keras.utils.set_random_seed(1)
    image = keras.Input((8, 8, 3), name="image")
    x = layers.Conv2D(8, 3, activation="relu", name="first")(image)
    y = layers.DepthwiseConv2D(3, padding="same", name="second")(x)
    x = layers.LeakyReLU(name="bent")(layers.Add(name="sum")([x, y]))
    model = keras.Model(image, layers.Dense(4, name="out")(layers.Flatten(name="flat")(x)))
    for name, factor in (("first", inside), ("out", outside / inside)):
        kernel, bias = model.get_layer(name).get_weights()
        model.get_layer(name).set_weights([kernel * factor, bias * factor])
    return model


def decibels(model: keras.Model, bits: int, fit: bool) -> float:
    model = lower(model)
    found = analyse(model, input_signed=False)
    quantized = quantize_model(
        model,
        found,
        {node.name: (bits,) for node in found.weighted},
        {name: (8,) for name in found.tensors},
        IMAGES,
        (0.0, 1.0),
    )
    if fit:
        reconstruct(quantized, model, found, IMAGES, SilentReporter())
    wanted = np.asarray(model(IMAGES, training=False), np.float64)
    noise = np.asarray(quantized(IMAGES, training=False), np.float64) - wanted
    return float(10 * np.log10(wanted.var(0).mean() / np.square(noise).mean()))


@pytest.mark.parametrize(("bits", "fit"), [(8, False), (4, True)])
def test_the_scale_of_tensors_changes_nothing(bits: int, fit: bool) -> None:
    usual = decibels(network(1.0, 1.0), bits, fit)
    assert usual > 10
    for scale in SCALES if not fit else (SCALES[0], SCALES[-1]):
        assert decibels(network(scale, 1.0), bits, fit) == pytest.approx(usual, abs=1)
        assert decibels(network(1.0, scale), bits, fit) == pytest.approx(usual, abs=1)


@pytest.mark.parametrize("scale", SCALES)
def test_steps_are_proportional_to_the_values(scale: float) -> None:
    values = np.random.default_rng(0).normal(size=(9, 4)) * np.array([1.0, 1e-2, 1e-5, 1e-8])
    for levels, axes in ((weight_levels(4), (0,)), (activation_levels(8, True), None)):
        usual = best_step(values, levels, axes, keepdims=axes is not None)
        found = best_step(values * scale, levels, axes, keepdims=axes is not None)
        np.testing.assert_allclose(found, usual * scale, rtol=1e-9)
    # Every channel keeps most of what it holds, however small it is beside the others.
    steps = best_step(values, weight_levels(8), (0,), keepdims=True)
    error = np.square(np.round(values / steps) * steps - values).mean(0) / np.square(values).mean(0)
    assert error.max() < 1e-3


def test_a_tensor_that_is_only_rounding_spans_what_it_is_computed_from() -> None:
    keras.utils.set_random_seed(1)
    image = keras.Input((8, 8, 3), name="image")
    x = layers.Conv2D(4, 3, name="first")(image)
    dead = layers.Conv2D(4, 1, kernel_initializer="zeros", name="dead")(x)
    model = keras.Model(image, layers.Add(name="sum")([x, dead]))
    found = analyse(model, input_signed=False)
    bits = {node.name: (8,) for node in found.weighted}
    quantized = quantize_model(model, found, bits, {name: (8,) for name in found.tensors}, IMAGES, (0.0, 1.0))
    steps = {
        name: float(np.exp(np.asarray(quantized.get_layer(name).output_variables["log_step"])[0]))
        for name in ("first", "dead")
    }
    assert steps["dead"] == pytest.approx(steps["first"], rel=0.5)


def test_parts_of_layers_get_names_that_no_layer_has() -> None:
    keras.utils.set_random_seed(1)
    image = keras.Input((8, 8, 3), name="image")
    x = layers.LeakyReLU(name="a")(layers.Conv2D(4, 3, name="first")(image))
    y = layers.MaxPooling2D(1, name="c_grid")(layers.Conv2D(4, 1, name="a_positive")(x))
    model = keras.Model(image, layers.Concatenate(name="c")([x, y, layers.Conv2D(4, 1, name="a_slope")(x)]))
    found = analyse(model, input_signed=False)
    bits = {node.name: (8,) for node in found.weighted}
    quantized = quantize_model(model, found, bits, {name: (8,) for name in found.tensors}, IMAGES, (0.0, 1.0))
    again = analyse(quantized, input_signed=False)
    assert again.tensors == found.tensors
    frozen = freeze(quantized, again)
    names = [layer.name for layer in frozen.layers]
    assert len(set(names)) == len(names)
    assert {"a", "a_positive", "a_slope", "c", "c_grid"} <= set(names)
    readers = {layer.name: layer.inputs for layer in frozen.layers}
    assert readers["a_positive"] == ("a",)
    assert readers["a"] == ("a_positive_2", "a_slope_2")
