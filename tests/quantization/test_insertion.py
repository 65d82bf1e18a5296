"""Quantized models begin where the float model is, and files hold them exactly."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers

from tfmpq.graph.network import INPUT_QUANTIZER
from tfmpq.graph.shortcut import PadShortcut
from tfmpq.keras_internals import calls_of
from tfmpq.quantizers.choices import quantize_wrappers
from tfmpq.quantizers.wrapper import QuantizeWrapper, inner
from tfmpq.training.run_folder import load_keras


def test_weights_are_copied_and_layers_keep_their_names(searchable) -> None:
    made = searchable()
    names = [layer.name for layer in made.model.layers]
    assert sorted(layer.name for layer in made.quantized.layers) == sorted([*names, INPUT_QUANTIZER])
    for layer in made.model.layers:
        copy = inner(made.quantized.get_layer(layer.name))
        assert copy is not layer
        for ours, theirs in zip(copy.get_weights(), layer.get_weights(), strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_each_tensor_with_a_grid_has_one_quantizer_and_each_kernel(searchable) -> None:
    made = searchable()
    wrappers = quantize_wrappers(made.quantized)
    kernels = {w.name for w in wrappers if w.weight_quantizer is not None}
    outputs = {w.name for w in wrappers if w.output_quantizer is not None}
    assert kernels == {node.name for node in made.network.weighted}
    assert outputs == {*made.network.tensors[1:], INPUT_QUANTIZER}
    for name in ("stem_relu", "dw_relu", "down", "gap"):
        assert not made.quantized.get_layer(name).output_quantizer.signed
    assert not isinstance(made.quantized.get_layer("pool"), QuantizeWrapper)
    image = made.quantized.get_layer(INPUT_QUANTIZER)
    assert all("log_step" not in v.path for v in image.trainable_variables)


def test_the_grid_of_the_image_is_that_of_its_range(searchable) -> None:
    made = searchable((8,), (8,))
    wrapper = made.quantized.get_layer(INPUT_QUANTIZER)
    np.testing.assert_allclose(np.exp(wrapper.output_variables["log_step"].numpy()), [1 / 127], rtol=1e-6)


def test_a_tensor_that_is_always_zero_gets_a_step_that_a_runtime_can_divide_by(searchable) -> None:
    def build() -> keras.Model:
        image = keras.Input((8, 8, 3), name="image")
        dead = layers.Conv2D(4, 3, bias_initializer=keras.initializers.Constant(-100.0), name="dead")(image)
        x = layers.GlobalAveragePooling2D(name="gap")(layers.ReLU(name="relu")(dead))
        return keras.Model(image, layers.Dense(4, name="logits")(x))

    quantized = searchable((8,), (2, 8), build=build).quantized
    for name in ("relu", "gap"):
        steps = np.exp(quantized.get_layer(name).output_variables["log_step"].numpy())
        np.testing.assert_allclose(steps, [1 / 3, 1 / 255], rtol=0.2)


@pytest.mark.parametrize(("bits", "bound"), [(8, 0.03), (6, 0.12), (4, 0.6)])
def test_the_fewer_bits_the_larger_the_error(searchable, bits: int, bound: float) -> None:
    made = searchable((bits,), (8,))
    exact = made.model(made.images, training=False).numpy()
    error = made.quantized(made.images, training=False).numpy() - exact
    assert 0 < np.sqrt(np.mean(error**2)) < bound * exact.std()


@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")
def test_a_file_holds_the_model_exactly(searchable, tmp_path: Path) -> None:
    made = searchable(dropout=0.2)
    for wrapper in quantize_wrappers(made.quantized):
        for variables in (wrapper.weight_variables, wrapper.output_variables):
            if "bit_logits" in variables:
                variables["bit_logits"].assign(np.linspace(-1, 1, variables["bit_logits"].shape[0]))
    made.quantized.save(tmp_path / "m.keras")
    loaded = load_keras(tmp_path / "m.keras")
    images = made.images
    np.testing.assert_array_equal(
        loaded.predict(images, verbose=0), made.quantized.predict(images, verbose=0)
    )


def test_an_image_that_two_layers_read_is_quantized_once(searchable) -> None:
    def build() -> keras.Model:
        image = keras.Input((8, 8, 3), name="image")
        left = layers.Conv2D(8, 3, strides=2, padding="same", name="left")(image)
        right = PadShortcut(9, 2, name="right")(image)
        right = layers.Conv2D(8, 1, name="project")(right)
        x = layers.GlobalAveragePooling2D(name="gap")(layers.Add(name="add")([left, right]))
        return keras.Model(image, layers.Dense(4, name="logits")(x))

    made = searchable((8,), (8,), build=build)
    assert [layer.name for layer in made.quantized.layers].count(INPUT_QUANTIZER) == 1
    assert len(calls_of(made.quantized.get_layer(INPUT_QUANTIZER))) == 1
    exact = made.model(made.images, training=False).numpy()
    assert np.abs(made.quantized(made.images, training=False) - exact).max() < 0.1 * exact.std()
