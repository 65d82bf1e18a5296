"""Builds a functional model again, call by call, so that some of its layers can become others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from tfmpq.graph.layers import KINDS, is_transparent
from tfmpq.keras_internals import calls_in_order, functional_of, holds_graph, uncalled

_COPIED = frozenset({*KINDS, "Activation", "Softmax", "Normalization"})


class Replay:
    """One rebuilding of one model; layers are copied, with their weights.

    Nested models are flattened, and a layer that is called several times becomes one layer for each call
    (with the same weights to begin with, trained apart).

    Attributes:
        changed: Whether the new model is another one than the old.
    """

    def __init__(self, taken: Sequence[str]) -> None:
        self.changed = False
        self._names: set[str] = set(taken)

    def replay(self, model: Any, tensors: Sequence[Any]) -> list[Any]:
        """Build the graph of a model again on other tensors; returns its outputs."""
        graph = functional_of(model)
        values = {id(old): new for old, new in zip(graph.inputs, tensors, strict=True)}
        nodes = calls_in_order(graph)
        self.begin(graph, nodes)
        for node in nodes:
            if not node.is_input:
                args, kwargs = node.arguments.fill_in(values)
                if holds_graph(node.operation):
                    self.changed = True
                    made = self.replay(node.operation, keras.tree.flatten(args))
                else:
                    made = self.outputs(node, values, args, kwargs)
                values.update(zip(map(id, node.outputs), made, strict=True))
        return [values[id(tensor)] for tensor in graph.outputs]

    def begin(self, graph: Any, nodes: Sequence[Any]) -> None:
        """Look at a graph before it is built again."""

    def outputs(
        self, node: Any, values: dict[int, Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> list[Any]:
        """Build one call again.

        Args:
            node: The call in the old graph.
            values: New tensors by the id of the old ones.
            args: Arguments of the call with new tensors.
            kwargs: As `args`.
        """
        return self.copied(node.operation, args, kwargs)

    def copied(self, operation: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any]:
        """Call a copy of a layer with its weights; layers that will be refused are called themselves."""
        kwargs.pop("mask", None)  # the functional graph records an empty one
        known = type(operation).__name__ in _COPIED or is_transparent(operation)
        if not isinstance(operation, keras.layers.Layer):
            operation = uncalled(operation)
        if not known or not isinstance(operation, keras.layers.Layer):
            return keras.tree.flatten(operation(*args, **kwargs))
        name = self.name(operation.name)
        self.changed |= name != operation.name
        copy = type(operation).from_config(operation.get_config() | {"name": name, "dtype": "float32"})
        outputs = keras.tree.flatten(copy(*args, **kwargs))
        if operation.weights:
            copy.set_weights(operation.get_weights())
        return outputs

    def name(self, wanted: str) -> str:
        """A name that no layer of the new model has."""
        found, number = wanted, 1
        while found in self._names:
            number += 1
            found = f"{wanted}_{number}"
        self._names.add(found)
        return found

    def call(
        self, kind: Any, name: str, inputs: Any, weights: Sequence[np.ndarray] = (), **options: Any
    ) -> Any:
        """Make a layer, call it, and give it weights."""
        layer = kind(name=self.name(name), **options)
        outputs = layer(inputs)
        if weights:
            layer.set_weights(list(weights))
        return outputs


def bare(outputs: Sequence[Any]) -> Any:
    """The outputs of a model: a single one without the list."""
    return outputs[0] if len(outputs) == 1 else list(outputs)
