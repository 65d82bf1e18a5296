"""Checks that keep a hostile `.tflite` from costing more than its size: nothing is unpacked before them.

A flatbuffer may let thousands of tables point to the same bytes, so that a small file unpacks to more than
any memory holds. Honest writers share little, so the bytes that all parts claim together stay near the
file's own size.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from ai_edge_litert import schema_py_generated as schema

_MAX_PARTS = 200_000
"""Tables in a file; the largest networks of phones have some ten thousand."""

_SHARING = 4
"""How many times its own size a file may claim: small equal vectors are shared by honest writers too."""

_EXPANSION = 16
"""How many times its own size all constants may take as int8; INT2 takes four times."""

_SLACK = 1 << 16
_ELEMENT_BITS = {
    schema.TensorType.FLOAT32: 32,
    schema.TensorType.INT32: 32,
    schema.TensorType.INT8: 8,
    schema.TensorType.INT4: 4,
    schema.TensorType.INT2: 2,
}


def claims_too_much(content: bytes) -> str | None:
    """Why a file must not be unpacked; None if it may.

    Raises:
        Exception: The file is damaged so that it cannot even be walked; of any kind.
    """
    model = schema.Model.GetRootAs(content, 0)
    claimed, parts = 0, model.BuffersLength()
    for size in _claims(model):
        claimed, parts = claimed + size, parts + 1
        if claimed > _SHARING * len(content) + _SLACK or parts > _MAX_PARTS:
            return "its parts claim far more room than it has"
    return None


def _claims(model: Any) -> Iterator[int]:
    """Bytes that each part takes in the file, before anything as long as it says is made of it."""
    yield 4 * (model.OperatorCodesLength() + model.SubgraphsLength() + model.BuffersLength())
    yield 4 * (model.MetadataLength() + model.SignatureDefsLength())
    yield 4 * (model.ExternalBufferGroupsLength() + model.ExternalBuffersLength())
    for index in range(model.OperatorCodesLength()):
        yield len(model.OperatorCodes(index).CustomCode() or b"")
    for index in range(model.MetadataLength()):
        yield len(model.Metadata(index).Name() or b"")
    for index in range(model.ExternalBufferGroupsLength()):
        yield len(model.ExternalBufferGroups(index).Name() or b"")
    for index in range(model.ExternalBuffersLength()):
        yield len(model.ExternalBuffers(index).Packing() or b"")
    for index in range(model.SignatureDefsLength()):
        yield from _signature_claims(model.SignatureDefs(index))
    for index in range(model.SubgraphsLength()):
        yield from _graph_claims(model.Subgraphs(index))


def _signature_claims(signature: Any) -> Iterator[int]:
    yield 4 * (signature.InputsLength() + signature.OutputsLength())
    yield len(signature.SignatureKey() or b"")
    for index in range(signature.InputsLength()):
        yield len(signature.Inputs(index).Name() or b"")
    for index in range(signature.OutputsLength()):
        yield len(signature.Outputs(index).Name() or b"")


def _graph_claims(graph: Any) -> Iterator[int]:
    yield 4 * (graph.TensorsLength() + graph.OperatorsLength() + graph.InputsLength() + graph.OutputsLength())
    for index in range(graph.TensorsLength()):
        tensor = graph.Tensors(index)
        yield len(tensor.Name() or b"") + 4 * tensor.VariantTensorsLength()
        if tensor.Sparsity() is not None:
            yield 4 * tensor.Sparsity().DimMetadataLength()
    for index in range(graph.OperatorsLength()):
        operator = graph.Operators(index)
        yield 4 * (operator.InputsLength() + operator.OutputsLength())


def constant_problem(model: Any) -> str | None:
    """Why the constants of an unpacked model are not what their shapes say; None if they are.

    Args:
        model: Model in object form, its indices checked.
    """
    total = elements = 0
    for buffer in model.buffers:
        total += 0 if buffer.data is None else len(buffer.data)
    for graph in model.subgraphs:
        for tensor in graph.tensors or []:
            data = model.buffers[tensor.buffer].data
            bits = _ELEMENT_BITS.get(tensor.type)
            if bits is None or data is None or not len(data) or tensor.sparsity is not None:
                continue
            shape = [] if tensor.shape is None else [int(size) for size in tensor.shape]
            count = math.prod(shape)
            if min(shape, default=1) < 0 or len(data) != (count * bits + 7) // 8:
                return f"a constant of shape {shape} with {len(data)} bytes"
            elements += count
    if elements > _EXPANSION * total + _SLACK:
        return "its constants share their contents far too often"
    return None
