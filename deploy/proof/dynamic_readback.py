"""What a written file of float activations holds, compared with the network that was to be written."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from tfmpq.deploy.conversion.dynamic_kernels import file_integers
from tfmpq.deploy.proof.readback import array_mismatches, recorded_mismatches
from tfmpq.deploy.tflite.flatbuffer import BITS_OF_TYPE, builtin_name, contents, unpack
from tfmpq.deploy.tflite.layout import WEIGHTS, tensor_name
from tfmpq.graph.dynamic import DynamicLayer, DynamicModel

_FLOAT = schema.TensorType.FLOAT32


def dynamic_mismatches(frozen: DynamicModel, model: Any) -> Iterator[str]:
    """Everything in which a file differs from the network, one line each, first difference first.

    Integers, scales and biases are compared one by one; so are the shape of every layer's tensor and what
    the file takes and returns. What float operators compute, and with which constants, the recomputation
    tells.

    Args:
        frozen: The network.
        model: The file in object form.
    """
    graph = model.subgraphs[0]
    tensors: dict[str, list[Any]] = {}
    for tensor in graph.tensors:
        tensors.setdefault(tensor_name(tensor), []).append(tensor)
    readers = {
        int(operator.inputs[1]): builtin_name(model, operator)
        for operator in graph.operators
        if len(operator.inputs) > 1
    }
    for layer in frozen.layers:
        held = tensors.get(layer.name, [])
        shape = [tuple(int(size) for size in tensor.shape) for tensor in held if tensor.type == _FLOAT]
        if shape != [(1, *layer.shape)]:
            yield f"the output of layer {layer.name} has shapes {shape}, not {(1, *layer.shape)} once"
    for layer in frozen.weighted:
        yield from _layer_mismatches(model, graph, layer, tensors, readers)
    for what, indices, wanted in (
        ("takes", graph.inputs, (frozen.layers[0].name,)),
        ("returns", graph.outputs, frozen.outputs),
    ):
        found = tuple(tensor_name(graph.tensors[int(index)]) for index in indices)
        if found != wanted:
            yield f"the file {what} {', '.join(found)}, not {', '.join(wanted)}"
    yield from recorded_mismatches(frozen, model)


def _layer_mismatches(
    model: Any, graph: Any, layer: DynamicLayer, tensors: dict[str, list[Any]], readers: dict[int, str]
) -> Iterator[str]:
    weights, name = layer.weights, f"{layer.name}{WEIGHTS}"
    held, biases = tensors.get(name, []), tensors.get(f"{layer.name}/bias", [])
    if weights is None or len(held) != 1 or len(biases) != 1:
        yield f"the weights of layer {layer.name} are there {len(held)} times, its biases {len(biases)} times"
        return
    ((tensor,), (bias,)) = held, biases
    if BITS_OF_TYPE.get(tensor.type) != weights.container or tensor.quantization is None:
        yield f"layer {layer.name} is not held in {weights.container} bits"
        return
    wanted = file_integers(weights)
    read = unpack(contents(model, tensor), weights.container, wanted.size)
    if read.size != wanted.size or tuple(tensor.shape) != wanted.shape:
        yield f"layer {layer.name} has weights of shape {tuple(tensor.shape)}, not {wanted.shape}"
        return
    for what, stored, trained in (
        ("integer", read.reshape(wanted.shape), wanted),
        ("scale", np.asarray(tensor.quantization.scale, np.float32), weights.scales),
        ("zero point", np.asarray(tensor.quantization.zeroPoint), np.zeros(weights.scales.size, np.int64)),
        ("bias", np.frombuffer(contents(model, bias).tobytes(), np.float32), weights.bias),
    ):
        yield from array_mismatches(f"layer {layer.name}: {what}", stored, trained)
    index = next(number for number, other in enumerate(graph.tensors) if other is tensor)
    reader = readers.get(index)
    if weights.reads is not None and reader != weights.kernel:
        yield f"the weights of layer {layer.name} are read by {reader}, not by {weights.kernel}"
