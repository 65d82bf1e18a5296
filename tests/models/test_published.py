"""Published weights come from Keras' own downloader and cache, or one line says why not."""

from __future__ import annotations

import importlib
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest
from keras.src.legacy.saving import legacy_h5_format

from tfmpq.errors import TfmpqError, UsageError
from tfmpq.models import load_model

SIDE = 96
IMAGES = np.random.default_rng(0).uniform(0, 255, (2, SIDE, SIDE, 3)).astype("float32")
FILES = {
    "MobileNetV2": "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224.h5",
    "EfficientNetB0": "efficientnetb0.h5",
}


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stands in for Keras' downloader: it finds what lies in a folder, and has no network."""

    def get_file(fname: str, origin: str, **_: object) -> str:
        if not (tmp_path / fname).exists():
            raise OSError(f"URL fetch failure on {origin}: None -- no network")
        return str(tmp_path / fname)

    for module in ("mobilenet_v2", "efficientnet"):
        application = importlib.import_module(f"keras.src.applications.{module}")
        monkeypatch.setattr(application.file_utils, "get_file", get_file)
    return tmp_path


def publish(function: str, folder: Path) -> keras.Model:
    """A network of Keras with other weights than it begins with, saved where the published ones would lie."""
    build = getattr(keras.applications, function)
    model = build(weights=None, classifier_activation=None)
    generator = np.random.default_rng(1)
    for weight in model.weights:
        if weight.dtype == "float32":
            weight.assign(np.asarray(weight) + generator.uniform(0, 0.05, weight.shape))
    with h5py.File(folder / FILES[function], "w") as file:
        legacy_h5_format.save_weights_to_hdf5_group(file, model)
    # As Keras builds it for the published weights, at the size of the test.
    same = build(weights=None, classifier_activation=None, input_shape=(SIDE, SIDE, 3))
    same.set_weights(model.get_weights())
    return same


@pytest.mark.parametrize("spec", ["mobilenet_v2", "keras.applications:MobileNetV2"])
def test_cached_weights_give_the_published_network(cache: Path, spec: str) -> None:
    expected = publish("MobileNetV2", cache)
    loaded = load_model(
        spec, input_shape=(SIDE, SIDE, 3), classes=1000, weights="imagenet", skip_classifier=None
    )
    assert not loaded.new_classifier
    assert loaded.preprocessing == "tf"
    images = IMAGES / 127.5 - 1
    np.testing.assert_allclose(loaded.model(images), expected(images), rtol=1e-4, atol=1e-4)


def test_another_number_of_classes_gets_a_new_classifier(cache: Path) -> None:
    expected = publish("MobileNetV2", cache)
    loaded = load_model(
        "mobilenet_v2", input_shape=(32, 32, 3), classes=10, weights="imagenet", skip_classifier=None
    )
    assert loaded.new_classifier
    kernel = loaded.model.get_layer("block_16_project").get_weights()[0]
    np.testing.assert_array_equal(kernel, expected.get_layer("block_16_project").get_weights()[0])


@pytest.mark.slow
def test_the_factor_that_only_published_efficientnets_have_is_kept(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keras appends a Rescaling to the normalization where it loads published weights."""
    publish("EfficientNetB0", cache)
    published = keras.applications.EfficientNetB0(weights="imagenet", classifier_activation=None)
    loaded = load_model(
        "keras.applications:EfficientNetB0",
        input_shape=(224, 224, 3),
        classes=1000,
        weights="imagenet",
        skip_classifier=None,
    )
    images = np.random.default_rng(0).uniform(0, 255, (1, 224, 224, 3)).astype("float32")
    np.testing.assert_allclose(loaded.model(images), published(images), rtol=1e-3, atol=1e-3)


def test_without_cache_and_network_one_line_names_the_way_out(cache: Path) -> None:
    with pytest.raises(TfmpqError, match="--weights FILE") as caught:
        load_model("mobilenet_v2", input_shape=(32, 32, 3), classes=10, weights="imagenet")
    assert "URL fetch failure" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_damaged_cache_is_one_line(cache: Path) -> None:
    (cache / FILES["MobileNetV2"]).write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    with pytest.raises(TfmpqError, match="delete a damaged file there") as caught:
        load_model("mobilenet_v2", input_shape=(32, 32, 3), classes=10, weights="imagenet")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("spec", "hint"),
    [("resnet20", "Give --weights FILE"), ("resnet50", "Take --model keras.applications:ResNet50")],
)
def test_networks_without_published_weights_are_refused(spec: str, hint: str) -> None:
    with pytest.raises(UsageError, match=hint):
        load_model(spec, input_shape=(32, 32, 3), classes=10, weights="imagenet")
