"""Rewrites a model into layers that a deployed network has operators for; what it computes stays the same.

Nested models are flattened, layers that are called several times become one layer for each call (with the
same weights to begin with, trained apart), and the layers in `tfmpq.rewrites` become others. What cannot be
rewritten is left as it is: `tfmpq.graph.analyse` refuses it by name.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from tfmpq.layers import KINDS, is_transparent
from tfmpq.rewrites import (
    REWRITES,
    Channels,
    affine_step,
    fold_into,
    hard_sigmoid_source,
    takes_affine,
)

_COPIED = frozenset({*KINDS, "Activation", "Softmax"})


def lower(model: keras.Model) -> keras.Model:
    """Rewrite a functional model.

    Args:
        model: Functional model with one input and one output.

    Returns:
        A model of new layers that computes the same; `model` itself if there is nothing to rewrite.
    """
    image = model.inputs[0]
    name = image._keras_history.operation.name
    lowering = Lowering(name)
    image = keras.Input(image.shape[1:], name=name, dtype=image.dtype)
    (output,) = lowering.replay(model, [image])
    return keras.Model(image, output, name=model.name) if lowering.changed else model


class Lowering:
    """One rewriting of one model.

    Attributes:
        changed: Whether anything had to be rewritten.
    """

    def __init__(self, image: str) -> None:
        self.changed = False
        self._names: set[str] = {image}
        self._affine: dict[int, Channels] = {}  # by id of a tensor of the old graph: still to be applied
        self._readers: dict[int, list[Any]] = {}

    def replay(self, model: Any, tensors: Sequence[Any]) -> list[Any]:
        """Build the graph of a model again on other tensors, rewritten."""
        graph = getattr(model, "_functional", None) or model
        values = {id(old): new for old, new in zip(graph.inputs, tensors, strict=True)}
        by_depth = graph._nodes_by_depth
        nodes = [node for depth in sorted(by_depth, reverse=True) for node in by_depth[depth]]
        for node in nodes:
            for tensor in node.input_tensors:
                self._readers.setdefault(id(tensor), []).append(node.operation)
        for tensor in graph.outputs:
            self._readers.setdefault(id(tensor), []).append(None)
        for node in nodes:
            if not node.is_input:
                made = self._outputs(node, values)
                values.update(zip(map(id, node.outputs), made, strict=True))
        return [values[id(tensor)] for tensor in graph.outputs]

    def _outputs(self, node: Any, values: dict[int, Any]) -> list[Any]:
        operation = node.operation
        args, kwargs = node.arguments.fill_in(values)
        if hasattr(getattr(operation, "_functional", operation), "_nodes_by_depth"):
            self.changed = True
            return self.replay(operation, keras.tree.flatten(args))
        source = hard_sigmoid_source(operation)
        if source is not None and id(source) in values:
            self.changed = True
            kind, name = keras.layers.Activation, operation.name
            return [self.call(kind, name, values[id(source)], activation="hard_sigmoid")]
        if (step := affine_step(operation, args)) is not None:
            return [self._apply_affine(node, values, step)]
        pending = self._affine.pop(id(node.input_tensors[0]), None)
        if pending is not None:
            return [fold_into(self, operation, args[0], pending)]
        rewrite = REWRITES.get(type(operation).__name__)
        made = None if rewrite is None else rewrite(self, operation, args)
        if made is not None:
            self.changed = True
            return [made]
        return self._copied(operation, args, kwargs)

    def _apply_affine(self, node: Any, values: dict[int, Any], step: Channels) -> Any:
        """Factors and offsets by channel: into the next layer if that can take them, else a layer."""
        source, result = node.input_tensors[0], node.outputs[0]
        total = self._affine.pop(id(source), Channels()).then(step)
        readers = self._readers[id(result)]
        if len(readers) == 1 and takes_affine(readers[0], total):
            self.changed = True
            self._affine[id(result)] = total
            return values[id(source)]
        name = node.operation.name
        self.changed |= type(node.operation) is not keras.layers.Rescaling
        return self.call(keras.layers.Rescaling, name, values[id(source)], **total.config())

    def _copied(self, operation: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any]:
        """Call a copy of a layer with its weights; layers that will be refused are called themselves."""
        kwargs.pop("mask", None)  # the functional graph records an empty one
        known = type(operation).__name__ in _COPIED or is_transparent(operation)
        if not known or not isinstance(operation, keras.layers.Layer):
            return keras.tree.flatten(operation(*args, **kwargs))
        name = self.name(operation.name)
        self.changed |= name != operation.name
        copy = type(operation).from_config(operation.get_config() | {"name": name})
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
