"""Weights that Keras publishes for the networks of keras.applications, by its own downloader and cache."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from tfmpq.errors import TfmpqError, UsageError
from tfmpq.models.user import name_by_order, one_line
from tfmpq.models.weight_files import LayerArrays

_SAME = {"mobilenet_v2": "MobileNetV2", "vgg16": "VGG16"}
"""Built-in networks with the layers, the padding and the strides of a network of keras.applications."""

_OTHER = {"resnet50": "ResNet50"}
"""Built-in networks of another architecture than the one that Keras publishes under this name."""

_MODULE = "keras.applications"


def published_arrays(spec: str) -> list[LayerArrays]:
    """The published weights of a network, layer by layer in its order.

    Args:
        spec: Built-in name, or `keras.applications:NAME`.

    Raises:
        UsageError: There are none for this network.
        TfmpqError: They are neither cached nor can they be fetched, or the cached file is damaged.
    """
    name = _application(spec)
    try:
        model = getattr(keras.applications, name)(weights="imagenet")
    except Exception as error:  # no network, a damaged file, h5py's own errors: there are many kinds
        raise TfmpqError(
            f"Keras has published weights in its cache (~/.keras/models) or downloads them. Received: {name} "
            f"({one_line(error)}). Connect once, delete a damaged file there, or give --weights FILE."
        ) from error
    name_by_order(model, Counter(), set())
    _fold_rescaling(model)
    return [
        LayerArrays(layer.name, tuple(np.asarray(weight) for weight in layer.weights))
        for layer in model.layers
        if layer.weights
    ]


def _application(spec: str) -> str:
    """The function of keras.applications whose weights fit a network."""
    if spec in _SAME:
        return _SAME[spec]
    if spec in _OTHER:
        raise UsageError(
            f"Published weights are those of the same architecture. Received: imagenet for {spec}, which "
            f"Keras builds otherwise. Take --model {_MODULE}:{_OTHER[spec]}, or give --weights FILE."
        )
    module, _, name = spec.rpartition(":")
    function: Callable[..., Any] | None = getattr(keras.applications, name, None)
    if (module == _MODULE or module.startswith(f"{_MODULE}.")) and callable(function):
        return name
    raise UsageError(
        f"Keras publishes weights for {', '.join(_SAME)} and every {_MODULE}:NAME. Received: imagenet for "
        f"{spec}. Give --weights FILE."
    )


def _fold_rescaling(model: keras.Model) -> None:
    """Give a normalization the factor behind it, which networks without published weights do not have.

    Keras appends it in EfficientNet, whose authors divided by the variance instead of its root.
    """
    for before, layer in zip(model.layers, model.layers[1:], strict=False):
        if isinstance(layer, keras.layers.Rescaling) and isinstance(before, keras.layers.Normalization):
            variance = next(weight for weight in before.weights if weight.name == "variance")
            variance.assign(variance / np.square(np.asarray(layer.scale, np.float32)))
