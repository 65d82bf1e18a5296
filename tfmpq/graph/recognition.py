"""Recognition of Keras' own layers and functions: by identity, never by name.

A class of the user's that is called `Dense`, or a function called `relu`, may compute anything. Here a layer
is one of Keras' if its class is the very class of `keras.layers`, and a function if it is the very object.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Any

import keras
from keras import activations, ops

from tfmpq.graph.activations import gelu_tanh
from tfmpq.quantizers.wrapper import inner

LINEAR = "linear"

_FUNCTIONS: dict[str, tuple[Callable[..., Any], ...]] = {
    LINEAR: (activations.linear,),
    "relu": (activations.relu, ops.relu),
    "relu6": (activations.relu6, ops.relu6),
    "sigmoid": (activations.sigmoid, ops.sigmoid),
    "hard_sigmoid": (activations.hard_sigmoid, ops.hard_sigmoid),
    "silu": (activations.silu, ops.silu),
    "hard_silu": (activations.hard_silu, ops.hard_silu),
    "leaky_relu": (activations.leaky_relu, ops.leaky_relu),
    "gelu": (activations.gelu,),
    # The two functions of Keras differ in their default.
    "gelu_tanh": (gelu_tanh, ops.gelu),
    "softmax": (activations.softmax, ops.softmax),
    "tanh": (activations.tanh, ops.tanh),
    "elu": (activations.elu, ops.elu),
    "selu": (activations.selu, ops.selu),
    "hard_tanh": (activations.hard_tanh, ops.hard_tanh),
}
"""Functions of Keras by the name of what they compute when they are called with a tensor alone."""

_OF_TENSORFLOW = {
    "identity": LINEAR,
    "nn.relu": "relu",
    "nn.relu6": "relu6",
    "nn.sigmoid": "sigmoid",
    "nn.silu": "silu",
    "nn.leaky_relu": "leaky_relu",
    "nn.gelu": "gelu",
    "nn.softmax": "softmax",
    "nn.tanh": "tanh",
    "nn.elu": "elu",
    "nn.selu": "selu",
}
"""The same of TensorFlow, which models are written with as well."""


def is_a(layer: Any, *classes: type) -> bool:
    """Whether a layer, which may be wrapped, is of one of these very classes, and of no class derived."""
    return type(inner(layer)) in classes


def class_name(layer: Any) -> str:
    """Name of a layer's class, unwrapped: to be shown, not to be compared."""
    return type(inner(layer)).__name__


def is_kerass_own(layer: Any) -> bool:
    """Whether the class of a layer, or of a nested model, is one of Keras."""
    kind = type(inner(layer))
    return any(getattr(module, kind.__name__, None) is kind for module in (keras.layers, keras))


def known_function(function: Any) -> str | None:
    """Name of what a function computes if it is one of Keras' or TensorFlow's; None for any other."""
    if function is None:
        return LINEAR
    return next((name for known, name in _known_functions() if known is function), None)


def function_name(layer: Any) -> str:
    """What a layer applies to its result: `known_function`, or a description of what it is instead."""
    function = getattr(inner(layer), "activation", None)
    name = known_function(function)
    if name is not None:
        return name
    if isinstance(function, keras.layers.Layer):
        return f"layer {class_name(function)}"
    shown = getattr(function, "__name__", type(function).__name__)
    own = getattr(activations, shown, None) is function
    return shown if own else f"{shown}, a function that is not Keras' own"


def canonical_function(function: Any) -> Any:
    """A known function as Keras writes it down; any other as it is."""
    name = known_function(function)
    return function if name is None else gelu_tanh if name == "gelu_tanh" else name


def _known_functions() -> Iterator[tuple[Any, str]]:
    for name, functions in _FUNCTIONS.items():
        yield from ((function, name) for function in functions)
    tensorflow = sys.modules.get("tensorflow")
    for path, name in _OF_TENSORFLOW.items() if tensorflow is not None else ():
        found: Any = tensorflow
        for part in path.split("."):
            found = getattr(found, part, None)
        if found is not None:
            yield found, name
