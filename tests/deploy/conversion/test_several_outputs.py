"""Networks with several outputs, nested and shared layers, from Keras to the runtime."""

from __future__ import annotations

import os
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import pytest
from keras import layers

from tfmpq.deploy.conversion.surgery import build_tflite
from tfmpq.deploy.conversion.topology import deployable
from tfmpq.deploy.export import export_float
from tfmpq.deploy.proof.readback import mismatches
from tfmpq.deploy.proof.verify import verify
from tfmpq.deploy.runtime.interpreter import load, tensor_values
from tfmpq.deploy.tflite.flatbuffer import read_model, write_model
from tfmpq.errors import TfmpqError, UsageError
from tfmpq.graph.frozen import FrozenModel
from tfmpq.graph.fusion import analyse
from tfmpq.graph.lowering import lower
from tfmpq.quantization.freeze import freeze, snap_biases
from tfmpq.quantization.insertion import quantize_model
from tfmpq.tasks.outputs import Output


def two_heads() -> keras.Model:
    """A classifier, a map for each pixel, and a convolution before its activation."""
    keras.utils.set_random_seed(3)
    image = keras.Input((8, 8, 3), name="image")
    bare = layers.Conv2D(6, 3, padding="same", name="bare")(image)
    x = layers.ReLU(name="active")(bare)
    scores = layers.Conv2D(2, 1, name="scores")(x)
    shared = layers.Conv2D(6, 3, padding="same", activation="relu", name="shared")
    part_input = keras.Input((8, 8, 6))
    part = keras.Model(part_input, layers.BatchNormalization()(shared(part_input)), name="part")
    x = layers.Add()([part(x), part(part(x))])
    logits = layers.Dense(4, name="logits")(layers.GlobalAveragePooling2D()(x))
    return keras.Model(image, {"scores": scores, "logits": logits, "bare": bare}, name="two_heads")


def quantized(model: keras.Model, bits: int) -> tuple[keras.Model, FrozenModel, np.ndarray]:
    model = lower(model)
    images = np.random.default_rng(1).uniform(-1, 1, (16, 8, 8, 3)).astype("float32")
    network = analyse(model)
    weights = {node.name: (bits,) for node in network.weighted}
    made = quantize_model(model, network, weights, dict.fromkeys(network.tensors, (8,)), images, (-1.0, 1.0))
    found = analyse(made)
    assert found.outputs == network.outputs
    snap_biases(made, found)
    return made, freeze(made, found), images


@pytest.mark.parametrize("target", ["litert", "storage"])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_every_output_is_in_the_file_and_proved(bits: int, target) -> None:
    model, frozen, images = quantized(two_heads(), bits)
    content = build_tflite(frozen, target)
    proof = verify(frozen, content, target, images[:2])
    assert proof.failures == ()
    assert {check.name for check in proof.by_layer} >= {"bare", "active", "scores", "logits", "shared_2"}
    assert set(frozen.outputs) == {"scores", "logits", "bare"}
    assert frozen.layer("bare").activation == "linear"  # its ReLU comes behind what is given out
    codes = frozen.layers[0].grid.quantize(images)
    found = tensor_values(content, None, codes, "default")
    assert tuple(found) == frozen.outputs
    if target == "litert":
        for name, wanted in zip(frozen.outputs, model(images, training=False), strict=True):
            grid = frozen.layer(name).grid
            off = np.abs(grid.dequantize(found[name]) - np.asarray(wanted)) / grid.scale
            assert off.max() < 1.5
            assert np.mean(off > 0.5) < 0.05


def test_the_runtime_gives_all_outputs_by_name(tmp_path: Path) -> None:
    _, frozen, images = quantized(two_heads(), 8)
    content = build_tflite(frozen, "litert")
    path = tmp_path / "two_heads.tflite"
    path.write_bytes(content)
    network = load(path)  # in a child process
    shapes = {"scores": (8, 8, 2), "logits": (4,), "bare": (8, 8, 6)}
    assert network.outputs == tuple(Output(name, shapes[name]) for name in frozen.outputs)
    codes = tensor_values(content, None, frozen.layers[0].grid.quantize(images), "default")
    for output, found in zip(network.outputs, network.run_all(images), strict=True):
        assert found.shape == (len(images), *output.shape)
        np.testing.assert_array_equal(found, frozen.layer(output.name).grid.dequantize(codes[output.name]))
    with pytest.raises(UsageError, match="3 outputs"):
        network.run(images)


def test_outputs_of_a_converted_file_have_the_names_of_its_signature(tmp_path: Path) -> None:
    image = keras.Input((4, 4, 1))
    x = layers.Flatten()(image)
    model = keras.Model(image, {"b": layers.Dense(3)(x), "a": layers.Dense(2)(x)})
    path = tmp_path / "float.tflite"
    export_float(model, path)
    network, images = load(path), np.random.default_rng(0).normal(size=(3, 4, 4, 1)).astype("float32")
    # How the file orders them is the converter's affair.
    assert set(network.outputs) == {Output("a", (2,)), Output("b", (3,))}
    for output, found in zip(network.outputs, network.run_all(images), strict=True):
        np.testing.assert_allclose(found, model(images)[output.name], atol=1e-6)
    unnamed = read_model(path.read_bytes())
    unnamed.signatureDefs = None
    assert all(output.name.startswith("Stateful") for output in load(write_model(unnamed)).outputs)


def test_a_file_that_returns_other_tensors_is_noticed() -> None:
    _, frozen, _ = quantized(two_heads(), 8)
    file = read_model(build_tflite(frozen, "litert"))
    file.subgraphs[0].outputs = file.subgraphs[0].outputs[::-1].copy()
    lines = list(mismatches(deployable(frozen), read_model(write_model(file)), "litert"))
    assert lines == [f"the file returns {', '.join(frozen.outputs[::-1])}, not {', '.join(frozen.outputs)}"]


def test_outputs_that_are_the_same_tensor_are_refused() -> None:
    image = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, name="conv")(image)
    twice = keras.Model(image, [x, x])
    with pytest.raises(TfmpqError, match="Outputs are different tensors"):
        analyse(twice)
