"""Which preprocessing a network's weights expect, read from the network and never from its name."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import keras
import numpy as np
from keras import layers

from tfmpq.graph.recognition import is_a
from tfmpq.keras_internals import calls_in_order, calls_of, functional_of, holds_graph, own_operation

Ground = Literal["inside", "architecture", "built-in", "guess"]
"""Why a preprocessing is expected: the network does it itself; its layers are those of a known architecture;
it is a network of this toolchain; or nothing tells."""

GUESS = "unit"
_PREFIX = 8
_WIDEST = 64.0
"""A network that scales pixels of 0 to 255 itself brings them to a range that is not wider than this."""

_FIXED = {
    "3fe2c97264fb": ("ResNet", "caffe"),
    "d6fca86d2b2f": ("VGG", "caffe"),
    "eb953167d05f": ("DenseNet", "torch"),
    "7ed8442e49d7": ("ResNetV2", "tf"),
    "f94a334b7e67": ("Inception", "tf"),
    "e317ebc67ab8": ("Xception", "tf"),
}
"""Architectures of keras.applications, and what their `preprocess_input` does, by `signature` with widths."""

_SCALED = {
    "b3ad477a14c7": ("MobileNet", "tf"),
    "f041c5ff683c": ("MobileNetV2 or MobileNetV3Large", "tf"),
    "7be89f9c5423": ("MobileNetV3Small", "tf"),
    "2d26ff13140c": ("NASNet", "tf"),
    "1e15a74cde1f": ("EfficientNetV2", "tf"),
    "0d4ab7408711": ("EfficientNetV2", "tf"),
}
"""The same of those that come in several widths, without the widths. Those that can scale pixels themselves
are here for the case that they were built with include_preprocessing=False."""


@dataclass(frozen=True, slots=True)
class Expected:
    """A preprocessing, and why.

    Attributes:
        name: Its name.
        ground: Why.
        said: One line for the user; empty where there is nothing to say.
    """

    name: str
    ground: Ground
    said: str


def expected(model: Any) -> Expected:
    """What the weights of a user's model expect.

    Args:
        model: Functional model.
    """
    if _scales_pixels(model):
        return Expected("none", "inside", "Pixels of 0 to 255 go in as they are: it scales them itself.")
    for table, widths in ((_FIXED, True), (_SCALED, False)):
        known = table.get(signature(model, widths))
        if known is not None:
            name, preprocessing = known
            said = f"Preprocessing {preprocessing}: the layers are those of {name} of keras.applications."
            return Expected(preprocessing, "architecture", said)
    said = (
        f"Nothing in the model tells how pixels become its inputs: {GUESS} is taken (0 to 1). "
        "Give --preprocess to say it."
    )
    return Expected(GUESS, "guess", said)


def signature(model: Any, widths: bool) -> str:
    """Hash of the first layers that have weights or pool.

    Args:
        model: Functional model.
        widths: Whether numbers of filters count.
    """
    found = []
    for operation in _operations(model):
        told = _told(operation, widths)
        if told is not None:
            found.append(told)
        if len(found) == _PREFIX:
            return hashlib.sha256(repr(found).encode()).hexdigest()[:12]
    return ""


def _told(operation: Any, widths: bool) -> tuple[Any, ...] | None:
    if is_a(operation, layers.BatchNormalization):
        return ("norm", round(float(operation.epsilon), 9), operation.scale, operation.center)
    if is_a(operation, layers.MaxPooling2D):
        return ("pool", tuple(operation.pool_size), tuple(operation.strides))
    if not is_a(operation, layers.Conv2D, layers.DepthwiseConv2D, layers.SeparableConv2D):
        return None
    kind = next(
        name
        for name, known in (
            ("conv", layers.Conv2D),
            ("depthwise", layers.DepthwiseConv2D),
            ("separable", layers.SeparableConv2D),
        )
        if is_a(operation, known)
    )
    filters = operation.filters if widths and kind != "depthwise" else None
    return (kind, tuple(operation.kernel_size), tuple(operation.strides), bool(operation.use_bias), filters)


def _scales_pixels(model: Any) -> bool:
    """Whether a model begins by scaling or shifting its input, so that pixels of 0 to 255 become small."""
    low, high, scaled = np.zeros(()), np.full((), 255.0), False
    for operation in _operations(model):
        step = _step(operation)
        if step is None:
            if scaled or not _passes(operation):
                break
            continue
        scaled = True
        factor, offset = step
        low, high = low * factor + offset, high * factor + offset
    # Means that are taken off, as for the networks of Caffe, leave the range as wide as it was.
    shifted = scaled and bool(np.all(low < -64))
    return scaled and (shifted or float(np.max(np.abs(high - low))) <= _WIDEST)


def _step(operation: Any) -> tuple[np.ndarray, np.ndarray] | None:
    """Factor and offset of a layer or operation that scales; None for any other."""
    if is_a(operation, layers.Rescaling):
        return np.asarray(operation.scale, np.float64), np.asarray(operation.offset, np.float64)
    if is_a(operation, layers.Normalization) and not operation.invert:
        deviation = np.sqrt(np.asarray(operation.variance, np.float64)).reshape(-1)
        deviation = np.maximum(deviation, keras.config.epsilon())
        return 1 / deviation, -np.asarray(operation.mean, np.float64).reshape(-1) / deviation
    name = own_operation(operation)
    if name not in ("Add", "Subtract", "Multiply", "Divide", "TrueDivide"):
        return None
    arguments = calls_of(operation)[0].arguments.args
    constants = [x for x in arguments if not isinstance(x, keras.KerasTensor)]
    if len(arguments) != 2 or len(constants) != 1 or isinstance(arguments[1], keras.KerasTensor):
        return None
    value, one, zero = np.asarray(constants[0], np.float64).reshape(-1), np.ones(()), np.zeros(())
    return {
        "Add": (one, value),
        "Subtract": (one, -value),
        "Multiply": (value, zero),
    }.get(name, (1 / value, zero))


def _passes(operation: Any) -> bool:
    """Whether pixels go through an operation as they are: what resizes, cuts, turns or mirrors images."""
    kept = (
        *(layers.InputLayer, layers.Resizing, layers.CenterCrop, layers.Cropping2D, layers.Reshape),
        *(layers.Identity, layers.Dropout, layers.GaussianNoise, layers.Permute),
    )
    if is_a(operation, *kept) or own_operation(operation) in ("GetItem", "Stack"):
        return True
    own = getattr(layers, type(operation).__name__, None) is type(operation)
    return own and type(operation).__name__.startswith("Random")


def _operations(model: Any) -> Iterator[Any]:
    """Operations of a model and of those nested in it, in order."""
    for node in calls_in_order(functional_of(model)):
        if holds_graph(node.operation):
            yield from _operations(node.operation)
        else:
            yield node.operation
