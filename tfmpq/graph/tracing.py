"""Functions of the user's, as models of Keras' operations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras


def traced_function(layer: Any, inputs: Any) -> keras.Model | None:
    """The function of a Lambda layer as a model of operations.

    Args:
        layer: Lambda layer, whose function may use `keras.ops` and operators.
        inputs: What it is called with, a symbolic tensor or several.

    Returns:
        A model of the same inputs; None if the function is not made of Keras' operations.
    """
    return traced(lambda copies: layer.function(copies, **(layer.arguments or {})), inputs)


def traced(function: Callable[[Any], Any], inputs: Any) -> keras.Model | None:
    """A function of the user's as a model of operations.

    Args:
        function: It may use `keras.ops` and operators.
        inputs: What it is called with, a symbolic tensor or several.

    Returns:
        A model of the same inputs; None if the function is not made of Keras' operations.
    """
    copies = keras.tree.map_structure(lambda t: keras.Input(t.shape[1:], dtype=t.dtype), inputs)
    try:
        return keras.Model(keras.tree.flatten(copies), function(copies))
    except Exception:  # code of the user's, which may need numbers, or tensors of another library
        return None
