"""Quantize configs keep TFMOT's protocol and survive serialization."""

from __future__ import annotations

import keras
import pytest
from keras import layers

from tfmpq.quantizers.config import MixedPrecisionQuantizeConfig

PROTOCOL = (
    "get_weights_and_quantizers",
    "get_activations_and_quantizers",
    "set_quantize_weights",
    "set_quantize_activations",
    "get_output_quantizers",
    "get_config",
)


def built(layer: keras.layers.Layer, *shape: int | None) -> keras.layers.Layer:
    layer.build(shape)
    return layer


@pytest.mark.parametrize(
    ("layer", "axes"),
    [
        (built(layers.Conv2D(4, 3), None, 8, 8, 3), (3,)),
        (built(layers.DepthwiseConv2D(3), None, 8, 8, 3), (2, 3)),
        (built(layers.Dense(5), None, 7), (1,)),
    ],
)
def test_kernels_get_a_step_for_each_output_channel(layer: keras.layers.Layer, axes: tuple[int, ...]) -> None:
    config = MixedPrecisionQuantizeConfig(weight_bits=(2, 4))
    ((kernel, quantizer),) = config.get_weights_and_quantizers(layer)
    assert kernel is layer.kernel
    assert (quantizer.channel_axes, quantizer.narrow, quantizer.bits) == (axes, True, (2, 4))
    assert config.get_output_quantizers(layer) == config.get_activations_and_quantizers(layer) == []


def test_output_quantizer_and_empty_weights() -> None:
    config = MixedPrecisionQuantizeConfig(
        output_bits=(4, 8), output_signed=False, trainable_output_step=False
    )
    (quantizer,) = config.get_output_quantizers(layers.ReLU())
    assert (quantizer.bits, quantizer.signed, quantizer.trainable_step) == ((4, 8), False, False)
    assert not quantizer.narrow
    assert quantizer.channel_axes == ()
    assert config.get_weights_and_quantizers(layers.ReLU()) == []


def test_protocol_and_serialization() -> None:
    config = MixedPrecisionQuantizeConfig((2, 8), (4,), False, False)
    assert all(callable(getattr(config, name)) for name in PROTOCOL)
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(config))
    assert vars(copy) == vars(config)


def test_quantized_weights_take_the_place_of_the_kernel() -> None:
    class Holder:
        kernel = "float"

    holder = Holder()
    config = MixedPrecisionQuantizeConfig((2, 8))
    config.set_quantize_weights(holder, ["quantized"])
    assert holder.kernel == "quantized"
    MixedPrecisionQuantizeConfig().set_quantize_weights(holder, [])
    assert holder.kernel == "quantized"
