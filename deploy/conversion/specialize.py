"""From one form of a file to another, without TensorFlow: same integers, other containers and operators."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from tfmpq.deploy.runtime.soundness import refuse_wrong
from tfmpq.deploy.tflite.app_metadata import attach_files
from tfmpq.deploy.tflite.flatbuffer import (
    BITS_OF_TYPE,
    TYPE_OF_BITS,
    add_tensor,
    builtin_name,
    contents,
    operator_code,
    pack,
    printable,
    read_model,
    reading,
    unpack,
    write_model,
)
from tfmpq.deploy.tflite.layout import (
    CHANNEL_AXIS,
    VERSIONS,
    WEIGHTS,
    entry_input,
    file_operator,
    tensor_name,
    weight_source,
)
from tfmpq.deploy.tflite.metadata import read_weight_bits
from tfmpq.deploy.tflite.read_app_metadata import attached_files
from tfmpq.errors import TfmpqError, UsageError
from tfmpq.graph.containers import SPECIALIZED, WIDE_TARGET, Builtin, Operator, Target, container_for


def specialize(content: bytes, target: Target = "litert", name: str | Path = "model") -> bytes:
    """Rewrite a file for a target; one that has that form already keeps its contents.

    Args:
        content: Bytes of a `.tflite`.
        target: What to write it for: the rule table says which container and operator each layer gets.
        name: What to call the file in an error.

    Returns:
        Bytes of a `.tflite` with the same integers, scales and biases, without CAST.

    Raises:
        UsageError: `target` is not one that files are rewritten for, or has no form with 16-bit activations.
        TfmpqError: The file is damaged or cannot be rewritten.
    """
    if target not in SPECIALIZED:
        raise UsageError(
            f"A file is rewritten for {', '.join(SPECIALIZED)}. Received: {target}. Choose one of them; "
            "tfmpq export writes the storage form."
        )
    model = read_model(content, name)
    bits = read_weight_bits(model, name)
    with reading(name):
        refuse_wrong(model, name)
        graph = model.subgraphs[0]
        if target != WIDE_TARGET and has_wide_activations(model):
            raise UsageError(
                f"16-bit activations are written for --target {WIDE_TARGET}. Received: {target}, for {name}. "
                "Choose that target, or export 8 bits."
            )
        producers = {int(op.outputs[0]): op for op in graph.operators if len(op.outputs)}
        for operator in graph.operators:
            if builtin_name(model, operator) in CHANNEL_AXIS and len(operator.inputs) > 1:
                _rewrite(model, operator, producers, bits, target)
        _drop_dead_operators(graph)
        return attach_files(write_model(model), attached_files(content))


def has_wide_activations(model: Any) -> bool:
    """Whether a file computes with 16-bit activations.

    Args:
        model: A file in object form, from `read_model`.
    """
    graph = model.subgraphs[0]
    computed = {int(index) for operator in graph.operators or [] for index in operator.outputs}
    return any(graph.tensors[index].type == schema.TensorType.INT16 for index in computed)


def _rewrite(
    model: Any, operator: Any, producers: dict[int, Any], trained: Mapping[str, int], target: Target
) -> None:
    """Give one operator the container and the form that the rule table names."""
    builtin, tensors = builtin_name(model, operator), model.subgraphs[0].tensors
    source = weight_source(model, operator, producers)
    stored, read = tensors[source], tensors[int(operator.inputs[1])]
    bits, data = BITS_OF_TYPE.get(stored.type), contents(model, stored)
    activation = tensors[int(operator.inputs[entry_input(builtin)])]
    if bits is None or not data.size or activation.type != schema.TensorType.INT8:
        return
    shape = tuple(int(size) for size in stored.shape)
    name = tensor_name(stored).removesuffix(WEIGHTS)
    row = _row(operator, builtin, shape, activation, name in trained)
    fan_in = math.prod(shape) // shape[CHANNEL_AXIS[builtin]]
    container = container_for(row, trained.get(name, bits), fan_in, target)
    if (container.bits, container.builtin) == (bits, builtin) and stored is read:
        return
    integers = unpack(data, bits, math.prod(shape))
    if container.builtin != builtin:
        shape = _become(operator, container.builtin, shape)
    kind = TYPE_OF_BITS[container.bits]
    packed = _packed(integers, container.bits, name)
    wide = add_tensor(model, tensor_name(stored), shape, kind, read.quantization, packed)
    operator.inputs = np.array([operator.inputs[0], wide, *operator.inputs[2:]], np.int32)
    version = VERSIONS[container.builtin, container.bits]
    operator.opcodeIndex = operator_code(model, container.builtin, version)


def _row(operator: Any, builtin: str, shape: tuple[int, ...], activation: Any, ours: bool) -> Operator:
    """Row of the rule table; 1x1 convolutions of others stay what they are."""
    if builtin == "FULLY_CONNECTED":
        return file_operator(operator, builtin) if len(activation.shape) == 4 else "dense"
    options = operator.builtinOptions
    pointwise = ours and builtin == "CONV_2D" and shape[1:3] == (1, 1) and shape[3] == activation.shape[-1]
    if pointwise and (options.strideH, options.strideW) == (1, 1):
        return "pointwise"
    return file_operator(operator, builtin)


def _become(operator: Any, builtin: Builtin, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Turn a 1x1 convolution into a matrix product or back; returns the new shape of its weights."""
    activation = operator.builtinOptions.fusedActivationFunction
    if builtin == "FULLY_CONNECTED":
        options = schema.FullyConnectedOptionsT()
        options.keepNumDims = True
        operator.builtinOptionsType = schema.BuiltinOptions.FullyConnectedOptions
        shape = (shape[0], shape[3])
    else:
        options = schema.Conv2DOptionsT()
        options.padding, options.strideH, options.strideW = schema.Padding.VALID, 1, 1
        operator.builtinOptionsType = schema.BuiltinOptions.Conv2DOptions
        shape = (shape[0], 1, 1, shape[1])
    options.fusedActivationFunction = activation
    operator.builtinOptions = options
    return shape


def _packed(integers: np.ndarray, bits: int, name: str) -> np.ndarray:
    """Packed weights; a file whose record promises fewer bits than its integers need is refused."""
    if integers.size and not -(2 ** (bits - 1)) <= integers.min() <= integers.max() < 2 ** (bits - 1):
        raise TfmpqError(
            "The weights of a layer fit into the bits that its file records. "
            f"Received: layer {printable(name)}, whose "
            f"integers from {integers.min()} to {integers.max()} do not fit into {bits} bits. "
            "Export it again."
        )
    return pack(integers, bits)


def _drop_dead_operators(graph: Any) -> None:
    """Leave out operators whose result nobody reads: the casts."""
    needed = {int(index) for index in graph.outputs}
    kept = []
    for operator in reversed(graph.operators):
        if needed & {int(index) for index in operator.outputs}:
            kept.append(operator)
            needed |= {int(index) for index in operator.inputs}
    graph.operators = kept[::-1]
