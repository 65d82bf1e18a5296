from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tfmpq.deploy.conversion.surgery import build_tflite
from tfmpq.deploy.export import export_float, export_tflite
from tfmpq.deploy.runtime.inspect_file import inspect_file
from tfmpq.deploy.runtime.interpreter import load, run
from tfmpq.deploy.tflite.flatbuffer import read_model, write_model
from tfmpq.errors import TfmpqError, UsageError
from tfmpq.tasks.outputs import Output


@pytest.fixture(scope="module")
def path(make_small, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("runtime") / "net.tflite"
    export_tflite(make_small(3), path)
    return path


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    return np.random.default_rng(5).normal(0, 1, (5, 8, 8, 3)).astype(np.float32)


def test_batch_is_the_images_one_by_one(path, pixels) -> None:
    network = load(path)
    logits = network.run(pixels)
    assert (logits.dtype, logits.shape) == (np.float32, (5, 4))
    np.testing.assert_array_equal(logits[3:4], network.run(pixels[3:4]))
    np.testing.assert_array_equal(logits, run(path.read_bytes(), pixels, threads=2))
    assert network.run(pixels[:0]).shape == (0, 4)


def test_network_says_what_it_takes(path) -> None:
    network = load(path)
    assert (network.image_shape, network.quantized) == ((8, 8, 3), True)
    assert network.outputs == (Output("logits", (4,)),)
    assert network.metadata == {"preprocessing": "unit", "classes": 10}


def test_builtin_kernels_are_close(path, pixels) -> None:
    assert np.abs(load(path).run(pixels) - load(path, kernels="builtin").run(pixels)).max() <= 4 * 0.091


def test_images_of_another_shape_are_refused(path) -> None:
    with pytest.raises(UsageError, match=r"Received: \(1, 9, 8, 3\)"):
        load(path).run(np.zeros((1, 9, 8, 3), np.float32))


def test_file_that_the_runtime_refuses(make_small) -> None:
    model = read_model(build_tflite(make_small(4), "litert"))
    model.operatorCodes[0].version = 99
    with pytest.raises(TfmpqError, match="LiteRT has to accept the file"):
        load(write_model(model))


def test_damaged_facts(make_small) -> None:
    model = read_model(build_tflite(make_small(4), "litert"))
    model.buffers[model.metadata[0].buffer].data = np.frombuffer(b"{no json", np.uint8)
    with pytest.raises(TfmpqError, match="facts"):
        load(write_model(model))


def test_inspect_our_file(path, make_small, tmp_path) -> None:
    facts = inspect_file(path)
    document = json.loads(json.dumps(facts.to_json()))
    assert document["form"] == "litert"
    assert document["mean_weight_bits"] == 3.0
    assert [layer["name"] for layer in document["layers"]] == ["conv", "depthwise", "pointwise", "logits"]
    assert [layer["container"] for layer in document["layers"]] == [8, 8, 4, 4]
    assert document["size"] == sum(layer["bytes"] for layer in document["layers"])
    assert document["bytes"] == path.stat().st_size
    assert document["delegate_partitions"] == 1
    assert document["metadata"]["preprocessing"] == "unit"
    (tmp_path / "stored.tflite").write_bytes(build_tflite(make_small(2), "storage"))
    stored = inspect_file(tmp_path / "stored.tflite")
    assert (stored.form, stored.layers[0].decode, stored.layers[0].bytes) == ("storage", "cast", 54 + 64)


def test_float_baseline(pixels, tmp_path) -> None:
    import keras

    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.Conv2D(4, 3),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.GlobalAveragePooling2D(),
            layers.Dense(5),
        ]
    )
    path = tmp_path / "float32.tflite"
    assert export_float(model, path, metadata={"preprocessing": "tf"}) == path.stat().st_size
    network = load(path)
    assert (network.quantized, network.metadata) == (False, {"preprocessing": "tf"})
    assert network.outputs == (Output("output_0", (5,)),)
    np.testing.assert_allclose(network.run(pixels), np.asarray(model(pixels)), atol=1e-5)
    facts = inspect_file(path)
    assert (facts.form, facts.mean_weight_bits) == ("other", None)
    assert [layer.container_bits for layer in facts.layers] == [32, 32]


def test_inspect_damaged_file(path, tmp_path) -> None:
    (tmp_path / "cut.tflite").write_bytes(path.read_bytes()[:700])
    with pytest.raises(TfmpqError, match=r"Received: .*cut\.tflite"):
        inspect_file(tmp_path / "cut.tflite")
