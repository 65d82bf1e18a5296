"""Functional and Sequential models of Keras 2, from configuration and weights, built anew in Keras 3.

No code of a file is run, and TensorFlow's Keras 2 is not needed. Layers that Keras 3 would load with
another meaning (the hard sigmoid has another slope) or refuse ('/' in names, operations between layers,
arguments that are gone) become those that compute the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from tfmpq.errors import TfmpqError
from tfmpq.keras_internals import call_of, operation_of
from tfmpq.models.keras2_layers import counterpart, give_weights, name_for_keras3, plain
from tfmpq.models.keras2_operations import call_function
from tfmpq.models.tensorflow_nodes import call_node, parse_node

FUNCTIONAL = frozenset({"Functional", "Model", "Network"})
_CONSTANT = "_CONSTANT_VALUE"
_NOT_PASSED_ON = ("training", "mask")

NamedArrays = Sequence[tuple[str, np.ndarray]]
Weights = Mapping[str, Any]
"""Weights by layer: arrays with their names; of a nested model, that again or all of its arrays."""


def rebuild(class_name: str, config: Mapping[str, Any], weights: Weights) -> keras.Model:
    """Build a model again.

    Args:
        class_name: `Functional`, `Model` or `Sequential`.
        config: Its configuration, as Keras 2 writes it.
        weights: Arrays by layer.

    Returns:
        Functional model of Keras 3 that computes the same. '/' in names of layers has become '_'.

    Raises:
        TfmpqError: A layer or an operation has no counterpart, or weights are missing.
    """
    builder = _Builder()
    model = builder.model(class_name, plain(config))
    builder.load(weights)
    return model


class _Builder:
    """One building of one model and of the models in it."""

    def __init__(self) -> None:
        self._made: dict[str, Any] = {}  # by name in the file: Counterpart, or _Builder of a nested model
        self._whole: keras.Model | None = None

    def model(self, class_name: str, config: Mapping[str, Any]) -> keras.Model:
        """The model of a configuration."""
        name = str(config.get("name", "model") if isinstance(config, Mapping) else "sequential")
        if class_name == "Sequential":
            inputs, outputs = self._chain(config)
        elif class_name in FUNCTIONAL:
            inputs, outputs = self._graph(config)
        else:
            raise TfmpqError(
                "A model of Keras 2 is functional or Sequential. Received: "
                f"one of class {class_name}. Rebuild it with Model(inputs, outputs), load its weights, and "
                "give MODULE:FUNCTION."
            )
        single = [tensors[0] if len(tensors) == 1 else list(tensors) for tensors in (inputs, outputs)]
        self._whole = keras.Model(*single, name=name_for_keras3(name))
        return self._whole

    def load(self, weights: Weights) -> None:
        """Give all layers their weights."""
        for name, made in self._made.items():
            found = weights.get(name, ())
            if isinstance(made, _Builder):
                made.load(found if isinstance(found, Mapping) else made.by_layer(name, found))
            else:
                give_weights(made.layer, [array for _, array in found])

    def by_layer(self, model: str, arrays: NamedArrays) -> Weights:
        """Sort the arrays of a nested model, which an .h5 file has in one row, by its layers.

        The row depends on which layers could be trained when the file was written; names do not.
        """
        leaves = self._leaves()
        sorted_: dict[str, list[tuple[str, np.ndarray]]] = {}
        for name, array in arrays:
            parts = [part for part in name.split("/")[:-1] if part in leaves]
            if not parts:
                return self._by_order(model, arrays)
            sorted_.setdefault(parts[-1], []).append((name, array))
        return self._nested(sorted_)

    def _leaves(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, made in self._made.items():
            found |= made._leaves() if isinstance(made, _Builder) else {name: made}
        return found

    def _nested(self, by_leaf: Mapping[str, Any]) -> Weights:
        return {
            name: made._nested(by_leaf) if isinstance(made, _Builder) else by_leaf.get(name, ())
            for name, made in self._made.items()
        }

    def _by_order(self, model: str, arrays: NamedArrays) -> Weights:
        """Sort by order: all that can be trained, layer by layer, then the rest."""
        leaves = [(name, made.layer) for name, made in self._leaves().items() if made.layer.weights]
        variables = [(name, v) for name, layer in leaves for v in layer.trainable_weights]
        variables += [(name, v) for name, layer in leaves for v in layer.non_trainable_weights]
        if [tuple(v.shape) for _, v in variables] != [np.shape(array) for _, array in arrays]:
            raise TfmpqError(
                f"The weights of a nested model fit its layers. Received: {model}, whose do not. Save the "
                "inner and the outer model again, or build the model in Python and give MODULE:FUNCTION."
            )
        by_leaf: dict[str, list[tuple[str, np.ndarray]]] = {}
        for (name, _), array in zip(variables, arrays, strict=True):
            by_leaf.setdefault(name, []).append(array)
        return self._nested(by_leaf)

    def _chain(self, config: Any) -> tuple[list[Any], list[Any]]:
        """Input and output of a Sequential model."""
        entries = config["layers"] if isinstance(config, Mapping) else config
        first = entries[0]["config"]
        shape = first.get("batch_input_shape") or first.get("batch_shape")
        if shape is None and entries[0]["class_name"] in (*FUNCTIONAL, "Sequential"):
            shape = _input_shape(entries[0])
        if shape is None and isinstance(config, Mapping):
            shape = config.get("build_input_shape")
        if shape is None:
            raise TfmpqError(
                "A Sequential model says the shape of its input. Received: one without. Add keras.Input "
                "before its first layer and save it again."
            )
        value = source = keras.Input(
            shape[1:],
            name=name_for_keras3(
                str(first.get("name", "input"))
                + ("" if entries[0]["class_name"] == "InputLayer" else "_input")
            ),
        )
        for entry in entries:
            if entry["class_name"] != "InputLayer":
                value = self._layer(entry)(value)
        return [source], [value]

    def _graph(self, config: Mapping[str, Any]) -> tuple[list[Any], list[Any]]:
        """Inputs and outputs of a functional model."""
        values: dict[tuple[str, int], list[Any]] = {}
        waiting: list[tuple[Mapping[str, Any], int, Any]] = []
        first = _first_calls(config)
        for entry in config["layers"]:
            name = entry.get("name", entry["config"]["name"])
            if entry["class_name"] == "InputLayer":
                options = entry["config"]
                shape = options.get("batch_input_shape") or options["batch_shape"]
                tensor = keras.Input(shape[1:], name=name_for_keras3(name), dtype=options.get("dtype"))
                values[name, 0] = [tensor]
            for number, node in enumerate(entry.get("inbound_nodes", ())):
                waiting.append((entry, number + first.get(name, 0), node))
        while waiting:
            later = []
            for entry, number, node in waiting:
                name = entry.get("name", entry["config"]["name"])
                if all(reference[:2] in values for reference in _references(node, config)):
                    values[name, number] = keras.tree.flatten(self._call(entry, node, values, config))
                else:
                    later.append((entry, number, node))
            if len(later) == len(waiting):
                raise TfmpqError(
                    "A model's layers read each other's outputs. Received: "
                    f"{later[0][0]['config'].get('name')}, which reads what no layer gives. Check that the "
                    "file was copied completely."
                )
            waiting = later
        return tuple(
            [values[name, number][index] for name, number, index in _triples(config[key])]
            for key in ("input_layers", "output_layers")
        )  # type: ignore[return-value]

    def _call(
        self,
        entry: Mapping[str, Any],
        node: Any,
        values: Mapping[tuple[str, int], list[Any]],
        config: Mapping[str, Any],
    ) -> Any:
        """Call a layer as one of its nodes says."""
        names = _names(config)

        def tensors(part: Any) -> Any:
            if _is_reference(part, names):
                return values[part[0], part[1]][part[2]]
            if isinstance(part, Mapping):
                return {key: tensors(item) for key, item in part.items()}
            return [tensors(item) for item in part] if isinstance(part, (list, tuple)) else part

        given, kwargs = _split(node, names)
        kwargs = {k: tensors(v) for k, v in kwargs.items() if k not in _NOT_PASSED_ON and v is not None}
        found = tensors(given)
        kind, options = entry["class_name"], entry["config"]
        if kind in ("TFOpLambda", "SlicingOpLambda"):
            value = call_function(options["function"], options["name"], [found], kwargs)
            return self._named(value, (found, kwargs), options["name"])
        if kind == "TensorFlowOpLayer":
            operation, attributes = parse_node(options["node_def"])
            constants = {int(k): np.asarray(v) for k, v in (options.get("constants") or {}).items()}
            rest = iter(found if isinstance(found, list) else [found])
            count = len(constants) + (len(found) if isinstance(found, list) else 1)
            inputs = [constants[i] if i in constants else next(rest) for i in range(count)]
            return self._named(
                call_node(operation, options["name"], inputs, attributes), found, options["name"]
            )
        return self._layer(entry)(found, **kwargs)

    def _named(self, value: Any, inputs: Any, name: str) -> Any:
        """Name the operations between some tensors and a value after the layer that they were."""
        known = {id(tensor) for tensor in keras.tree.flatten(inputs)}
        number, waiting = 0, keras.tree.flatten(value)
        while waiting:
            tensor = waiting.pop()
            if id(tensor) in known or not isinstance(tensor, keras.KerasTensor):
                continue
            known.add(id(tensor))
            operation = operation_of(tensor)
            operation.name = name_for_keras3(name) + (f"_part{number}" if number else "")
            number += 1
            waiting += keras.tree.flatten(call_of(tensor).input_tensors)
        return value

    def _layer(self, entry: Mapping[str, Any]) -> Any:
        """The layer of an entry, made once however often it is called."""
        kind, config = entry["class_name"], entry["config"]
        name = entry.get("name") or (config["name"] if isinstance(config, Mapping) else kind)
        if kind in FUNCTIONAL or kind == "Sequential":
            if name not in self._made:
                self._made[name] = _Builder()
                self._made[name].model(kind, config)
            return self._made[name]._whole
        if name not in self._made:
            self._made[name] = counterpart(kind, config, name_for_keras3(name))
        return self._made[name]


def _names(config: Mapping[str, Any]) -> frozenset[str]:
    return frozenset(entry.get("name", entry["config"]["name"]) for entry in config["layers"])


def _input_shape(entry: Mapping[str, Any]) -> Any:
    """Shape of the first input of a nested model."""
    config = entry["config"]
    for inner in config["layers"] if isinstance(config, Mapping) else config:
        options = inner["config"]
        if inner["class_name"] in (*FUNCTIONAL, "Sequential"):
            return _input_shape(inner)
        if found := options.get("batch_input_shape") or options.get("batch_shape"):
            return found
    return None


def _is_reference(part: Any, names: frozenset[str]) -> bool:
    """Whether a part of a node is [layer, call, output]."""
    return (
        isinstance(part, (list, tuple))
        and len(part) in (3, 4)
        and isinstance(part[0], str)
        and part[0] in names
        and isinstance(part[1], int)
        and isinstance(part[2], int)
    )


def _split(node: Any, names: frozenset[str]) -> tuple[Any, dict[str, Any]]:
    """What a layer is called with first, as references and constants, and its arguments by name."""
    if isinstance(node, Mapping):
        node = list(node.values())
    if _is_reference(node, names) or (isinstance(node, (list, tuple)) and node and node[0] == _CONSTANT):
        given = node[2] if node[0] == _CONSTANT else list(node[:3])
        return given, dict(node[3]) if len(node) == 4 else {}
    parts = [_split(part, names) for part in node]
    kwargs = {name: value for _, found in parts for name, value in found.items()}
    several = [part for part, _ in parts]
    return (several[0] if len(several) == 1 else several), kwargs


def _references(node: Any, config: Mapping[str, Any]) -> list[tuple[str, int]]:
    """The calls, (layer, number), whose results a node needs."""
    names = _names(config)
    found: list[tuple[str, int]] = []

    def look(part: Any) -> None:
        if _is_reference(part, names):
            found.append((part[0], part[1]))
            part = part[3:]
        if isinstance(part, Mapping):
            part = list(part.values())
        if isinstance(part, (list, tuple)):
            for item in part:
                look(item)

    look(node)
    return found


def _first_calls(config: Mapping[str, Any]) -> dict[str, int]:
    """Number of a nested model's first call: what it was built with may be call 0, which no file holds."""
    nested = {
        entry.get("name", entry["config"]["name"] if isinstance(entry["config"], Mapping) else "")
        for entry in config["layers"]
        if entry["class_name"] in (*FUNCTIONAL, "Sequential")
    }
    found: dict[str, int] = {}
    references = [
        r for e in config["layers"] for n in e.get("inbound_nodes", ()) for r in _references(n, config)
    ]
    references += [(name, number) for name, number, _ in _triples(config["output_layers"])]
    for name, number in references:
        if name in nested:
            found[name] = min(number, found.get(name, number))
    return found


def _triples(references: Any) -> list[tuple[str, int, int]]:
    """References to inputs or outputs of a model, which may be nested or a single one."""
    if isinstance(references, Mapping):
        references = list(references.values())
    if references and isinstance(references[0], str):
        return [(references[0], int(references[1]), int(references[2]))]
    return [triple for part in references for triple in _triples(part)]
