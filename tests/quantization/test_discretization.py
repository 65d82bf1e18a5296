"""Restricting a searched model to a policy keeps the steps that the search learned for the chosen bits."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers

from tfmpq.errors import UsageError
from tfmpq.graph.fusion import analyse
from tfmpq.graph.network import INPUT_QUANTIZER
from tfmpq.keras_internals import calls_of
from tfmpq.policy.policy import LayerChoice, Policy
from tfmpq.quantization.discretization import restrict
from tfmpq.quantizers.choices import quantize_wrappers

WEIGHT_BITS = {"stem": 8, "dw": 4, "pw": 2, "down": 4, "logits": 8}
ACTIVATION_BITS = {"add": 4, "gap": 8}


def policy(**changes: int) -> Policy:
    chosen = WEIGHT_BITS | changes
    return Policy(
        format="tfmpq-policy/1",
        model="residual",
        layers={name: LayerChoice(weight_bits=bits) for name, bits in chosen.items()},
        activations={name: bits for name, bits in ACTIVATION_BITS.items() if bits != 8},
    )


@pytest.fixture(scope="module")
def searched(searchable) -> keras.Model:
    model = searchable((2, 4, 8), (4, 8), dropout=0.1).quantized
    image = model.get_layer(INPUT_QUANTIZER)
    generator = np.random.default_rng(0)
    for wrapper in quantize_wrappers(model):
        for variables in (wrapper.weight_variables, wrapper.output_variables):
            if variables and wrapper is not image:
                step = variables["log_step"]
                step.assign(step.numpy() + generator.normal(0, 0.3, step.shape))
    return model


def test_the_chosen_candidate_keeps_its_step(searched) -> None:
    restricted = restrict(searched, policy())
    for wrapper in quantize_wrappers(restricted):
        original = searched.get_layer(wrapper.name)
        assert "bit_logits" not in wrapper.weight_variables
        assert "bit_logits" not in wrapper.output_variables
        if wrapper.weight_quantizer is not None:
            bits = WEIGHT_BITS[wrapper.name]
            assert wrapper.weight_quantizer.bits == (bits,)
            position = (2, 4, 8).index(bits)
            np.testing.assert_array_equal(
                wrapper.weight_variables["log_step"].numpy()[0],
                original.weight_variables["log_step"].numpy()[position],
            )
            np.testing.assert_array_equal(wrapper.layer.kernel.numpy(), original.layer.kernel.numpy())
        if wrapper.output_quantizer is not None and wrapper.name != INPUT_QUANTIZER:
            bits = ACTIVATION_BITS.get(wrapper.name, 8)
            assert wrapper.output_quantizer.bits == (bits,)
            assert wrapper.output_quantizer.signed == original.output_quantizer.signed
            np.testing.assert_array_equal(
                wrapper.output_variables["log_step"].numpy()[0],
                original.output_variables["log_step"].numpy()[(4, 8).index(bits)],
            )


def test_a_certain_search_and_its_policy_compute_the_same(searchable) -> None:
    """With one-hot logits the mixture is the restricted network, bit for bit."""
    made = searchable((2, 4, 8), (8,))
    for wrapper in quantize_wrappers(made.quantized):
        if "bit_logits" in wrapper.weight_variables:
            logits = np.full(3, -1e4)
            logits[(2, 4, 8).index(WEIGHT_BITS[wrapper.name])] = 1e4
            wrapper.weight_variables["bit_logits"].assign(logits)
    plain = Policy(
        format="tfmpq-policy/1",
        model="residual",
        layers={name: LayerChoice(weight_bits=bits) for name, bits in WEIGHT_BITS.items()},
    )
    restricted = restrict(made.quantized, plain)
    np.testing.assert_array_equal(
        restricted(made.images, training=False), made.quantized(made.images, training=False)
    )
    assert restricted.name == made.quantized.name


def test_bits_that_were_not_searched_are_refused(searchable) -> None:
    made = searchable((2, 4, 8), (8,))
    with pytest.raises(UsageError, match=r"3 bits for the weights of dw, searched: \(2, 4, 8\)"):
        restrict(made.quantized, policy(dw=3))
    with pytest.raises(UsageError, match=r"4 bits for the output of add, searched: \(8,\)"):
        restrict(made.quantized, policy())


def test_16_bit_activations_are_refused(searchable) -> None:
    made = searchable((2, 4, 8), (8,))
    with pytest.raises(UsageError, match=r"no steps for 16-bit activations.*residual.*--weights"):
        restrict(made.quantized, policy().model_copy(update={"activations": 16}))


def test_a_quantizer_that_tensors_share_stays_one(searchable) -> None:
    def build() -> keras.Model:
        image = keras.Input((8, 8, 3), name="image")
        x = layers.Conv2D(4, 3, padding="same", activation="relu", name="a")(image)
        gate = layers.Activation("sigmoid", name="gate")(layers.Conv2D(4, 1, name="b")(x))
        x = layers.Concatenate(name="cat")([x, layers.Conv2D(4, 3, padding="same", name="c")(x)])
        x = layers.Concatenate(name="cat2")([x, layers.Multiply(name="product")([gate, gate])])
        x = layers.GlobalAveragePooling2D(name="gap")(x)
        return keras.Model(image, layers.Dense(4, name="logits")(x), name="shared")

    made = searchable((2, 8), (4, 8), build=build)
    chosen = Policy(
        format="tfmpq-policy/1",
        model="shared",
        layers={name: LayerChoice(weight_bits=8) for name in ("a", "b", "c", "logits")},
        activations={"cat_grid": 4},
    )
    restricted = restrict(made.quantized, chosen)
    shared, gate = restricted.get_layer("cat_grid"), restricted.get_layer("gate")
    assert len(calls_of(shared)) == 3
    assert shared.output_quantizer.bits == (4,)
    np.testing.assert_array_equal(
        shared.output_variables["log_step"].numpy()[0],
        made.quantized.get_layer("cat_grid").output_variables["log_step"].numpy()[0],
    )
    assert gate.output_quantizer.bits == (8,)
    np.testing.assert_allclose(np.exp(gate.output_variables["log_step"].numpy()), [1 / 256], rtol=1e-6)
    assert analyse(restricted).tensors == made.network.tensors
