"""What a Keras model computes, as the rest of the toolchain sees it.

A deployed network has fused operators: a convolution, its BatchNorm and its ReLU are one. `analyse` walks a
functional model (plain or wrapped) and returns these fused nodes, the activation tensor that each one reads,
and every layer that cannot be deployed, with the reason.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import keras

from tfmpq.errors import TfmpqError, UsageError
from tfmpq.graph.frozen import Activation
from tfmpq.graph.kinds import ABSORBING, KEEPS_GRID, KEEPS_SIGN, WEIGHTED, NodeKind
from tfmpq.graph.layers import (
    activation_of,
    fixed_step,
    is_activation,
    kind_of,
    problem_of,
    reaches_over_border,
)
from tfmpq.graph.network import INPUT_QUANTIZER, Network, Node
from tfmpq.graph.recognition import class_name, is_a
from tfmpq.keras_internals import call_of, calls_in_order, calls_of, is_functional, operation_of
from tfmpq.quantizers.wrapper import QuantizeWrapper

_SHARED = "_grid"
"""Ending of the name of a grid that several tensors share."""


def analyse(model: keras.Model, input_signed: bool = True, dynamic: bool = False) -> Network:
    """Find the fused operators of a functional model.

    Args:
        model: Functional Keras 3 model with one image input; its layers may be wrapped.
        input_signed: Whether the preprocessed image may be negative.
        dynamic: Whether activations are float, so that layers are taken which integers have no form for.

    Raises:
        UsageError: Two outputs are the same tensor.
        TfmpqError: Some layers cannot be quantized and deployed; all of them are listed with the reason.
    """
    walk = _Walk(model, dynamic)
    walk.refuse_unsupported()
    nodes: list[Node] = []
    home: dict[str, Node] = {}
    for layer in walk.layers:
        if layer.name in home:
            continue
        node = walk.fuse(layer, home)
        nodes.append(node)
        for member in node.layers:
            home[member.name] = node
    if not dynamic:
        nodes = _signs(_share_grids(nodes), input_signed)
    outputs = tuple(home[producer_of(tensor)].name for tensor in model.outputs)
    if len(set(outputs)) < len(outputs):
        raise UsageError(
            f"Outputs are different tensors. Received: {', '.join(outputs)} of '{model.name}'. "
            "Leave out those that are there twice."
        )
    height, width, channels = model.inputs[0].shape[1:]
    return Network(tuple(nodes), (int(height), int(width), int(channels)), outputs, dynamic)


def layer_problems(model: keras.Model, dynamic: bool = False) -> list[tuple[keras.layers.Layer, str | None]]:
    """Every layer of a functional model in order, with the reason why it cannot be deployed; None if it can.

    Raises:
        TfmpqError: The model is none that `analyse` could take, whatever its layers are.
    """
    walk = _Walk(model, dynamic)
    return [(layer, walk._problem(layer)) for layer in walk.layers]


def _share_grids(nodes: Sequence[Node]) -> list[Node]:
    """Give all inputs of a concatenation, and an average over the border with its input, one grid.

    A runtime concatenates codes, so they have to mean the same; an average whose windows are cut at the
    border exists only with the grid of its input.
    """
    parents: dict[str, str] = {}

    def find(name: str) -> str:
        while name in parents:
            name = parents[name]
        return name

    home = {node.name: node for node in nodes}
    order = [node.grid_of for node in nodes if node.kind == "concatenate" or _shares_border(node)]
    for node in nodes:
        if node.kind == "concatenate" or _shares_border(node):
            shared = node.grid_of
            for source in node.inputs:
                roots = {find(home[source].grid_of), find(shared)}
                # The earliest of the shared grids gives its name.
                name = next(known for known in order if known in roots)
                parents.update({root: name for root in roots - {name}})
    grids = [find(node.grid_of) for node in nodes]
    given = {n.name for n in nodes if n.grid_of in parents and (n.kind == "input" or n.fixed_step)}
    if given:
        raise TfmpqError(
            "Tensors that are concatenated, or averaged over the border, have a learned grid. Received: "
            f"{', '.join(sorted(given))}, whose grid is given. Put a layer between."
        )
    return [replace(node, grid_of=grid) for node, grid in zip(nodes, grids, strict=True)]


def _shares_border(node: Node) -> bool:
    return node.kind == "average_pooling2d" and reaches_over_border(node.layers[0])


def _signs(nodes: Sequence[Node], input_signed: bool) -> list[Node]:
    """Find the grids with negative values: of a shared grid one member with such values is enough."""
    home = {node.name: node for node in nodes}
    signed: set[str] = set()

    def negative(node: Node) -> bool:
        if node.kind == "input":
            return input_signed
        if node.kind in KEEPS_SIGN:
            return node.activation == "linear" and any(home[name].grid_of in signed for name in node.inputs)
        return node.activation == "linear" and (node.fixed_step is None or node.kind == "tanh")

    known = -1
    while known < len(signed):
        known = len(signed)
        signed |= {node.grid_of for node in nodes if negative(node)}
    return [replace(node, signed=node.grid_of in signed) for node in nodes]


class _Walk:
    """The layer graph of a functional model: layers in order, producers and consumers by name."""

    def __init__(self, model: keras.Model, dynamic: bool) -> None:
        self.dynamic = dynamic
        if not is_functional(model) or len(model.inputs) != 1:
            raise TfmpqError(
                "A model has to be functional, with one image input. Received: "
                f"{type(model).__name__} '{model.name}'. Rebuild it with keras.Model(inputs, outputs)."
            )
        if len(model.inputs[0].shape) != 4 or None in model.inputs[0].shape[1:]:
            raise TfmpqError(
                "A model's input is a batch of images of fixed size (height, width, channels). Received: "
                f"'{model.name}' with input shape {tuple(model.inputs[0].shape)}. "
                "Fix the size in keras.Input."
            )
        self.layers: list[Any] = [layer for layer in model.operations if not is_shared_quantizer(layer)]
        # A layer may have been called outside this graph too: a Sequential calls it again with every `add`.
        members = {id(call) for call in calls_in_order(model)}
        self.producers: dict[str, list[str]] = {}
        self.consumers: dict[str, list[Any]] = {layer.name: [] for layer in self.layers}
        self.calls: dict[str, int] = {}
        for layer in self.layers:
            nodes = [call for call in calls_of(layer) if id(call) in members]
            self.calls[layer.name] = len(nodes)
            tensors = nodes[0].input_tensors if nodes else []
            self.producers[layer.name] = [producer_of(tensor) for tensor in tensors]
            for producer in dict.fromkeys(self.producers[layer.name]):
                self.consumers[producer].append(layer)
        self.outputs = {producer_of(tensor) for tensor in model.outputs}

    def refuse_unsupported(self) -> None:
        """Raise one error that lists every layer without a counterpart in the deployed network."""
        problems = [(layer, reason) for layer in self.layers if (reason := self._problem(layer))]
        if problems:
            shown = "; ".join(f"{layer.name} ({class_name(layer)}): {why}" for layer, why in problems[:12])
            more = f"; and {len(problems) - 12} more" if len(problems) > 12 else ""
            raise TfmpqError(
                f"Every layer has to have a quantized counterpart. Received: {len(problems)} that have none: "
                f"{shown}{more}. Replace these layers or leave them out of the model."
            )

    def _problem(self, layer: Any) -> str | None:
        if not isinstance(layer, keras.layers.Layer):
            return "an operation that is not a layer"
        return "called more than once" if self.calls[layer.name] > 1 else problem_of(layer, self.dynamic)

    def _follower(self, layer: Any) -> Any | None:
        """The only layer that reads a layer's output, if it reads nothing else; none of a model's output."""
        following = self.consumers[layer.name]
        alone = len(following) == 1 and self.producers[following[0].name] == [layer.name]
        return following[0] if alone and layer.name not in self.outputs else None

    def fuse(self, layer: Any, home: dict[str, Node]) -> Node:
        """Make the node that starts at `layer`."""
        members = [layer]
        if is_a(layer, keras.layers.InputLayer):
            members += [c for c in self.consumers[layer.name] if c.name == INPUT_QUANTIZER]
            return self._node(layer, "input", members, "linear", home)
        kind = kind_of(layer)
        activation = activation_of(layer) or "linear"
        follower = self._follower(layer)
        if kind in WEIGHTED and activation == "linear" and is_a(follower, keras.layers.BatchNormalization):
            members.append(follower)
            follower = self._follower(follower)
        absorbs = kind in ABSORBING and activation == "linear" and fixed_step(layer) is None
        if absorbs and follower is not None and activation_of(follower) and is_activation(follower):
            members.append(follower)
            activation = activation_of(follower) or "linear"
        return self._node(layer, kind, members, activation, home)

    def _node(
        self,
        layer: Any,
        kind: NodeKind,
        members: list[Any],
        activation: Activation,
        home: dict[str, Node],
    ) -> Node:
        inputs = tuple(home[producer].name for producer in self.producers[layer.name])
        # The image keeps the input's name, whether or not its quantizer is there yet.
        tensor = grid = layer.name if kind == "input" else members[-1].name
        node = Node(
            name=layer.name,
            kind=kind,
            inputs=inputs,
            layers=tuple(members),
            activation=activation,
            tensor=tensor,
            grid_of=grid,
            signed=True,
            output_shape=tuple(int(size) for size in members[-1].output.shape[1:]),
        )
        if kind == "concatenate" or _shares_border(node):
            return replace(node, grid_of=self._shared_grid(layer.name))
        return replace(node, grid_of=home[inputs[0]].grid_of) if kind in KEEPS_GRID else node

    def _shared_grid(self, name: str) -> str:
        """Name of the grid that the inputs of a layer share; no layer has it."""
        found, number = name + _SHARED, 1
        while found in self.consumers:
            number += 1
            found = f"{name}_{number}{_SHARED}"
        return found


def is_shared_quantizer(layer: Any) -> bool:
    """Whether a layer puts several tensors on one grid; it is called once for each of them."""
    return (
        isinstance(layer, QuantizeWrapper)
        and is_a(layer, keras.layers.Identity)
        and layer.name != INPUT_QUANTIZER
        and layer.name.endswith(_SHARED)
    )


def producer_of(tensor: Any) -> str:
    """Name of the layer that computes a tensor, seen through quantizers that tensors share."""
    operation = operation_of(tensor)
    if is_shared_quantizer(operation):
        return producer_of(call_of(tensor).input_tensors[0])
    return str(operation.name)
