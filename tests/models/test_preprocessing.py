"""What a network's weights expect is told from its layers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

from tfmpq.models import load_model
from tfmpq.models.preprocessing import expected

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

APPLICATIONS = {
    "MobileNet": "tf",
    "MobileNetV2": "tf",
    "MobileNetV3Small": "none",
    "MobileNetV3Large": "none",
    "EfficientNetB0": "none",
    "EfficientNetV2B0": "none",
    "ResNet50": "caffe",
    "ResNet50V2": "tf",
    "VGG16": "caffe",
    "DenseNet121": "torch",
    "InceptionV3": "tf",
    "Xception": "tf",
    "ConvNeXtTiny": "none",
}
FAST = ("MobileNet", "VGG16")


def application(name: str, **options: Any) -> keras.Model:
    build = getattr(keras.applications, name)
    return build(input_shape=(96, 96, 3), weights=None, include_top=False, name="mine", **options)


def begins(*parts: Any) -> keras.Model:
    image = x = keras.Input((16, 16, 3))
    for part in (*parts, layers.Conv2D(4, 3), layers.Flatten(), layers.Dense(3)):
        x = part(x)
    return keras.Model(image, x)


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n in FAST else pytest.mark.slow) for n in APPLICATIONS]
)
def test_networks_of_keras_applications_are_known_by_their_layers(name: str) -> None:
    base = application(name)
    assert expected(base).name == APPLICATIONS[name]
    image = keras.Input((96, 96, 3))
    top = layers.Dense(3)(layers.GlobalAveragePooling2D()(base(layers.RandomFlip()(image))))
    assert expected(keras.Model(image, top)).name == APPLICATIONS[name]


def test_widths_do_not_matter_and_networks_that_do_not_scale_get_what_is_said_of_them() -> None:
    assert expected(application("MobileNet", alpha=0.25)).name == "tf"
    assert expected(application("MobileNetV3Small", include_preprocessing=False)).name == "tf"


def test_a_network_like_one_of_keras_applications_is_another_one() -> None:
    parts = [layers.Conv2D(8, 3, padding="same"), layers.Conv2D(8, 3, padding="same"), layers.MaxPooling2D()]
    assert expected(begins(*parts, *parts[:0])).ground == "guess"


def adapted(mean: float, variance: float, axis: int | None = -1) -> layers.Normalization:
    return layers.Normalization(axis=axis, mean=mean, variance=variance)


@pytest.mark.parametrize(
    "parts",
    [
        [layers.Rescaling(1 / 255)],
        [layers.Rescaling(1 / 127.5, -1)],
        [adapted(120.0, 3600.0)],
        [adapted(120.0, 3600.0, None)],
        [layers.RandomFlip(), layers.RandomRotation(0.1), layers.Rescaling(1 / 255)],
        [layers.Resizing(12, 12), layers.Rescaling(1 / 255)],
        [lambda x: x / 255.0],
        [lambda x: x * (1 / 127.5) - 1.0],
        [lambda x: (x - np.array([123.0, 116.0, 103.0], "float32")) / 58.0],
        [keras.applications.mobilenet_v2.preprocess_input],
        [keras.applications.resnet50.preprocess_input],
        [keras.applications.densenet.preprocess_input],
    ],
)
def test_a_model_that_scales_pixels_gets_pixels(parts: list[Any]) -> None:
    assert (expected(begins(*parts)).name, expected(begins(*parts)).ground) == ("none", "inside")


@pytest.mark.parametrize(
    "parts",
    [
        [],
        [layers.Rescaling(2.0, -1.0)],
        [adapted(0.45, 0.05)],
        [layers.BatchNormalization()],
        [layers.ReLU(), layers.Rescaling(1 / 255)],
    ],
)
def test_where_nothing_tells_the_guess_is_said(parts: list[Any]) -> None:
    found = expected(begins(*parts))
    assert (found.name, found.ground) == ("unit", "guess")
    assert "--preprocess" in found.said


def test_a_file_is_known_whatever_it_is_called(tmp_path: Path) -> None:
    model = keras.applications.MobileNet((32, 32, 3), 0.25, weights=None, classes=3, name="resnet8")
    model.save(tmp_path / "ResNet50.keras")
    loaded = load_model(str(tmp_path / "ResNet50.keras"), input_shape=(32, 32, 3), classes=3)
    assert loaded.preprocessing == "tf"


def test_a_model_with_the_name_of_a_built_in_network_is_not_taken_for_it(tmp_path: Path) -> None:
    image = keras.Input((16, 16, 3), name="image")
    keras.Model(image, layers.Dense(3)(layers.Flatten()(image)), name="resnet20").save(tmp_path / "m.keras")
    loaded = load_model(str(tmp_path / "m.keras"), input_shape=(16, 16, 3), classes=3)
    assert (loaded.preprocessing, loaded.expectation is not None) == ("unit", True)
