"""What becomes layers before anything is lowered: operations, functions, layers that are others."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers, ops

from tfmpq.api.given import given_model
from tfmpq.graph.fusion import layer_problems
from tfmpq.graph.lowering import lower
from tfmpq.graph.operations import _AUGMENTATIONS

SHAPE = (8, 12, 4)
RANDOM = np.random.default_rng(7)


def conv(x: Any, filters: int = 4, **options: Any) -> Any:
    return layers.Conv2D(filters, 3, padding="same", **options)(x)


CASES: dict[str, Callable[[Any], Any]] = {
    "maximum of two": lambda x: layers.Maximum()([conv(x), x]),
    "maximum of three": lambda x: layers.Maximum()([conv(x), x, conv(x)]),
    "minimum": lambda x: layers.Minimum()([conv(x), x]),
    "average": lambda x: layers.Average()([conv(x), x, conv(x)]),
    "subtract": lambda x: layers.Subtract()([conv(x), x]),
    "difference": lambda x: conv(x) - x,
    "maximum with a number": lambda x: ops.maximum(conv(x), 0.3),
    "minimum with a number": lambda x: ops.minimum(0.3, conv(x)),
    "clip": lambda x: ops.clip(conv(x), -0.2, 0.7),
    "relu with a bound": lambda x: layers.ReLU(1.0)(conv(x)),
    "elu": lambda x: layers.ELU(0.7)(conv(x)),
    "selu in a layer": lambda x: conv(x, activation="selu"),
    "selu": lambda x: layers.Activation("selu")(conv(x)),
    "tanh": lambda x: ops.tanh(conv(x)),
    "hard tanh": lambda x: layers.Activation("hard_tanh")(conv(x)),
    "square": lambda x: ops.square(conv(x)),
    "power": lambda x: conv(x) ** 2,
    "absolute": lambda x: ops.absolute(conv(x)),
    "negative": lambda x: -conv(x),
    "leaky operation": lambda x: ops.leaky_relu(conv(x), 0.1),
    "means of channels subtracted": lambda x: conv(
        (x - np.array([0.1, 0.2, 0.3, 0.4], np.float32)) / np.array([1.0, 2.0, 0.5, 1.5], np.float32)
    ),
    "normalization of all": lambda x: layers.Normalization(axis=None, mean=0.3, variance=2.0)(conv(x)),
    "mean of images": lambda x: ops.mean(conv(x), axis=(1, 2)),
    "mean of rows": lambda x: ops.mean(conv(x), axis=1),
    "mean of columns": lambda x: ops.mean(conv(x), axis=-2, keepdims=True),
    "largest": lambda x: ops.max(conv(x), axis=(1, 2)),
    "transpose": lambda x: ops.transpose(conv(x), (0, 2, 1, 3)),
    "permute": lambda x: layers.Permute((3, 2, 1))(conv(x)),
    "permute of one pixel": lambda x: layers.Permute((3, 1, 2))(
        ops.mean(conv(x), axis=(1, 2), keepdims=True)
    ),
    "swapped axes": lambda x: ops.swapaxes(conv(x), 1, 3),
    "slices": lambda x: conv(x)[:, 1:, ::2, :3],
    "one column": lambda x: conv(x)[:, :, 3],
    "last channels": lambda x: conv(x)[..., -2:],
    "split and stacked": lambda x: ops.stack(ops.split(conv(x), 2, axis=-1), axis=2),
    "concatenated rows": lambda x: layers.Concatenate(axis=1)([conv(x, activation="relu"), conv(x)]),
    "concatenated operation": lambda x: ops.concatenate([conv(x), conv(x)], axis=-2),
    "padded": lambda x: ops.pad(conv(x), ((0, 0), (1, 0), (0, 2), (0, 0))),
    "depth to space": lambda x: ops.reshape(
        ops.transpose(ops.reshape(conv(x), (-1, 8, 12, 2, 2, 1)), (0, 1, 3, 2, 4, 5)), (-1, 16, 24, 1)
    ),
    "bilinear": lambda x: layers.UpSampling2D((2, 3), interpolation="bilinear")(conv(x)),
    "resized up": lambda x: layers.Resizing(16, 24)(conv(x)),
    "resized up to the nearest": lambda x: layers.Resizing(16, 24, interpolation="nearest")(conv(x)),
    "resized down": lambda x: layers.Resizing(4, 4)(conv(x)),
    "resized down to the nearest": lambda x: layers.Resizing(4, 4, interpolation="nearest")(conv(x)),
    "resized operation": lambda x: ops.image.resize(conv(x), (2, 6)),
    "cropped": lambda x: layers.CenterCrop(5, 6)(conv(x)),
    "randomly cropped to the same size": lambda x: layers.RandomCrop(8, 12)(conv(x)),
    "function of the user's": lambda x: layers.Lambda(lambda t: ops.relu(t * 2.0 - 0.5) / 3.0)(conv(x)),
    "functions of several": lambda x: layers.Lambda(lambda t: t[0] + t[1])([conv(x), x]),
    "pools": lambda x: ops.max_pool(ops.average_pool(conv(x), 2), 2, strides=1, padding="same"),
    "times": lambda x: layers.TimeDistributed(layers.Dense(5, activation="relu"))(
        layers.TimeDistributed(layers.Flatten())(conv(x))
    ),
    "times of an activation": lambda x: layers.TimeDistributed(layers.Dense(5, activation="selu"))(
        layers.Reshape((12, 32))(conv(x))
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_operations_become_layers_that_compute_the_same(case: str) -> None:
    keras.utils.set_random_seed(1)
    image = keras.Input(SHAPE, name="image")
    model = keras.Model(image, CASES[case](image))
    lowered = lower(model)
    assert [(layer.name, why) for layer, why in layer_problems(lowered) if why] == []
    images = RANDOM.normal(0, 1, (3, *SHAPE)).astype(np.float32)
    wanted = np.asarray(model(images, training=False))
    found = np.asarray(lowered(images, training=False)).reshape(wanted.shape)
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5 * np.abs(wanted).max())


def augmentation(kind: Any) -> Any:
    """A layer of that kind, with arguments where it needs some."""
    needed: dict[str, tuple[Any, ...]] = {
        "RandomBrightness": (0.2,),
        "RandomContrast": (0.2,),
        "RandomRotation": (0.2,),
        "RandomTranslation": (0.2, 0.2),
        "RandomZoom": (0.2,),
        "RandomHue": (0.2,),
        "RandomSaturation": (0.2,),
        "RandomSharpness": (0.2,),
        "RandomColorDegeneration": (0.2,),
        "RandomPosterization": (4,),
        "AlphaDropout": (0.2,),
        "SpatialDropout3D": (0.2,),
    }
    options = {"value_range": (0, 255)} if kind.__name__ in ("RandomHue", "RandomSaturation") else {}
    return kind(*needed.get(kind.__name__, ()), **options)


@pytest.mark.parametrize(
    "kind",
    [k for k in _AUGMENTATIONS if k.__name__ not in ("CutMix", "MixUp", "SpatialDropout3D", "AlphaDropout")],
)
def test_augmentation_is_nothing_in_inference(kind: Any) -> None:
    image = keras.Input((8, 8, 3))
    model = keras.Model(image, layers.Conv2D(2, 3)(augmentation(kind)(image)))
    lowered = lower(model)
    assert not any(isinstance(layer, kind) for layer in lowered.layers)
    images = RANDOM.uniform(0, 255, (2, 8, 8, 3)).astype(np.float32)
    wanted = np.asarray(model(images, training=False))
    np.testing.assert_allclose(lowered(images, training=False), wanted, rtol=1e-4, atol=1e-3)


def test_functions_that_do_not_trace_are_refused_by_name() -> None:
    image = keras.Input((4, 4, 3))
    layer = layers.Lambda(lambda x: x * float(x[0, 0, 0, 0]), output_shape=(4, 4, 3), name="odd")
    model = keras.Model(image, layers.Conv2D(2, 3)(layer(image)))
    problems = {layer.name: why for layer, why in layer_problems(lower(model)) if why}
    assert set(problems) == {"odd"}


def test_a_model_object_with_functions_is_stored_without_them(tmp_path: Path) -> None:
    image = keras.Input(SHAPE)
    inner = keras.Sequential([keras.Input(SHAPE), layers.Lambda(lambda x: x / 2.0), layers.Conv2D(3, 3)])
    model = keras.Model(image, layers.Lambda(lambda x: ops.relu(x) + 1.0)(inner(image)))
    given = given_model(model, tmp_path)
    stored = keras.saving.load_model(given.word, safe_mode=True)
    images = RANDOM.normal(0, 1, (2, *SHAPE)).astype(np.float32)
    np.testing.assert_allclose(stored(images), model(images), rtol=1e-5, atol=1e-6)
    assert given_model(model, tmp_path) == given
