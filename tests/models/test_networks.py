"""The built-in networks against published counts, published names and independent arithmetic."""

from __future__ import annotations

import re

import keras
import numpy as np
import pytest
from scipy.signal import correlate2d

from tfmpq.errors import UsageError
from tfmpq.graph.shortcut import PadShortcut
from tfmpq.models import load_model, model_names
from tfmpq.models.blocks import convolution

SUPPORTED = {
    "InputLayer",
    "Conv2D",
    "DepthwiseConv2D",
    "Dense",
    "BatchNormalization",
    "ReLU",
    "Add",
    "MaxPooling2D",
    "GlobalAveragePooling2D",
    "ZeroPadding2D",
    "Flatten",
    "PadShortcut",
}


@pytest.fixture
def zeros(monkeypatch) -> None:
    """Initialise with zeros where only shapes matter: random numbers for VGG-16 take seconds."""
    monkeypatch.setattr(
        keras.initializers.VarianceScaling,
        "__call__",
        lambda self, shape, dtype=None: np.zeros(shape, "float32"),
    )


def build(name: str, side: int, classes: int) -> keras.Model:
    return load_model(name, input_shape=(side, side, 3), classes=classes).model


def trainable(model: keras.Model) -> int:
    return sum(int(np.prod(v.shape)) for v in model.trainable_variables)


def macs(model: keras.Model) -> list[int]:
    """Multiplications of each layer with weights: kernel elements times output positions."""
    counts = []
    for layer in model.layers:
        if isinstance(layer, keras.layers.Dense):
            counts.append(int(np.prod(layer.kernel.shape)))
        elif hasattr(layer, "kernel"):
            counts.append(int(np.prod(layer.kernel.shape)) * int(np.prod(layer.output.shape[1:3])))
    return counts


def first_middle_last(model: keras.Model) -> tuple[int, int, int]:
    counts = macs(model)
    return counts[0], sum(counts[1:-1]), counts[-1]


# Parameters without moving statistics as torchvision and keras.applications state them, and MACs of the
# first, all middle and the last layer as the BOPs of SAQ (arXiv 2111.12273) imply them.
PUBLISHED = [
    ("resnet20", 32, 10, 269_722, None),
    ("resnet20_projection", 32, 100, None, (442_368, 40_370_176, 6_400)),
    ("resnet18", 224, 1000, 11_689_512, (118_013_952, 1_695_547_392, 512_000)),
    ("resnet50", 224, 1000, 25_557_032, (118_013_952, 3_969_122_304, 2_048_000)),
    ("mobilenet_v2", 224, 1000, 3_504_872, (10_838_016, 288_656_256, 1_280_000)),
    ("vgg16", 224, 1000, 138_357_544, (86_704_128, 15_379_464_192, 4_096_000)),
]


@pytest.mark.usefixtures("zeros")
@pytest.mark.parametrize(("name", "side", "classes", "parameters", "counts"), PUBLISHED)
def test_counts_are_the_published_ones(
    name: str, side: int, classes: int, parameters: int | None, counts: tuple[int, int, int] | None
) -> None:
    model = build(name, side, classes)
    if parameters is not None:
        assert trainable(model) == parameters
    if counts is not None:
        assert first_middle_last(model) == counts


def test_resnet8_has_the_parameters_of_mlperf_tiny() -> None:
    model = build("resnet8", 32, 10)
    assert model.count_params() == 78_666
    assert sum(macs(model)) == 12_501_632


OTHERS = ("vgg16", "vit_tiny", "deit_tiny", "vit_s16", "vit_b16", "vit_cifar", "convnext_tiny")
"""Networks with another head for small images, and transformers, whose position embedding is for one size."""


@pytest.mark.usefixtures("zeros")
@pytest.mark.parametrize("name", [name for name in model_names() if name not in OTHERS])
def test_topology_is_one_for_small_and_large_images(name: str) -> None:
    small, large = build(name, 32, 10), build(name, 224, 10)
    shapes = [
        {f"{layer.name}/{v.name}": tuple(v.shape) for layer in m.layers for v in layer.weights}
        for m in (small, large)
    ]
    assert shapes[0] == shapes[1]
    for model in (small, large):
        assert {type(layer).__name__ for layer in model.layers} <= SUPPORTED
        assert getattr(model.layers[-1].activation, "__name__", "") == "linear"


@pytest.mark.usefixtures("zeros")
def test_vgg16_keeps_its_names_when_the_head_shrinks() -> None:
    small = build("vgg16", 32, 10)
    published = keras.applications.VGG16(weights=None, input_shape=(32, 32, 3), include_top=False)
    ours = [layer.name for layer in small.layers if layer.weights]
    assert ours == [layer.name for layer in published.layers if layer.weights] + ["fc1", "fc2", "predictions"]
    assert build("vgg16", 16, 10).output_shape == (None, 10)


@pytest.mark.parametrize("side", [96, 97])
def test_mobilenet_v2_computes_what_keras_applications_does(side: int) -> None:
    published = keras.applications.MobileNetV2(
        weights=None, classifier_activation=None, input_shape=(side, side, 3), classes=7
    )
    ours = build("mobilenet_v2", side, 7)
    # Keras numbers the pooling, which has no name of its own, by what the process has made before.
    assert [layer.name for layer in ours.layers[1:]] == [
        re.sub("(?<=global_average_pooling2d)_[0-9]+$", "", layer.name) for layer in published.layers[1:]
    ]
    ours.set_weights(published.get_weights())
    image = np.random.default_rng(0).uniform(-1, 1, (1, side, side, 3)).astype(np.float32)
    np.testing.assert_allclose(ours(image), published(image), atol=1e-6)


@pytest.mark.parametrize("kernel", [3, 7])
@pytest.mark.parametrize("strides", [1, 2])
def test_convolution_pads_symmetrically(kernel: int, strides: int) -> None:
    image = np.random.default_rng(1).normal(size=(10, 10)).astype(np.float32)
    inputs = keras.Input((10, 10, 1))
    model = keras.Model(inputs, convolution(inputs, 1, kernel, "c", strides=strides))
    expected = correlate2d(image, model.get_layer("c").kernel.numpy()[:, :, 0, 0], mode="same")
    np.testing.assert_allclose(
        model(image[None, ..., None])[0, ..., 0], expected[::strides, ::strides], atol=1e-5
    )


def test_padded_shortcut_subsamples_and_appends_zeros() -> None:
    image = np.random.default_rng(2).normal(size=(2, 5, 6, 4)).astype(np.float32)
    layer = PadShortcut(8, 2)
    result = np.asarray(layer(image))
    assert result.shape == layer.compute_output_shape((2, 5, 6, 4)) == (2, 3, 3, 8)
    np.testing.assert_array_equal(result[..., 2:6], image[:, ::2, ::2])
    assert not result[..., :2].any()
    assert not result[..., 6:].any()


def test_padded_shortcut_refuses_an_odd_number_of_channels() -> None:
    with pytest.raises(UsageError, match="even number of channels"):
        PadShortcut(7, 2)(np.zeros((1, 4, 4, 4), np.float32))


@pytest.mark.usefixtures("zeros")
@pytest.mark.parametrize("name", ["resnet8", "resnet20", "mobilenet_v2"])
def test_small_images_of_other_shapes_go_through(name: str) -> None:
    model = load_model(name, input_shape=(16, 12, 1), classes=3).model
    assert model(np.zeros((1, 16, 12, 1), np.float32)).shape == (1, 3)
