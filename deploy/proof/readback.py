"""Compares what a written file holds with the network that was to be written, number by number."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from tfmpq.deploy.conversion.chosen_forms import held_containers, window_of_layer
from tfmpq.deploy.conversion.topology import output_shapes
from tfmpq.deploy.tflite.flatbuffer import TYPE_NAMES, builtin_name, printable
from tfmpq.deploy.tflite.layout import (
    WEIGHTS,
    StoredLayer,
    bias_type,
    file_layout,
    stored_layers,
    tensor_name,
)
from tfmpq.deploy.tflite.metadata import read_forms, read_weight_bits
from tfmpq.deploy.tflite.unfold import unfolded_input
from tfmpq.graph.containers import Container, Target
from tfmpq.graph.dynamic import DynamicModel
from tfmpq.graph.frozen import FrozenLayer, FrozenModel

_INTEGERS = frozenset(
    getattr(schema.TensorType, name) for name in ("INT2", "INT4", "INT8", "INT16", "INT32", "INT64")
)


def mismatches(frozen: FrozenModel, model: Any, target: Target) -> Iterator[str]:
    """Everything in which a file differs from the network, one line each, first difference first.

    Args:
        frozen: A network that passed `tfmpq.deploy.conversion.topology.deployable`.
        model: The file in object form.
        target: Which form of the file it is.
    """
    found: dict[str, list[StoredLayer]] = {}
    for stored in stored_layers(model):
        found.setdefault(stored.name, []).append(stored)
    forms = read_forms(model)
    containers = held_containers(frozen, forms, {name: held[0] for name, held in found.items()}, target)
    for layer in frozen.weighted:
        held = found.pop(layer.name, [])
        if len(held) != 1:
            yield f"layer {layer.name} is there {len(held)} times"
        else:
            yield from _layer_mismatches(frozen, layer, held[0], containers[layer.name])
    pooling = {layer.name for layer in frozen.layers if layer.kind.endswith("pooling2d")}
    yield from (f"weights {name} belong to no layer" for name in found if name not in pooling)
    yield from _tensor_mismatches(frozen, model)
    yield from _unfolding_mismatches(frozen, model, containers)
    yield from _operator_mismatches(frozen, model, containers)
    graph = model.subgraphs[0]
    returned = tuple(tensor_name(graph.tensors[int(index)]) for index in graph.outputs)
    if returned != frozen.returned:
        yield f"the file returns {', '.join(returned)}, not {', '.join(frozen.returned)}"
    yield from recorded_mismatches(frozen, model)


def recorded_mismatches(frozen: FrozenModel | DynamicModel, model: Any) -> Iterator[str]:
    """What the file records of its weight bits, where these are not the trained ones."""
    recorded = read_weight_bits(model)
    trained = {layer.name: layer.weights.bits for layer in frozen.weighted if layer.weights}
    if recorded != trained:
        yield f"recorded weight bits are {recorded}, the trained ones {trained}"


def _layer_mismatches(
    frozen: FrozenModel, layer: FrozenLayer, held: StoredLayer, container: Container
) -> Iterator[str]:
    weights = layer.weights
    if weights is None:
        return
    form = (held.builtin, held.container_bits, held.decode, held.order)
    wanted = (container.builtin, container.bits, container.decode, container.order)
    if form != wanted:
        yield f"layer {layer.name} has the form {form}, not {wanted}"
        return
    scale = np.float32(frozen.layer(layer.inputs[0]).grid.scale)
    for what, stored, trained in (
        ("integer", held.integers, file_layout(layer, container.builtin)),
        ("scale", held.scales, weights.scales),
        ("bias", held.bias, weights.bias),
        ("bias scale", held.bias_scales, scale * weights.scales),
    ):
        yield from array_mismatches(f"layer {layer.name}: {what}", stored, trained)
    each = np.dtype(bias_type(frozen, layer)).itemsize
    size = container.stored_bytes(weights.integers.size, weights.scales.size, each)
    if held.stored_bytes != size:
        yield f"layer {layer.name} takes {held.stored_bytes} bytes, not {size}"


def array_mismatches(what: str, stored: np.ndarray | None, trained: np.ndarray) -> Iterator[str]:
    """The first number in which stored ones differ from the trained, one line; nothing if all are equal."""
    if stored is None or stored.shape != trained.shape:
        yield f"{what}s have shape {None if stored is None else stored.shape}, not {trained.shape}"
    elif not np.array_equal(stored, trained):
        different = np.flatnonzero(stored != trained)
        at = np.unravel_index(different[0], trained.shape)
        where = ", ".join(map(str, at))
        yield f"{what} [{where}] is {stored[at]}, not {trained[at]} ({different.size} differ)"


def _tensor_mismatches(frozen: FrozenModel, model: Any) -> Iterator[str]:
    """Activation tensors: one a layer, int8 or int16, on its grid."""
    kind = "INT16" if frozen.wide else "INT8"
    named: dict[str, list[Any]] = {}
    for tensor in model.subgraphs[0].tensors:
        named.setdefault(tensor_name(tensor), []).append(tensor)
    for layer in frozen.layers:
        held = named.get(layer.name, [])
        if len(held) != 1 or held[0].type != getattr(schema.TensorType, kind):
            yield f"the output of layer {layer.name} is there {len(held)} times, not once as {kind}"
            continue
        grid = held[0].quantization
        stored = (np.asarray(grid.scale).tolist(), np.asarray(grid.zeroPoint).tolist())
        if stored != ([float(np.float32(layer.grid.scale))], [layer.grid.zero_point]):
            yield f"the output of layer {layer.name} has scale and zero point {stored}, not those trained"


def _unfolding_mismatches(
    frozen: FrozenModel, model: Any, containers: Mapping[str, Container]
) -> Iterator[str]:
    """Unfolded convolutions: each operator before the product, and which tensor the first one reads."""
    graph, shapes = model.subgraphs[0], output_shapes(frozen)
    producers = {int(operator.outputs[0]): operator for operator in graph.operators if len(operator.outputs)}
    products = {  # a clamped layer's own operator has no name
        tensor_name(graph.tensors[int(operator.inputs[1])]).removesuffix(WEIGHTS): operator
        for operator in graph.operators
        if builtin_name(model, operator) == "FULLY_CONNECTED"
    }
    for layer in frozen.weighted:
        order, operator = containers[layer.name].order, products.get(layer.name)
        window = window_of_layer(layer, shapes[layer.inputs[0]])
        if order is None or operator is None or window is None:
            continue
        try:
            read = tensor_name(graph.tensors[unfolded_input(model, operator, producers, window, order)])
        except ValueError as error:
            yield f"layer {layer.name}: {error}"
        else:
            if read != layer.inputs[0]:
                yield f"layer {layer.name} reads {printable(read)}, not {layer.inputs[0]}"


def _operator_mismatches(
    frozen: FrozenModel, model: Any, containers: Mapping[str, Container]
) -> Iterator[str]:
    """Exactly the operators that the layers need, and floats only between two casts."""
    graph = model.subgraphs[0]
    layers = [layer for layer in frozen.layers if layer.kind != "input"]
    clamped = [layer for layer in layers if layer.grid.signed and layer.grid.bits < 8]
    casts = sum(container.decode == "cast" for container in containers.values())
    clamps = sum(not layer.keeps_grid for layer in clamped)
    counted = Counter(builtin_name(model, operator) for operator in graph.operators)
    expected = len(layers) + 2 * clamps + 2 * casts + _moving_operators(frozen, containers)
    if (len(graph.operators), counted["CAST"], counted["QUANTIZE"]) != (expected, 2 * casts, 2 * clamps):
        yield f"the graph has the operators {dict(counted)}, {expected} are expected"
    for operator in graph.operators:
        kinds = {graph.tensors[int(i)].type for i in (*operator.inputs, *operator.outputs) if i >= 0}
        if builtin_name(model, operator) != "CAST" and not kinds <= _INTEGERS:
            shown = ", ".join(TYPE_NAMES.get(kind, str(kind)) for kind in sorted(kinds - _INTEGERS))
            yield f"operator {builtin_name(model, operator)} computes with {shown}"


def _moving_operators(frozen: FrozenModel, containers: Mapping[str, Container]) -> int:
    """Operators that unfold convolutions."""
    shapes = output_shapes(frozen)
    count = 0
    for layer in frozen.weighted:
        order, window = containers[layer.name].order, window_of_layer(layer, shapes[layer.inputs[0]])
        if order is not None and window is not None:
            count += len(window.unfold(order))
    return count
