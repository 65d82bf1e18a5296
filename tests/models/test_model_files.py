"""Whole models in files of Keras 2 and 3: the same function after loading, and one line for the rest."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pytest

from tfmpq.api.inspect import inspect_model
from tfmpq.errors import TfmpqError, UsageError
from tfmpq.models.model_files import read_model
from tfmpq.models.tensorflow_nodes import call_node, parse_node

FORMS = (".h5", ".keras", "")
"""Endings of the forms in which Keras 2 saves; a SavedModel is a folder."""

# tf_keras warns that its own .h5 form is old.
pytestmark = pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file:UserWarning")


@pytest.fixture(scope="module")
def tk() -> Any:
    return pytest.importorskip("tf_keras")


def operations(tk: Any) -> Any:
    """Operations between layers, and names that Keras 3 refuses."""
    import tensorflow as tf

    image = tk.Input((8, 8, 3), name="image")
    x = tk.layers.Conv2D(4, 3, padding="same", name="block/conv", activation="hard_sigmoid")(image / 255.0)
    x = x + tk.layers.DepthwiseConv2D(3, padding="same", name="block/depthwise")(x)
    x = tf.pad(x, [[0, 0], [1, 0], [0, 1], [0, 0]])
    x = tf.concat([tf.nn.relu(x), 1.0 - x], axis=-1)[:, 1:, :8]
    x = tf.clip_by_value(tf.maximum(x, 0.1) * tf.constant([2.0]), 0.0, 3.0)
    x = tf.nn.softmax(tk.layers.Dense(3, name="logits")(tf.reduce_mean(x, [1, 2])))
    return tk.Model(image, x)


def shapes(tk: Any) -> Any:
    """Operations that change shapes."""
    import tensorflow as tf

    image = tk.Input((8, 8, 4), name="image")
    x = tf.image.resize(tf.nn.depth_to_space(image, 2), [12, 12])
    x = tf.reshape(tf.transpose(x, [0, 2, 1, 3]), [-1, 12, 12])
    x = tk.layers.TimeDistributed(tk.layers.Dense(5, activation="tanh"))(x)
    return tk.Model(image, [tk.layers.Flatten()(x), tk.layers.LeakyReLU(0.1)(x)])


def nested(tk: Any) -> Any:
    """Frozen inner models, one of them called twice, which .h5 files hold in another order of weights."""

    def block(name: str) -> Any:
        image = tk.Input((8, 8, 3))
        y = tk.layers.Conv2D(3, 3, padding="same", name="conv")(image)
        y = tk.layers.BatchNormalization(name="bn")(y)
        model = tk.Model(image, y + image, name=name)
        model.trainable = False
        return model

    deeper = tk.Sequential([tk.Input((8, 8, 3)), block("inner"), tk.layers.ReLU(6.0)], name="deeper")
    image = tk.Input((8, 8, 3))
    twice = block("twice")
    x = tk.layers.GlobalAveragePooling2D()(deeper(twice(twice(image))))
    return tk.Model(image, tk.layers.Dense(2, name="logits")(x))


def sequential(tk: Any) -> Any:
    """A Sequential model with layers that do something in training only, and with statistics."""
    layers = tk.layers
    return tk.Sequential(
        [
            layers.Conv2D(4, 3, input_shape=(8, 8, 1)),
            layers.BatchNormalization(),
            layers.RandomFlip(),
            layers.Normalization(axis=None, mean=1.0, variance=2.0),
            layers.Normalization(),
            layers.Activation("hard_sigmoid"),
            layers.Flatten(),
            layers.Dense(2),
        ]
    )


def with_random_weights(model: Any) -> Any:
    """No weight zero or one by chance, variances positive."""
    generator = np.random.default_rng(5)
    for variable in model.weights:
        variable.assign(generator.uniform(0.1, 0.6, variable.shape).astype(variable.dtype.name))
    for layer in model.layers:
        if type(layer).__name__ == "Normalization":
            layer.finalize_state()
    return model


def all_outputs(model: Any, inputs: np.ndarray) -> list[np.ndarray]:
    return [np.asarray(t) for t in keras.tree.flatten(model(inputs, training=False))]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("build", [operations, shapes, nested, sequential])
def test_a_model_of_keras_2_computes_the_same_after_loading(
    tk: Any, build: Callable[[Any], Any], form: str, tmp_path: Path
) -> None:
    model = with_random_weights(build(tk))
    path = tmp_path / f"model{form}"
    model.save(path, **({} if form else {"save_format": "tf"}))
    loaded = read_model(path)
    inputs = np.random.default_rng(0).normal(0, 1, (3, *model.input_shape[1:])).astype(np.float32)
    for found, wanted in zip(all_outputs(loaded, inputs), all_outputs(model, inputs), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6 * np.abs(wanted).max())
    assert not any("/" in layer.name for layer in loaded.operations)


@pytest.mark.parametrize("form", FORMS)
def test_inspection_takes_every_form_of_a_model(tk: Any, form: str, tmp_path: Path) -> None:
    image = tk.Input((8, 8, 3))
    x = tk.layers.DepthwiseConv2D(3, name="depthwise")(image)
    model = tk.Model(image, tk.layers.Dense(3)(tk.layers.Flatten()(x)))
    path = tmp_path / f"model{form}"
    model.save(path, **({} if form else {"save_format": "tf"}))
    facts = inspect_model(str(path))
    assert facts["supported"]
    assert "depthwise" in [row["name"] for row in facts["layers"]]


def test_weights_alone_are_no_model_and_the_error_says_what_to_do(tk: Any, tmp_path: Path) -> None:
    model = tk.Sequential([tk.Input((4,)), tk.layers.Dense(2)])
    model.save_weights(tmp_path / "model.h5")
    with pytest.raises(UsageError, match=r"weights only.*MODULE:FUNCTION with --weights"):
        read_model(tmp_path / "model.h5")
    new = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    new.save_weights(tmp_path / "new.weights.h5")
    with pytest.raises(UsageError, match="weights only"):
        read_model(tmp_path / "new.weights.h5")


def test_a_saved_model_without_layers_is_refused_with_the_way_out(tk: Any, tmp_path: Path) -> None:
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    model.export(tmp_path / "exported", verbose=False)
    with pytest.raises(TfmpqError, match=r"a graph, not layers.*model\.save"):
        read_model(tmp_path / "exported")


def test_a_damaged_saved_model_is_one_line(tk: Any, tmp_path: Path) -> None:
    model = tk.Sequential([tk.Input((4,)), tk.layers.Dense(2)])
    model.save(tmp_path / "whole", save_format="tf")
    (tmp_path / "whole" / "saved_model.pb").write_bytes(b"nothing of that kind")
    with pytest.raises(TfmpqError, match="copied completely"):
        read_model(tmp_path / "whole")
    model.save(tmp_path / "other", save_format="tf")
    shutil.rmtree(tmp_path / "other" / "variables")
    with pytest.raises(TfmpqError, match="copied completely"):
        read_model(tmp_path / "other")


@pytest.mark.parametrize(
    ("kind", "options", "named"),
    [
        ("QConv2D", {"kernel_quantizer": {"class_name": "quantized_bits", "config": {"bits": 4}}}, "bits=4"),
        ("QActivation", {"activation": "quantized_relu(6)"}, r"quantized_relu\(6\)"),
    ],
)
def test_files_of_qkeras_are_refused_and_their_quantizers_named(
    kind: str, options: dict[str, Any], named: str, tmp_path: Path
) -> None:
    config = {"layers": [{"class_name": kind, "config": options | {"name": "q"}}]}
    with h5py.File(tmp_path / "q.h5", "w") as file:
        file.attrs["keras_version"] = "2.11.0"
        file.attrs["model_config"] = json.dumps({"class_name": "Sequential", "config": config})
        file.create_group("model_weights")
    with pytest.raises(TfmpqError, match=rf"QKeras model quantized by .*{named}"):
        read_model(tmp_path / "q.h5")


def test_unknown_layers_and_operations_are_refused_by_name(tk: Any, tmp_path: Path) -> None:
    import tensorflow as tf

    image = tk.Input((8,))
    tk.Model(image, tf.cumsum(image, axis=1)).save(tmp_path / "sum.h5")
    with pytest.raises(TfmpqError, match=r"tf\.(math\.)?cumsum in layer"):
        read_model(tmp_path / "sum.h5")

    class Mine(tk.layers.Dense):
        pass

    tk.Sequential([tk.Input((8,)), Mine(2, name="own")]).save(tmp_path / "own.h5")
    with pytest.raises(TfmpqError, match="own of class Mine"):
        read_model(tmp_path / "own.h5")


def test_nodes_that_older_files_hold_as_layers_are_computed() -> None:
    node = {"op": "StridedSlice", "attr": {"begin_mask": {"i": "1"}, "end_mask": {"i": "3"}}}
    kind, attributes = parse_node(json.dumps(node))
    value = keras.Input((4, 4))
    found = call_node(
        kind, "slice", [value, np.array([0, 1]), np.array([0, 0]), np.array([1, 2])], attributes
    )
    model = keras.Model(value, call_node("AddV2", "sum", [found, np.float32(2.0)], {}))
    given = np.arange(16, dtype=np.float32).reshape(1, 4, 4)
    np.testing.assert_allclose(model(given), given[:, 1::2] + 2.0)
    assert parse_node('name: "a" op: "LeakyRelu" attr { key: "alpha" value { f: 0.5 } }') == (
        "LeakyRelu",
        {"alpha": 0.5},
    )
    with pytest.raises(TfmpqError, match=r"TensorFlow's Cumsum in layer rows"):
        call_node("Cumsum", "rows", [value], {})


@pytest.mark.parametrize("name", ["QuantizeWrapperV2", "QuantizeLayer", "Vitis>QuantizeWrapper"])
def test_a_model_that_tfmot_quantized_is_refused_in_one_line(name: str, tmp_path: Path) -> None:
    import h5py

    inner = {"class_name": "Dense", "config": {"name": "dense", "units": 3}}
    layer = {"class_name": name, "config": {"name": "quant_dense", "layer": inner}}
    config = {"class_name": "Sequential", "config": {"name": "s", "layers": [layer]}}
    with h5py.File(tmp_path / "m.h5", "w") as file:
        file.attrs["keras_version"] = "2.15.0"
        file.attrs["model_config"] = json.dumps(config)
        file.create_group("model_weights")
    with pytest.raises(TfmpqError, match=r"by TensorFlow Model Optimization \(quant_dense\)") as caught:
        read_model(tmp_path / "m.h5")
    assert "\n" not in str(caught.value)
