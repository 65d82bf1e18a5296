"""What Keras keeps under private names and this toolchain reads; no other file uses these names.

The graph of a functional model has no public reading: which operation made a tensor, and in which order calls
happened. The names have been the same from Keras 3.8 on (`tests/test_keras_internals.py` tries each);
`tf_keras`, which TFMOT uses, has those of the graph too.
"""

from __future__ import annotations

import copy
import sys
from typing import Any


def operation_of(tensor: Any) -> Any:
    """The layer or operation that made a symbolic tensor; None for anything that is not symbolic."""
    history = getattr(tensor, "_keras_history", None)
    return None if history is None else history[0]


def calls_of(operation: Any) -> list[Any]:
    """All calls of a layer or operation on symbolic tensors, in any graph; each has `input_tensors`."""
    return list(operation._inbound_nodes)


def call_of(tensor: Any) -> Any:
    """The call that made a symbolic tensor."""
    operation, index = tensor._keras_history[:2]
    return operation._inbound_nodes[index]


def readers_of(operation: Any) -> list[Any]:
    """The operations that have been called with what a layer or operation made, in any graph."""
    return [call.operation for call in operation._outbound_nodes]


def functional_of(model: Any) -> Any:
    """The functional graph of a model: a built `Sequential` holds one, others are their own."""
    return getattr(model, "_functional", None) or model


def is_functional(model: Any) -> bool:
    """Whether a model is a functional graph itself."""
    return hasattr(model, "_nodes_by_depth")


def holds_graph(operation: Any) -> bool:
    """Whether a layer is a nested model whose graph can be read: functional, or a built `Sequential`."""
    return is_functional(functional_of(operation))


def calls_in_order(graph: Any) -> list[Any]:
    """The calls that make up a functional graph, in an order in which they can be made."""
    by_depth = graph._nodes_by_depth
    return [call for depth in sorted(by_depth, reverse=True) for call in by_depth[depth]]


def all_layers(model: Any) -> list[Any]:
    """The layers of a model and of the models in it."""
    return list(model._flatten_layers(include_self=False))


def uncalled(operation: Any) -> Any:
    """A copy of an operation that is no layer, which has not been called yet."""
    made = copy.copy(operation)
    made._inbound_nodes, made._outbound_nodes = [], []
    return made


def trained_by(optimizer: Any) -> list[Any]:
    """The variables that an optimizer was built for, in order."""
    return list(optimizer._trainable_variables)


def takes_training(layer: Any) -> bool:
    """Whether a layer's `call` has an argument `training`."""
    return bool(layer._call_has_training_arg)


def shape_at_build(layer: Any) -> Any:
    """The input shape with which a `tf_keras` layer was built outside a graph."""
    return layer._build_input_shape


def own_operation(operation: Any) -> str | None:
    """Name of an operation of Keras that is no layer, such as `Add` or `ReLU`; None for any other."""
    kind = type(operation)
    own = kind.__module__.startswith(("keras.src.ops.", "keras.src.activations."))
    module = sys.modules.get(kind.__module__) if own else None
    return kind.__name__ if getattr(module, kind.__name__, None) is kind else None
