"""Keras 3 models as TFMOT-quantized tf_keras models: the same outputs, the same gradients."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfmpq.errors import TfmpqError, UsageError
from tfmpq.policy.policy import save_policy, uniform_policy
from tfmpq.training.run_folder import Stage


def test_same_outputs_and_gradients_while_the_choice_is_open(
    bridge: Any, searchable: keras.Model, images: np.ndarray
) -> None:
    twin = bridge.to_tfmot(searchable)
    np.testing.assert_allclose(twin(images), searchable(images), rtol=0, atol=1e-5)

    def gradients(model: Any, variables: list[Any]) -> list[np.ndarray]:
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(model(images, training=False)))
        return [np.asarray(g) for g in tape.gradient(loss, variables)]

    ours = {
        f"{layer.name}/{name}": variable.value
        for layer in searchable.layers
        if hasattr(layer, "quantize_config")
        for part in ("weight", "output")
        for name, variable in ((f"{part}_{key}", v) for key, v in getattr(layer, f"{part}_variables").items())
        if variable.trainable
    }
    theirs = {}
    for layer in twin.layers:
        if hasattr(layer, "quantize_config"):
            name = layer.layer.name
            for _, _, variables in layer._weight_vars:
                theirs |= {f"{name}/weight_{key}": v for key, v in variables.items() if v.trainable}
            if layer._output_quantizers:
                found = layer._output_quantizer_vars
                theirs |= {f"{name}/output_{key}": v for key, v in found.items() if v.trainable}
    assert set(ours) == set(theirs)
    wanted = gradients(searchable, list(ours.values()))
    found = gradients(twin, [theirs[name] for name in ours])
    for name, one, other in zip(ours, wanted, found, strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-3, atol=1e-6 + 1e-4 * np.abs(one).max(), err_msg=name)


@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
def test_a_finished_run_goes_out_and_comes_back(
    bridge: Any, searchable: keras.Model, images: np.ndarray, tmp_path: Path
) -> None:
    from tfmpq.quantization.discretization import restrict

    policy = uniform_policy("residual", ["stem", "dw", "pw", "down", "logits"], 4)
    stage = Stage(tmp_path, "search")
    stage.save_model(searchable)
    save_policy(policy, tmp_path / "policy.yaml")
    stage.path(".result.json").write_text(json.dumps({}))
    model = bridge.run_to_tfmot(tmp_path)
    expected = restrict(searchable, policy)(images)
    np.testing.assert_allclose(model(images), expected, rtol=0, atol=1e-5)
    for ending in ("keras", "h5"):
        model.save(tmp_path / f"out.{ending}")
        again = bridge.load_model(tmp_path / f"out.{ending}")
        np.testing.assert_array_equal(again(images), model(images))
    kernel = next(layer for layer in again.layers if layer.name == "quant_pw")
    assert kernel.quantize_config.weight_bits == (4,)
    assert kernel.quantize_config.output_bits == (8,)


def test_layers_that_stay_in_float(bridge: Any, searchable: keras.Model) -> None:
    model = bridge.to_tfmot(searchable, float_layers=("dw", "logits"))
    layers = {layer.name: layer for layer in model.layers}
    assert "dw" in layers  # nothing of it is quantized
    assert not layers["quant_logits"].quantize_config.weight_bits  # only what it returns
    assert layers["quant_pw"].quantize_config.weight_bits == (2, 4, 8)


def test_what_cannot_go_out_is_named(bridge: Any, float_model: keras.Model, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"Received: residual, which is not quantized"):
        bridge.to_tfmot(float_model)
    with pytest.raises(UsageError, match="without a finished search"):
        bridge.run_to_tfmot(tmp_path)
    image = keras.Input((8, 8, 3))
    unknown = keras.layers.RandomFlip(name="flip")
    with pytest.raises(TfmpqError, match=r"Received: flip \(RandomFlip\)"):
        bridge.to_tf_keras(keras.Model(image, unknown(image)))
    with pytest.raises(TfmpqError, match="Flatten nested models"):
        bridge.to_tf_keras(keras.Model(image, keras.Model(image, keras.layers.ReLU()(image))(image)))
    for content in (None, b"no model"):
        path = tmp_path / "bad.keras"
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(TfmpqError, match="Received: "):
            bridge.load_model(path)


def test_activations_that_keras_2_has_not(bridge: Any, images: np.ndarray) -> None:
    image = x = keras.Input((8, 8, 3))
    for name in ("relu6", "hard_sigmoid", "hard_silu", "silu", "gelu"):
        x = keras.layers.Activation(name)(keras.layers.Conv2D(3, 1)(x))
    x = keras.layers.LeakyReLU(0.1)(x)
    model = keras.Model(image, x)
    copy = bridge.to_tf_keras(model)
    np.testing.assert_allclose(copy(images), model(images), rtol=0, atol=1e-6)
    back = bridge.from_tf_keras(copy).model
    assert [type(layer).__name__ for layer in back.layers] == [type(layer).__name__ for layer in model.layers]
    np.testing.assert_allclose(back(images), model(images), rtol=0, atol=1e-6)
