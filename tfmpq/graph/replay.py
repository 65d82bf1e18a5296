"""Builds a functional model again, call by call, so that some of its layers can become others."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np

from tfmpq.graph.layers import KINDS, is_transparent
from tfmpq.graph.network import INPUT_QUANTIZER
from tfmpq.graph.recognition import canonical_function
from tfmpq.keras_internals import (
    calls_in_order,
    functional_of,
    holds_graph,
    operation_of,
    own_operation,
    uncalled,
)

_COPIED = frozenset({*KINDS, keras.layers.Activation, keras.layers.Softmax, keras.layers.Normalization})

_OTHER_CHARACTERS = re.compile(r"[^A-Za-z0-9_.>-]")


class Replay:
    """One rebuilding of one model; layers are copied, with their weights.

    Nested models are flattened, and a layer that is called several times becomes one layer for each call
    (with the same weights to begin with, trained apart).

    Attributes:
        changed: Whether the new model is another one than the old.
        note: Hears which layers got another name, one line each.
    """

    def __init__(self, model: Any, note: Callable[[str], None] = lambda line: None) -> None:
        self.changed = False
        self.note = note
        self._users = frozenset(_names(model))
        self._names: set[str] = set()
        self._current = ""

    def input(self, old: Any, shape: Any, dtype: str | None = None) -> Any:
        """The input of the new model in the place of an old one, of its type of numbers or another."""
        name = operation_of(old).name
        found = self.name(name)
        self.changed |= name != found
        return keras.Input(shape, name=found, dtype=dtype or old.dtype)

    def model(self, image: Any, outputs: Sequence[Any], old: keras.Model) -> keras.Model:
        """The new model."""
        return keras.Model(
            image, outputs[0] if len(outputs) == 1 else list(outputs), name=valid_name(old.name)
        )

    def replay(self, model: Any, tensors: Sequence[Any]) -> list[Any]:
        """Build the graph of a model again on other tensors; returns its outputs."""
        graph = functional_of(model)
        values = {id(old): new for old, new in zip(graph.inputs, tensors, strict=True)}
        nodes = calls_in_order(graph)
        self.begin(graph, nodes)
        for node in nodes:
            if not node.is_input:
                args, kwargs = node.arguments.fill_in(values)
                self._current = node.operation.name
                if self.opens(node.operation):
                    self.changed = True
                    made = self.replay(node.operation, keras.tree.flatten(args))
                else:
                    made = self.outputs(node, values, args, kwargs)
                values.update(zip(map(id, node.outputs), made, strict=True))
        return [values[id(tensor)] for tensor in graph.outputs]

    def opens(self, operation: Any) -> bool:
        """Whether the graph of a nested model takes its place."""
        return holds_graph(operation)

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
        known = type(operation) in _COPIED or is_transparent(operation)
        if own_operation(operation) is not None:
            operation = uncalled(operation)
        if not known or not isinstance(operation, keras.layers.Layer):
            return keras.tree.flatten(operation(*args, **kwargs))
        name = self.name(operation.name)
        self.changed |= name != operation.name or getattr(operation, "lora_enabled", False)
        copy = type(operation).from_config(config_of(operation) | {"name": name, "dtype": "float32"})
        outputs = keras.tree.flatten(copy(*args, **kwargs))
        if weights := weights_of(operation):
            copy.set_weights(weights)
        return outputs

    def name(self, wanted: str) -> str:
        """A name for a layer of the user's: its own if backends take it and it is free."""
        base = valid_name(wanted)
        taken = self._names if base == wanted else self._names | self._users
        found, number = base, 1
        while found in taken or found == INPUT_QUANTIZER:
            number += 1
            found = f"{base}_{number}"
        if base != wanted or base == INPUT_QUANTIZER:
            self.note(f"Layer '{wanted}' is called '{found}' in the file: its own name cannot be used there.")
        self._names.add(found)
        return found

    def part(self, wanted: str) -> str:
        """A name for a layer that is a part of one of the user's: one that no layer of the user's has."""
        base = found = valid_name(wanted)
        number = 1
        while found in self._names | self._users:
            number += 1
            found = f"{base}_{number}"
        return found

    def call(
        self, kind: Any, name: str, inputs: Any, weights: Sequence[np.ndarray] = (), **options: Any
    ) -> Any:
        """Make a layer, call it, and give it weights."""
        # What has another name than the layer in whose place it stands is a part of that one.
        layer = kind(name=self.name(name if name == self._current else self.part(name)), **options)
        outputs = layer(inputs)
        if weights:
            layer.set_weights(list(weights))
        return outputs


def valid_name(name: str) -> str:
    """A name with underscores in the place of characters that TensorFlow does not take in names."""
    found = _OTHER_CHARACTERS.sub("_", name)
    return found if found[:1].isalnum() or found.startswith(".") else f"layer{found}"


def config_of(layer: Any) -> dict[str, Any]:
    """Arguments that make a layer of Keras again, with the very activation that it has.

    Keras writes a function of the user's down by its name, which Keras' own may have as well. Adapters
    (LoRA) are merged into the weights and left out.
    """
    config: dict[str, Any] = layer.get_config()
    config.pop("lora_rank", None)
    config.pop("lora_alpha", None)
    if "activation" in config:
        config["activation"] = canonical_function(layer.activation)
    return config


def weights_of(layer: Any) -> list[np.ndarray]:
    """Weights of a layer that is made from `config_of`."""
    if getattr(layer, "lora_enabled", False):
        # The kernel that such a layer shows is the sum with its adapter.
        found = [layer.kernel] if getattr(layer, "bias", None) is None else [layer.kernel, layer.bias]
    else:
        others = {id(weight) for weight in getattr(getattr(layer, "activation", None), "weights", ())}
        found = [weight for weight in layer.weights if id(weight) not in others]
    return [keras.ops.convert_to_numpy(weight) for weight in found]


def _names(model: Any) -> Iterator[str]:
    """Names of all operations of a model, nested ones included."""
    for node in calls_in_order(functional_of(model)):
        yield node.operation.name
        if holds_graph(node.operation):
            yield from _names(node.operation)
