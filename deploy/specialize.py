"""From the storage form to the fast form of a file, without TensorFlow: same integers, other containers."""

from __future__ import annotations

from typing import Any

import numpy as np

from tfmpq.containers import container_for
from tfmpq.deploy.flatbuffer import (
    BITS_OF_TYPE,
    TYPE_OF_BITS,
    add_tensor,
    builtin_name,
    contents,
    operator_code,
    pack,
    read_model,
    unpack,
    write_model,
)
from tfmpq.deploy.layout import CHANNEL_AXIS, VERSIONS, file_operator, tensor_name, weight_source


def specialize(content: bytes) -> bytes:
    """Rewrite a file in storage form into the `litert` form; one that has it already keeps its contents.

    Args:
        content: Bytes of a `.tflite`.

    Returns:
        Bytes of a `.tflite` with the same integers, scales and biases, without CAST.

    Raises:
        TfmpqError: The file is damaged.
    """
    model = read_model(content)
    graph = model.subgraphs[0]
    producers = {int(op.outputs[0]): op for op in graph.operators if len(op.outputs)}
    for operator in graph.operators:
        if builtin_name(model, operator) in CHANNEL_AXIS:
            _rewrite(model, operator, producers)
    _drop_dead_operators(graph)
    return write_model(model)


def _rewrite(model: Any, operator: Any, producers: dict[int, Any]) -> None:
    """Give one operator its weights in the container of the `litert` target."""
    builtin, tensors = builtin_name(model, operator), model.subgraphs[0].tensors
    source = weight_source(model, operator, producers)
    stored, read = tensors[source], tensors[int(operator.inputs[1])]
    bits = BITS_OF_TYPE.get(stored.type)
    if bits is None:
        return
    shape = tuple(int(size) for size in stored.shape)
    fan_in = int(np.prod(shape)) // shape[CHANNEL_AXIS[builtin]]
    # The rule table maps 3 and 4 bits alike, and 5 to 8: the container's bits say enough.
    container = container_for(file_operator(operator, builtin), bits, fan_in, "litert")
    if container.bits == bits and stored is read:
        return
    integers = unpack(contents(model, stored), bits, int(np.prod(shape)))
    packed = pack(integers, container.bits)
    wide = add_tensor(
        model, tensor_name(stored), shape, TYPE_OF_BITS[container.bits], read.quantization, packed
    )
    operator.inputs = np.array([operator.inputs[0], wide, *operator.inputs[2:]], np.int32)
    operator.opcodeIndex = operator_code(model, builtin, VERSIONS[builtin, container.bits])


def _drop_dead_operators(graph: Any) -> None:
    """Leave out operators whose result nobody reads: the casts."""
    needed = {int(index) for index in graph.outputs}
    kept = []
    for operator in reversed(graph.operators):
        if needed & {int(index) for index in operator.outputs}:
            kept.append(operator)
            needed |= {int(index) for index in operator.inputs}
    graph.operators = kept[::-1]
