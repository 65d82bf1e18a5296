"""Rewritten models compute what the user's models compute, with layers that can be deployed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers, ops

from tfmpq.graph.fusion import analyse
from tfmpq.graph.lowering import lower


def model_of(build: Callable[[Any], Any]) -> keras.Model:
    keras.utils.set_random_seed(1)
    image = keras.Input((8, 8, 4), name="image")
    return keras.Model(image, build(image), name="net")


def kinds(model: keras.Model) -> list[str]:
    return [type(layer).__name__ for layer in model.layers[1:]]


def check(build: Callable[[Any], Any]) -> keras.Model:
    """The lowered model, which gives the same numbers."""
    model = model_of(build)
    generator = np.random.default_rng(2)
    for layer in model.layers:
        if layer.weights and not isinstance(layer, layers.Normalization):
            layer.set_weights([np.abs(w) + generator.uniform(0.1, 0.4, w.shape) for w in layer.get_weights()])
    lowered = lower(model)
    images = generator.uniform(-2, 2, (3, 8, 8, 4)).astype("float32")
    wanted = model(images, training=False).numpy()
    np.testing.assert_allclose(
        lowered(images, training=False).numpy(), wanted, rtol=2e-5, atol=2e-5 * np.abs(wanted).max()
    )
    analyse(lowered)
    return lowered


def test_a_model_without_anything_to_rewrite_stays_itself() -> None:
    def build(x):
        x = layers.ReLU(6.0)(layers.BatchNormalization()(layers.Conv2D(4, 3, activation="linear")(x)))
        x = layers.Add()([x, layers.Activation("sigmoid")(x)])
        return layers.Dense(2)(layers.Dropout(0.2)(layers.Flatten()(x)))

    model = model_of(build)
    assert lower(model) is model
    once = check(lambda x: layers.Activation("silu")(layers.Conv2D(4, 3)(x)))
    assert lower(once) is once


@pytest.mark.parametrize(
    ("build", "found"),
    [
        (lambda x: layers.Activation("silu", name="a")(x), ["Activation", "Multiply"]),
        (lambda x: layers.Activation("hard_silu", name="a")(x), ["Activation", "Multiply"]),
        (lambda x: ops.gelu(layers.Conv2D(4, 3)(x)), ["Conv2D", "Activation"]),
        (lambda x: ops.gelu(layers.Conv2D(4, 3)(x), approximate=False), ["Conv2D", "Activation"]),
        (lambda x: layers.Activation("leaky_relu")(x), ["LeakyReLU"]),
        (lambda x: ops.silu(x), ["Activation", "Multiply"]),
        (lambda x: ops.relu6(x), ["Activation"]),
        (lambda x: layers.ReLU(6.0)(x + 3.0) * (1 / 6), ["Activation"]),
        (lambda x: layers.ReLU(6.0)(x + 3.0) / 6, ["Activation"]),
        (lambda x: layers.Conv2D(3, 3, activation="silu")(x), ["Conv2D", "Activation", "Multiply"]),
        (
            lambda x: layers.Dense(3, activation="sigmoid")(layers.Flatten()(x)),
            ["Flatten", "Dense", "Activation"],
        ),
        (lambda x: layers.Dense(3, activation="relu")(x), ["Conv2D"]),
        (lambda x: layers.SeparableConv2D(3, 3, 2, "same")(x), ["DepthwiseConv2D", "Conv2D"]),
        (
            lambda x: layers.SeparableConv2D(
                3, 3, depth_multiplier=2, dilation_rate=2, activation="hard_silu"
            )(x),
            ["DepthwiseConv2D", "Conv2D", "Activation", "Multiply"],
        ),
        (lambda x: layers.GlobalMaxPooling2D()(x), ["MaxPooling2D", "Reshape"]),
        (lambda x: layers.GlobalMaxPooling2D(keepdims=True)(x), ["MaxPooling2D", "Reshape"]),
        (lambda x: layers.Add()([x, layers.ReLU()(x), x]), ["ReLU", "Add", "Add"]),
        (lambda x: layers.ReLU()(x) + x, ["ReLU", "Add"]),
        (lambda x: layers.ReLU()(x) * x, ["ReLU", "Multiply"]),
        (lambda x: layers.ReLU()(2.0 - x), ["Rescaling", "ReLU"]),
        (lambda x: layers.Flatten()(x * 2.0), ["Rescaling", "Flatten"]),
        (lambda x: layers.ReLU()((x - 2.0) / 3), ["Rescaling", "ReLU"]),
    ],
)
def test_rewrites(build, found: list[str]) -> None:
    assert kinds(check(build)) == found


@pytest.mark.parametrize(
    ("build", "found"),
    [
        (lambda x: layers.Conv2D(3, 3, padding="same")(layers.Rescaling(2.0)(x)), ["Conv2D"]),
        (lambda x: layers.Conv2D(3, 3, use_bias=False)(layers.Rescaling(2.0, -0.3)(x)), ["Conv2D"]),
        (lambda x: layers.DepthwiseConv2D(3)(layers.Rescaling([1.0, 2, 3, 4], 1.0)(x)), ["DepthwiseConv2D"]),
        (
            lambda x: layers.Conv2D(3, 3, padding="same")(layers.Rescaling(2.0, -0.3)(x)),
            ["Rescaling", "Conv2D"],
        ),
        (lambda x: layers.Conv2D(4, 3, groups=2)(layers.Rescaling(2.0)(x)), ["Rescaling", "Conv2D"]),
        (
            lambda x: layers.Conv2D(3, 3, activation="silu")(
                layers.Normalization(mean=[0.1, 0.2, 0.3, 0.4], variance=[1.0, 2, 3, 4])(
                    layers.Rescaling(0.5)(x)
                )
            ),
            ["Conv2D", "Activation", "Multiply"],
        ),
        (
            lambda x: layers.ReLU()(
                layers.Normalization(mean=0.1, variance=2.0)(layers.Rescaling(0.5, 1.0)(x))
            ),
            ["Rescaling", "ReLU"],
        ),
        (
            lambda x: layers.ReLU()(layers.Normalization(mean=1.0, variance=2.0, invert=True)(x)),
            ["Rescaling", "ReLU"],
        ),
    ],
)
def test_factors_and_offsets_go_into_the_next_convolution_where_that_is_exact(
    build, found: list[str]
) -> None:
    assert kinds(check(build)) == found


def test_weights_of_both_forms_are_loaded_as_what_they_are(tmp_path, monkeypatch) -> None:
    from tfmpq.models.registry import load_model

    (tmp_path / "rescaling_net.py").write_text(
        "import keras\n"
        "from keras import layers\n"
        "def build(input_shape, classes):\n"
        "    image = keras.Input(input_shape)\n"
        "    x = layers.Conv2D(3, 3, name='conv')(layers.Rescaling(0.5)(image))\n"
        "    x = layers.SeparableConv2D(3, 3, name='separable')(x)\n"
        "    return keras.Model(image, layers.Dense(classes, name='logits')(layers.Flatten()(x)))\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    import rescaling_net

    own = rescaling_net.build((8, 8, 4), 2)
    own.save("own.keras")
    lower(own).save("lowered.keras")
    images = np.random.default_rng(0).uniform(-1, 1, (2, 8, 8, 4)).astype("float32")
    for name in ("own.keras", "lowered.keras"):
        loaded = load_model("rescaling_net:build", input_shape=(8, 8, 4), classes=2, weights=name)
        assert [layer.name for layer in loaded.model.layers[1:3]] == ["conv_rescaled", "separable_depthwise"]
        np.testing.assert_allclose(
            loaded.model(images, training=False), own(images, training=False), rtol=1e-4, atol=1e-5
        )


def test_layers_that_the_user_did_not_name_have_the_same_names_in_every_call() -> None:
    from tfmpq.models.registry import load_model

    def names() -> list[str]:
        loaded = load_model(
            "keras.applications:MobileNetV3Small", input_shape=(32, 32, 3), classes=2, weights=None
        )
        return [layer.name for layer in loaded.model.layers]

    first = names()
    assert first[:6] == ["input_layer", "rescaling", "conv", "conv_bn", "activation_gate", "activation"]
    assert names() == first


def test_an_input_that_two_layers_read_is_rescaled_once() -> None:
    def build(x):
        x = layers.Rescaling(2.0, 0.1, name="scaled")(x)
        return layers.Add()([layers.Conv2D(3, 1, name="a")(x), layers.Conv2D(3, 1, name="b")(x)])

    assert kinds(check(build)) == ["Rescaling", "Conv2D", "Conv2D", "Add"]


def test_nested_models_are_flattened_and_names_stay_unique() -> None:
    def build(x):
        inside = keras.Sequential([keras.Input((8, 8, 4)), layers.Conv2D(4, 3, padding="same", name="conv")])
        around = keras.Input((8, 8, 4))
        block = keras.Model(around, layers.ReLU(name="relu")(inside(around)))
        return layers.Conv2D(2, 3, name="conv")(block(block(x)))

    lowered = check(build)
    assert [layer.name for layer in lowered.layers[1:]] == ["conv", "relu", "conv_2", "relu_2", "conv_3"]


def test_a_layer_that_is_called_twice_becomes_two_with_the_same_weights() -> None:
    shared = layers.Conv2D(4, 3, padding="same", name="shared")
    lowered = check(lambda x: shared(shared(x)))
    for one, other in zip(lowered.layers[1].get_weights(), lowered.layers[2].get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_names_of_what_gates_are_made_of() -> None:
    lowered = check(lambda x: layers.Conv2D(3, 3, activation="silu", name="conv")(x))
    assert [layer.name for layer in lowered.layers[1:]] == ["conv", "conv_activation_gate", "conv_activation"]
    assert lowered.layers[0].name == "image"
    assert lowered.name == "net"


def test_layers_that_nothing_is_known_of_stay_and_are_refused_by_name() -> None:
    model = model_of(lambda x: layers.Activation("silu")(layers.LayerNormalization(name="odd")(x)))
    lowered = lower(model)
    with pytest.raises(Exception, match=r"odd \(LayerNormalization\): exists with float activations only"):
        analyse(lowered)


def test_layers_without_a_bias_or_a_norm_get_a_bias_of_zeros() -> None:
    def build(x):
        x = layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(4, 3, use_bias=False, name="normed")(x)))
        x = layers.SeparableConv2D(4, 3, use_bias=False, name="separable")(x)
        x = layers.Conv2DTranspose(3, 2, use_bias=False, activation="relu", name="larger")(x)
        return layers.Dense(2, use_bias=False, name="dense")(layers.Flatten()(x))

    lowered = check(build)
    biased = {layer.name: layer.use_bias for layer in lowered.layers if hasattr(layer, "use_bias")}
    assert biased.pop("normed") is False
    assert set(biased) == {"separable_depthwise", "separable", "larger", "dense"}
    assert all(biased.values())
    assert lower(lowered) is lowered
