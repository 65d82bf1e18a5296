"""Operators of a file that LiteRT runs without an error and with wrong numbers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from tfmpq.deploy.runtime.known_kernels import Activations, kernel_for
from tfmpq.deploy.tflite.flatbuffer import (
    BITS_OF_TYPE,
    TYPE_NAMES,
    builtin_name,
    printable,
    read_model,
    reading,
)
from tfmpq.deploy.tflite.layout import CHANNEL_AXIS, bias_input, entry_input, tensor_name
from tfmpq.errors import TfmpqError

_ACTIVATIONS: dict[int, Activations] = {
    schema.TensorType.INT8: "int8",
    schema.TensorType.INT16: "int16",
    schema.TensorType.FLOAT32: "float32",
}

_TOLD_OF_BIASES = ("CONV_2D", "TRANSPOSE_CONV")
"""Operators that do not look at the type of their biases: an option says it, of 64 bits if it does not."""


def wrong_operators(model: Any) -> Iterator[str]:
    """What of a file the runtime answers with wrong numbers, one line each.

    Args:
        model: A file in object form, from `read_model`.
    """
    tensors = model.subgraphs[0].tensors
    for operator in model.subgraphs[0].operators or []:
        builtin = builtin_name(model, operator)
        if builtin not in CHANNEL_AXIS or len(operator.inputs) < 2 or not len(operator.outputs):
            continue
        place = entry_input(builtin)
        if place >= len(operator.inputs):
            continue
        weights, entry = tensors[int(operator.inputs[1])], tensors[int(operator.inputs[place])]
        bits, activations = BITS_OF_TYPE.get(weights.type), _ACTIVATIONS.get(entry.type)
        if bits is None or activations is None:
            continue
        reason = _reason(model, operator, builtin, bits, activations)
        if reason:
            name = printable(tensor_name(tensors[int(operator.outputs[0])]))
            kind = TYPE_NAMES[weights.type]
            yield f"layer {name}: {builtin} with {kind} weights and {activations} activations, {reason}"


def refuse_wrong(model: Any, name: str | Path) -> None:
    """Refuse a file that the runtime would answer with wrong numbers.

    Raises:
        TfmpqError: It has such an operator; the first one is named.
    """
    found = next(wrong_operators(model), None)
    if found:
        raise TfmpqError(
            f"LiteRT has to compute a file rightly. Received: {name}, where it gives wrong numbers without "
            f"an error ({found}). Export the network again, in another form."
        )


def refuse_wrong_file(path: str | Path) -> None:
    """Refuse a file on disk that the runtime would answer with wrong numbers, however fast.

    A file that cannot be read is left to the runtime, which says why.

    Raises:
        TfmpqError: It has such an operator; the first one is named.
    """
    try:
        model = read_model(Path(path).read_bytes(), path)
    except (OSError, TfmpqError):
        return
    with reading(path):
        refuse_wrong(model, path)


def _reason(model: Any, operator: Any, builtin: Any, bits: int, activations: Activations) -> str | None:
    tensors = model.subgraphs[0].tensors
    grid = tensors[int(operator.inputs[1])].quantization
    scales = 0 if grid is None or grid.scale is None else len(grid.scale)
    if kernel_for(builtin, bits, activations, per_channel=scales > 1) == "wrong":
        return "which has no right kernel"
    zeros = None if grid is None else grid.zeroPoint
    if bits < 8 and zeros is not None and np.any(np.asarray(zeros)):
        return "whose zero points are not 0"
    present = [int(index) for index in operator.inputs[bias_input(builtin) :] if index >= 0]  # -1 is none
    if builtin in _TOLD_OF_BIASES and activations == "int16" and present:
        bias = tensors[present[0]]
        if bias.type == schema.TensorType.INT32 != operator.builtinOptions.quantizedBiasType:
            return "whose 32-bit biases are read as 64-bit ones"
    return None
