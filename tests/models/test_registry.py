"""Every form of a model specification, and what is refused."""

from __future__ import annotations

import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from scipy.special import softmax

from tfmpq.data import load_dataset
from tfmpq.errors import TfmpqError, UsageError
from tfmpq.models import load_model, model_names
from tfmpq.models.own_code import allow_code
from tfmpq.models.user import as_classifier
from tfmpq.tasks.fitting import chosen_preprocessing

# Saving in Keras converts variables in a way that NumPy 2 has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

SHAPE = (8, 8, 3)
IMAGES = np.random.default_rng(0).normal(size=(2, *SHAPE)).astype(np.float32)


def classifier(end: str, classes: int = 4) -> keras.Model:
    inputs = keras.Input(SHAPE)
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(3, 3)(inputs))
    x = keras.layers.Dense(classes, activation="softmax" if end == "dense" else None)(x)
    if end == "activation":
        x = keras.layers.Activation("softmax")(x)
    if end == "layer":
        x = keras.layers.Softmax()(x)
    return keras.Model(inputs, x, name="mine")


@pytest.mark.parametrize("end", ["dense", "activation", "layer", "logits"])
def test_a_final_softmax_is_taken_off_and_noted(end: str, tmp_path: Path) -> None:
    model = classifier(end)
    expected = np.asarray(model(IMAGES))
    model.save(tmp_path / "m.keras")
    loaded = load_model(str(tmp_path / "m.keras"), input_shape=SHAPE, classes=4)
    logits = np.asarray(loaded.model(IMAGES))
    assert loaded.stripped_softmax == (end != "logits")
    np.testing.assert_allclose(softmax(logits, 1) if loaded.stripped_softmax else logits, expected, atol=1e-6)
    assert (loaded.name, loaded.classes, loaded.preprocessing) == ("m", 4, "unit")


def test_files_keep_their_input_shape_and_may_have_more_classes(tmp_path: Path) -> None:
    classifier("logits").save(tmp_path / "m.keras")
    loaded = load_model(str(tmp_path / "m.keras"), input_shape=(32, 32, 3), classes=3)
    assert (loaded.input_shape, loaded.classes) == (SHAPE, 4)
    with pytest.raises(UsageError, match="4 outputs for 5 classes"):
        load_model(str(tmp_path / "m.keras"), input_shape=SHAPE, classes=5)


@pytest.mark.parametrize("name", ["resnet20", "resnet8"])
def test_a_saved_network_remembers_its_preprocessing(name: str, tmp_path: Path) -> None:
    built = load_model(name, input_shape=SHAPE, classes=4)
    built.model.save(tmp_path / "m.keras")
    loaded = load_model(str(tmp_path / "m.keras"), input_shape=SHAPE, classes=4)
    assert loaded.preprocessing == built.preprocessing
    np.testing.assert_array_equal(loaded.model(IMAGES), built.model(IMAGES))


def test_weights_are_loaded_with_the_model(tmp_path: Path) -> None:
    source = load_model("resnet8", input_shape=SHAPE, classes=4).model
    source.save_weights(tmp_path / "w.weights.h5")
    for weights in (tmp_path / "w.weights.h5", str(tmp_path / "w.weights.h5")):
        loaded = load_model("resnet8", input_shape=SHAPE, classes=4, weights=weights).model
        np.testing.assert_array_equal(loaded(IMAGES), source(IMAGES))
    load_model("resnet8", input_shape=SHAPE, classes=4, weights="none")


def test_unknown_names_are_met_with_the_nearest() -> None:
    with pytest.raises(UsageError, match="Did you mean mobilenet_v2"):
        load_model("mobilenetv2", input_shape=SHAPE, classes=4)
    with pytest.raises(UsageError, match=", ".join(model_names())):
        load_model("zzz", input_shape=SHAPE, classes=4)


def test_functions_get_the_arguments_that_they_take(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_networks.py").write_text(
        "import keras\n"
        "def sequential(classes):\n"
        "    last = keras.layers.Dense(classes, activation='softmax')\n"
        "    return keras.Sequential([keras.layers.Flatten(), last])\n"
        "def fails():\n    raise RuntimeError('first line\\nsecond line')\n"
        "def nothing():\n    return 3\n"
        "value = 3\n"
    )
    before = list(sys.path)
    loaded = load_model("my_networks:sequential", input_shape=SHAPE, classes=6)
    assert loaded.stripped_softmax
    assert loaded.name == "sequential"
    assert loaded.model(IMAGES).shape == (2, 6)
    with pytest.raises(TfmpqError, match=r"raised RuntimeError: first line\. Correct"):
        load_model("my_networks:fails", input_shape=SHAPE, classes=6)
    with pytest.raises(UsageError, match="Received: int"):
        load_model("my_networks:nothing", input_shape=SHAPE, classes=6)
    for spec in ("my_networks:value", "my_networks:missing", "no_such_module:f"):
        with pytest.raises(UsageError, match="must name"):
            load_model(spec, input_shape=SHAPE, classes=6)
    assert sys.path == before


def test_keras_applications_are_reached_as_functions() -> None:
    loaded = load_model("keras.applications:MobileNetV2", input_shape=(32, 32, 3), classes=5)
    assert (loaded.preprocessing, loaded.classes, loaded.input_shape) == ("tf", 5, (32, 32, 3))
    assert not loaded.stripped_softmax


def test_models_of_other_forms_are_refused(tmp_path: Path) -> None:
    inputs = keras.Input(SHAPE)
    flat = keras.layers.Flatten()(inputs)
    models = {
        "two outputs": keras.Model(inputs, [flat, keras.layers.Dense(4)(flat)]),
    }
    open_inputs = keras.Input((None, None, 3))
    models["open size"] = keras.Model(open_inputs, keras.layers.GlobalAveragePooling2D()(open_inputs))
    for name, model in models.items():
        model.save(tmp_path / f"{name}.keras")
        with pytest.raises(UsageError, match="A model must"):
            load_model(str(tmp_path / f"{name}.keras"), input_shape=SHAPE, classes=4)


@pytest.mark.parametrize("ending", [".keras", ".h5"])
def test_files_with_code_or_damage_are_one_line(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"m{ending}"
    inputs = keras.Input(SHAPE)
    keras.Model(inputs, keras.layers.Lambda(lambda x: x, output_shape=SHAPE)(inputs)).save(path)
    with pytest.raises(TfmpqError, match="without running code that it brings"):
        load_model(str(path), input_shape=SHAPE, classes=4)
    with allow_code():
        model = load_model(str(path), input_shape=SHAPE, classes=4, several_outputs=True).model
    assert not any(isinstance(layer, keras.layers.Lambda) for layer in model.layers)
    path.write_bytes(path.read_bytes()[:700])
    with pytest.raises(TfmpqError, match="copied completely") as caught:
        load_model(str(path), input_shape=SHAPE, classes=4)
    assert "\n" not in str(caught.value)
    with pytest.raises(TfmpqError, match="must exist"):
        load_model(str(tmp_path / f"none{ending}"), input_shape=SHAPE, classes=4)


def test_a_sequential_model_without_an_input_takes_that_of_the_data(tmp_path, monkeypatch) -> None:
    (tmp_path / "unbuilt.py").write_text(
        "from keras import Sequential, layers as l\n"
        "def signals(classes):\n"
        "    return Sequential([l.Conv1D(4, 3), l.GlobalAveragePooling1D(), l.Dense(classes)])\n"
        "def images(classes):\n"
        "    return Sequential([l.Conv2D(4, 3), l.GlobalAveragePooling2D(), l.Dense(classes)])\n"
    )
    monkeypatch.chdir(tmp_path)
    assert load_model("unbuilt:signals", input_shape=(1, 16, 5), classes=3).input_shape == (1, 16, 5)
    assert load_model("unbuilt:images", input_shape=(8, 8, 3), classes=3).input_shape == (8, 8, 3)
    with pytest.raises(UsageError, match=r"Begin it with keras\.Input"):
        load_model("unbuilt:signals", input_shape=(8, 8, 3), classes=3)


def test_a_model_of_whole_numbers_takes_pixels_as_they_are(tmp_path: Path) -> None:
    image = keras.Input(SHAPE, dtype="uint8")
    x = keras.layers.Conv2D(3, 3)(keras.layers.Rescaling(1 / 255.0)(image))
    keras.Model(image, keras.layers.Dense(10)(keras.layers.Flatten()(x))).save(tmp_path / "m.keras")
    loaded = load_model(str(tmp_path / "m.keras"), input_shape=SHAPE, classes=0)
    assert (loaded.preprocessing, loaded.takes_integers) == ("none", True)
    with pytest.raises(UsageError, match="takes pixels as they are"):
        chosen_preprocessing(load_dataset("digits"), loaded, "unit")
    assert chosen_preprocessing(load_dataset("digits"), loaded, None) == "none"


def test_a_softmax_before_layers_of_shape_and_in_nested_models_is_taken_off() -> None:
    image = keras.Input(SHAPE)
    x = keras.layers.Conv2D(4, 1)(keras.layers.GlobalAveragePooling2D(keepdims=True)(image))
    inner = keras.Model(
        image, [keras.layers.Reshape((4,))(keras.layers.Softmax()(x)), keras.layers.Flatten()(x)]
    )
    outer = keras.Input(SHAPE)
    first, second = inner(keras.layers.Rescaling(0.5)(outer))
    model = keras.Model(outer, [keras.layers.Dropout(0.1)(first), second])
    expected = [np.asarray(t) for t in model(IMAGES, training=False)]
    source, made, stripped = as_classifier(model, SHAPE, several_outputs=True)
    found = [np.asarray(t) for t in made(IMAGES, training=False)]
    assert source is model
    assert stripped == (True, False)
    np.testing.assert_allclose(softmax(found[0], 1), expected[0], atol=1e-6)
    np.testing.assert_allclose(found[1], expected[1], atol=1e-6)
