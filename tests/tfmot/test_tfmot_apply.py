"""Quantize configs of this package in TFMOT's own functions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfmpq.errors import TfmpqError, UsageError
from tfmpq.graph.fusion import analyse
from tfmpq.quantizers.config import MixedPrecisionQuantizeConfig


@pytest.fixture(scope="module")
def annotated(bridge: Any, tk: Any, tfmot: Any, float_model: keras.Model) -> Any:
    """Kernels with a choice of widths, one of a fixed width, tensors of fixed widths."""
    configs = {
        "stem": MixedPrecisionQuantizeConfig((8,)),
        "stem_relu": MixedPrecisionQuantizeConfig(output_bits=(8,), output_signed=False),
        "dw": MixedPrecisionQuantizeConfig((2, 4, 8)),
        "dw_relu": MixedPrecisionQuantizeConfig(output_bits=(4, 8), output_signed=False),
        "pw": MixedPrecisionQuantizeConfig((2, 4, 8), (8,)),
        "down": MixedPrecisionQuantizeConfig((2, 4, 8), (4, 8), output_signed=False),
        "logits": MixedPrecisionQuantizeConfig((4, 8), (8,)),
    }

    def annotate(layer: Any) -> Any:
        copy = type(layer).from_config(layer.get_config())
        return tfmot.quantize_annotate_layer(copy, configs[layer.name]) if layer.name in configs else copy

    plain = bridge.to_tf_keras(float_model)
    model = tk.models.clone_model(plain, clone_function=annotate)
    model.set_weights(plain.get_weights())
    return model


@pytest.fixture(scope="module")
def applied(bridge: Any, annotated: Any, images: np.ndarray) -> Any:
    return bridge.quantize_apply(annotated, images)


def test_learns_weights_steps_and_bit_choices(tk: Any, applied: Any, images: np.ndarray) -> None:
    before = {v.name: v.numpy() for v in applied.trainable_variables}
    assert sum("bit_logits" in name for name in before) == 6
    weights = applied.get_weights()
    applied.compile(tk.optimizers.SGD(0.5), tk.losses.SparseCategoricalCrossentropy(from_logits=True))
    applied.train_on_batch(images, np.arange(len(images)) % 4)
    still = [v.name for v in applied.trainable_variables if np.array_equal(v.numpy(), before[v.name])]
    applied.set_weights(weights)
    assert not still


def test_first_steps_fit_kernels_and_tensors(applied: Any, annotated: Any, images: np.ndarray) -> None:
    steps = {v.name: v.numpy() for v in applied.variables if "log_step" in v.name}
    assert all((step != 0).all() for step in steps.values())
    # Near the float network, which steps of 1 would not be.
    difference = applied(images).numpy() - annotated(images).numpy()
    assert np.sqrt(np.mean(difference**2)) < 0.5 * np.std(annotated(images).numpy())


def test_learned_choices_become_a_policy_for_the_toolchain(
    bridge: Any, applied: Any, annotated: Any, float_model: keras.Model
) -> None:
    before = applied.get_weights()
    for variable in applied.variables:
        if "bit_logits" in variable.name:
            count = variable.shape[0]
            variable.assign([1, 0] if "output" in variable.name else [0, 2, 1][:count])
    policy = bridge.chosen_policy(applied)
    applied.set_weights(before)
    assert policy.weight_bits == {"stem": 8, "dw": 4, "pw": 4, "down": 4, "logits": 8}
    assert policy.activations == {"dw_relu": 4, "down": 4}
    network = analyse(bridge.from_tf_keras(annotated).model)
    policy.check_against([node.name for node in network.weighted], network.tensors)
    with pytest.raises(UsageError, match="Received: residual without any"):
        bridge.chosen_policy(bridge.to_tf_keras(float_model))


@pytest.mark.parametrize("ending", ["keras", "h5"])
@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
def test_saves_and_loads(bridge: Any, applied: Any, images: np.ndarray, tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"model.{ending}"
    applied.save(path)
    again = bridge.load_model(path)
    names = [[v.name.rpartition("/")[2] for v in model.variables] for model in (again, applied)]
    assert names[0] == names[1]
    np.testing.assert_array_equal(again(images), applied(images))


def test_tfmots_default_scheme_takes_the_configs(tk: Any, tfmot: Any, images: np.ndarray) -> None:
    layers, annotate = tk.layers, tfmot.quantize_annotate_layer
    model = tk.Sequential(
        [
            tk.Input((8, 8, 3)),
            annotate(layers.Conv2D(4, 3, name="conv"), MixedPrecisionQuantizeConfig((2, 4), (8,))),
            annotate(layers.DepthwiseConv2D(3, name="depthwise"), MixedPrecisionQuantizeConfig((4,))),
            layers.Flatten(),
            annotate(layers.Dense(2, name="dense"), MixedPrecisionQuantizeConfig((2, 4, 8), (8,))),
        ]
    )
    quantized = tfmot.quantize_apply(model)
    choices = [v for v in quantized.trainable_variables if "bit_logits" in v.name]
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(quantized(images, training=True) ** 2)
    assert len(choices) == 2
    assert all(gradient is not None for gradient in tape.gradient(loss, choices))


def test_a_config_that_got_lost_is_an_error(bridge: Any, tk: Any, tfmot: Any, images: np.ndarray) -> None:
    from tfmpq.tfmot.apply import check_configs

    config = MixedPrecisionQuantizeConfig((4,), (8,), output_signed=False)
    relu = MixedPrecisionQuantizeConfig(output_bits=(8,), output_signed=False)
    model = tk.Sequential(
        [
            tk.Input((8, 8, 3)),
            tfmot.quantize_annotate_layer(tk.layers.Conv2D(4, 3, name="conv"), config),
            tfmot.quantize_annotate_layer(tk.layers.ReLU(name="relu"), relu),
        ]
    )
    # TFMOT's own scheme replaces the config of a convolution in front of a ReLU without a word.
    with pytest.raises(TfmpqError, match=r"Received: conv with none or another"):
        check_configs(tfmot.quantize_apply(model), {"conv": config})
    check_configs(bridge.quantize_apply(model, images), {"conv": config, "relu": relu})


def test_an_annotation_without_a_config_is_refused(bridge: Any, tk: Any, tfmot: Any) -> None:
    dense = tfmot.quantize_annotate_layer(tk.layers.Dense(2, name="head"))
    with pytest.raises(UsageError, match=r"Received: head without one"):
        bridge.quantize_apply(tk.Sequential([tk.Input((4,)), dense]))
