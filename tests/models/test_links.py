"""A model is held against what it became, and refused when it is loaded where no file could be right."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

from tfmpq.errors import TfmpqError
from tfmpq.graph import equivalence, lowering
from tfmpq.graph.equivalence import noise, require_same, summed_terms, unit_roundoff
from tfmpq.models import load_model

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

SHAPE = (8, 8, 3)


def chain(*parts: Any, shape: tuple[int, ...] = SHAPE, name: str = "mine") -> keras.Model:
    keras.utils.set_random_seed(0)
    image = x = keras.Input(shape, name="image")
    for part in parts:
        x = part(x)
    return keras.Model(image, x, name=name)


def usual(**last: Any) -> keras.Model:
    return chain(
        layers.Conv2D(4, 3, activation="silu", name="first"),
        layers.Flatten(),
        layers.Dense(6, activation="relu", name="middle"),
        layers.Dense(3, name="last", **last),
    )


def load(model: keras.Model, folder: Path) -> Any:
    path = folder / "m.keras"
    model.save(path)
    return load_model(str(path), input_shape=SHAPE, classes=3)


@pytest.mark.parametrize("last", [{}, {"activation": "softmax"}, {"activation": layers.Softmax()}])
def test_the_loaded_network_keeps_the_users_model_to_be_held_against(last: Any, tmp_path: Path) -> None:
    model = usual(**last)
    loaded = load(model, tmp_path)
    images = noise(SHAPE)
    np.testing.assert_allclose(loaded.source(images), model(images), rtol=1e-6, atol=1e-7)
    (found,) = require_same(loaded.source, loaded.model, loaded.softmax, images)
    assert loaded.softmax == (bool(last),)
    assert found.relative <= found.allowed < 1e-4


def test_a_lowering_that_drops_something_is_an_error(monkeypatch, tmp_path: Path) -> None:
    def careless(model: keras.Model, note: Any) -> keras.Model:
        copy = keras.models.clone_model(model)
        copy.set_weights(model.get_weights())
        bias = copy.get_layer("middle").bias
        bias.assign(bias + 1e-2)
        return copy

    monkeypatch.setattr(equivalence, "lower", careless)
    with pytest.raises(TfmpqError, match=r"'mine', whose output 1 of 1 comes out with a relative difference"):
        load(usual(), tmp_path)


@pytest.mark.parametrize("policy", ["float32", "mixed_float16", "mixed_bfloat16"])
def test_what_rounding_explains_follows_from_the_arithmetic(policy: str) -> None:
    model = chain(
        layers.Conv2D(4, 3, dtype=policy), layers.Flatten(dtype=policy), layers.Dense(2, dtype=policy)
    )
    assert summed_terms(model) == 1 + 1 + 27 + 1 + 144
    expected = {"float32": 2.0**-24, "mixed_float16": 2.0**-11, "mixed_bfloat16": 2.0**-8}
    assert unit_roundoff(model) == expected[policy]


def test_a_network_that_amplifies_rounding_is_held_to_what_it_can_tell_apart() -> None:
    norm = layers.BatchNormalization(epsilon=1e-12, name="norm")
    model = chain(layers.Conv2D(4, 3), norm, layers.Activation("silu"), layers.Flatten(), layers.Dense(3))
    gamma, beta, mean, variance = norm.get_weights()
    norm.set_weights([gamma, beta, mean, variance * 1e-10])
    (found,) = require_same(model, lowering.lower(model), (False,))
    assert found.relative <= found.allowed


def test_all_outputs_are_held_against_the_users() -> None:
    model = usual()
    other = keras.Model(model.input, [model.output, model.get_layer("first").output])
    wrong = keras.Model(model.input, [model.output, layers.Rescaling(1.01)(model.get_layer("first").output)])
    require_same(other, other, (False, False))
    with pytest.raises(TfmpqError, match="output 2 of 2"):
        require_same(other, wrong, (False, False))


def test_sequences_are_held_against_their_images() -> None:
    model = chain(layers.Conv1D(4, 3, padding="causal"), layers.GlobalAveragePooling1D(), shape=(12, 3))
    (found,) = require_same(model, lowering.lower(model), (False,))
    assert found.relative < 1e-6


@pytest.mark.parametrize("mode", ["int8", "int4"])
def test_a_model_that_keras_quantized_is_refused_in_one_line(mode: str, tmp_path: Path) -> None:
    model = usual()
    with pytest.warns(UserWarning, match="quantize"):
        model.quantize(mode)
    with pytest.raises(TfmpqError, match=rf"'middle', 'last' are quantized already \({mode}, by Keras\)"):
        load(model, tmp_path)


@pytest.mark.parametrize(("value", "called"), [(np.nan, "NaN"), (np.inf, "infinite values")])
def test_weights_that_are_no_numbers_are_refused_with_their_layer(
    value: float, called: str, tmp_path: Path
) -> None:
    inside = chain(layers.Conv2D(3, 3, name="deep"), name="nested")
    kernel, bias = inside.get_layer("deep").get_weights()
    kernel[0, 0, 0, 0] = value
    inside.get_layer("deep").set_weights([kernel, bias])
    model = chain(inside, layers.Flatten(), layers.Dense(3))
    with pytest.raises(TfmpqError, match=f"layer 'deep' has {called} in its kernel"):
        load(model, tmp_path)


@pytest.mark.parametrize("name", ["first", "middle"])
def test_adapters_are_merged(name: str, tmp_path: Path) -> None:
    model = usual()
    layer = model.get_layer(name)
    layer.enable_lora(2)
    generator = np.random.default_rng(1)
    layer.lora_kernel_b.assign(generator.normal(size=layer.lora_kernel_b.shape))
    loaded = load(model, tmp_path)
    images = noise(SHAPE)
    np.testing.assert_allclose(loaded.model(images), model(images), rtol=1e-4, atol=1e-4)
    assert [len(loaded.model.get_layer(known).weights) for known in ("first", "middle")] == [2, 2]


def test_names_that_no_backend_takes_or_the_toolchain_uses_are_changed_and_said(tmp_path: Path) -> None:
    model = chain(
        layers.Conv2D(4, 3, name="conv 1"),
        layers.ReLU(name="激活"),
        layers.Conv2D(4, 3, name="input_quantizer"),
        layers.LeakyReLU(name="a"),
        layers.Conv2D(4, 1, name="a_positive"),
        layers.Activation("silu", name="b"),
        layers.Conv2D(4, 1, name="b_gate"),
        layers.Flatten(name="null"),
        layers.Dense(3, name="1"),
    )
    loaded = load(model, tmp_path)
    names = [layer.name for layer in loaded.model.layers]
    assert names == [
        *("image", "conv_1", "layer__", "input_quantizer_2", "a", "a_positive"),
        *("b_gate_2", "b", "b_gate", "null", "1"),
    ]
    assert [note.split(" is called ")[0] for note in loaded.notes] == [
        f"Layer '{name}'" for name in ("conv 1", "激活", "input_quantizer")
    ]
    images = noise(SHAPE)
    np.testing.assert_allclose(loaded.model(images), model(images), rtol=1e-5, atol=1e-5)
