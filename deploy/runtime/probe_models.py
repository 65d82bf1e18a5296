"""Single-operator `.tflite` models, written from nothing, and what each has to answer, in float64."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from tfmpq.deploy.runtime.known_kernels import Activations
from tfmpq.deploy.tflite.flatbuffer import (
    TYPE_OF_BITS,
    add_tensor,
    operator_code,
    pack,
    quantization,
    write_model,
)
from tfmpq.deploy.tflite.layout import CHANNEL_AXIS
from tfmpq.graph.containers import Builtin

SIDE, CHANNELS, FAN_IN = 14, 32, 256
WINDOW, STRIDE = 3, 2
"""Kernel of the convolutions, which have no padding, and the stride of the transposed one."""

_TENSOR_TYPES: dict[str, int] = {
    "int8": schema.TensorType.INT8,
    "int16": schema.TensorType.INT16,
    "float32": schema.TensorType.FLOAT32,
}
_VERSIONS: dict[tuple[str, str], dict[int, int]] = {
    ("CONV_2D", "int8"): {8: 3, 4: 7, 2: 8},
    ("CONV_2D", "int16"): {8: 8, 4: 8, 2: 8},
    ("CONV_2D", "float32"): {8: 5, 4: 7, 2: 8},
    ("DEPTHWISE_CONV_2D", "int8"): {8: 3, 4: 7, 2: 7},
    ("DEPTHWISE_CONV_2D", "int16"): {8: 5, 4: 7, 2: 7},
    ("DEPTHWISE_CONV_2D", "float32"): {8: 6, 4: 7, 2: 7},
    ("FULLY_CONNECTED", "int8"): {8: 9, 4: 10, 2: 13},
    ("FULLY_CONNECTED", "int16"): {8: 11, 4: 11, 2: 13},
    ("FULLY_CONNECTED", "float32"): {8: 9, 4: 10, 2: 13},
    # No version has packed weights; the newest is as near as there is.
    ("TRANSPOSE_CONV", "int8"): {8: 4, 4: 5, 2: 5},
    ("TRANSPOSE_CONV", "int16"): {8: 5, 4: 5, 2: 5},
    ("TRANSPOSE_CONV", "float32"): {8: 4, 4: 5, 2: 5},
}


@dataclass(frozen=True, slots=True)
class Case:
    """One operator with one kind of weights.

    Attributes:
        operator: LiteRT operator with weights.
        weight_bits: 8, 4 or 2.
        activations: Type of its input and output.
        per_channel: Whether each output channel has a scale.
        fan_in: Weights that feed one output of FULLY_CONNECTED.
        cast: Whether the graph widens the weights to int8 first.
    """

    operator: Builtin
    weight_bits: int
    activations: Activations
    per_channel: bool = True
    fan_in: int = FAN_IN
    cast: bool = False


def all_cases() -> tuple[Case, ...]:
    """Every operator, container, activation type and kind of scale; odd fan-ins; widened weights."""
    operators: tuple[Builtin, ...] = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV")
    kinds: tuple[Activations, ...] = ("int8", "int16", "float32")
    cases = [
        Case(operator, bits, activations, per_channel)
        for operator in operators
        for activations in kinds
        for bits in (8, 4, 2)
        for per_channel in (True, False)
    ]
    odd = [Case("FULLY_CONNECTED", bits, "int8", True, FAN_IN + 1) for bits in (8, 4, 2)]
    widened: tuple[tuple[Builtin, int], ...] = (
        ("CONV_2D", 2),
        ("DEPTHWISE_CONV_2D", 2),
        ("TRANSPOSE_CONV", 4),
        ("TRANSPOSE_CONV", 2),
    )
    return (*cases, *odd, *(Case(operator, bits, "int8", cast=True) for operator, bits in widened))


@dataclass(frozen=True, slots=True, eq=False)
class Probe:
    """A model, an input for it and the answer.

    Attributes:
        content: Bytes of the `.tflite`.
        source: Codes of the input, or float32.
        expected: float64 in units of the output's codes, or real values.
    """

    content: bytes
    source: np.ndarray
    expected: np.ndarray


def make_probe(case: Case, seed: int = 0) -> Probe:
    """Build the model of a case, with random weights, and compute its answer."""
    generator = np.random.default_rng(seed)
    limit = 2 ** (case.weight_bits - 1) - 1
    weights = generator.integers(-limit, limit + 1, _weight_shape(case)).astype(np.int8)
    scales = np.full(weights.shape[CHANNEL_AXIS[case.operator]], 0.0113, np.float32)
    if case.per_channel:
        scales = (scales * generator.uniform(0.6, 1.4, scales.size)).astype(np.float32)
    source = _source(case, generator)
    step = np.float32(1.0 if case.activations == "float32" else 0.0217)
    accumulated = _accumulate(case, source.astype(np.float64), weights.astype(np.float64))
    bias = np.round(generator.normal(0, 0.1 * accumulated.std(), scales.size)).astype(np.int64)
    real = (accumulated + bias) * (float(step) * scales.astype(np.float64))
    top = {"int8": 127, "int16": 32767, "float32": 1}[case.activations]
    out_step = np.float32(3.1 * real.std() / top)
    model = _model(case, (source.shape, real.shape), weights, scales, bias, (step, out_step))
    if case.activations == "float32":
        return Probe(model, source, real)
    return Probe(model, source, np.clip(real / float(out_step), -top - 1, top))


def _weight_shape(case: Case) -> tuple[int, ...]:
    if case.operator == "FULLY_CONNECTED":
        return (FAN_IN, case.fan_in)
    return (1 if case.operator == "DEPTHWISE_CONV_2D" else CHANNELS, WINDOW, WINDOW, CHANNELS)


def _source(case: Case, generator: np.random.Generator) -> np.ndarray:
    shape = (1, case.fan_in) if case.operator == "FULLY_CONNECTED" else (1, SIDE, SIDE, CHANNELS)
    if case.activations == "float32":
        return generator.normal(0, 1, shape).astype(np.float32)
    # int16 inputs stay small enough for 32-bit accumulators, which otherwise wrap.
    low, high = (-128, 127) if case.activations == "int8" else (-3000, 3000)
    return generator.integers(low, high + 1, shape).astype(case.activations)


def _accumulate(case: Case, source: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Sums of products; convolutions have stride 1 but for the transposed one, and no padding."""
    if case.operator == "FULLY_CONNECTED":
        return source @ weights.T
    if case.operator == "TRANSPOSE_CONV":
        return _spread(source, weights)
    windows = np.lib.stride_tricks.sliding_window_view(source, (WINDOW, WINDOW), axis=(1, 2))
    if case.operator == "CONV_2D":
        return np.einsum("nyxcij,oijc->nyxo", windows, weights)
    return np.einsum("nyxcij,ijc->nyxc", windows, weights[0])


def _spread(source: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Every pixel adds its multiple of the kernel to a window of the output."""
    side, reach = (SIDE - 1) * STRIDE + WINDOW, SIDE * STRIDE
    total = np.zeros((1, side, side, CHANNELS))
    for row, column in np.ndindex(WINDOW, WINDOW):
        total[:, row : row + reach : STRIDE, column : column + reach : STRIDE] += (
            source @ weights[:, row, column].T
        )
    return total


def _model(
    case: Case,
    shapes: tuple[tuple[int, ...], tuple[int, ...]],
    weights: np.ndarray,
    scales: np.ndarray,
    bias: np.ndarray,
    steps: tuple[np.float32, np.float32],
) -> bytes:
    """The file; shapes and steps are those of the input and of the output."""
    model = schema.ModelT()
    model.version, model.operatorCodes, model.buffers = 3, [], [schema.BufferT()]
    graph = schema.SubGraphT()
    graph.tensors, graph.operators, model.subgraphs = [], [], [graph]
    kind, axis = _TENSOR_TYPES[case.activations], CHANNEL_AXIS[case.operator]
    real = case.activations == "float32"
    held = scales if case.per_channel else scales[:1]
    entry = add_tensor(model, "x", shapes[0], kind, None if real else quantization(steps[0]))
    read = _add_weights(model, case, weights, quantization(held, axis=axis))
    bias_index = _add_bias(model, case, bias, steps[0] * held, scales)
    operands = [entry, read, bias_index]
    if case.operator == "TRANSPOSE_CONV":
        extent = add_tensor(model, "", (4,), schema.TensorType.INT32, None, np.array(shapes[1], np.int32))
        operands = [extent, read, entry, bias_index]
    leaving = add_tensor(model, "y", shapes[1], kind, None if real else quantization(steps[1]))
    operator = schema.OperatorT()
    operator.opcodeIndex = operator_code(
        model,
        case.operator,
        _VERSIONS[case.operator, case.activations][8 if case.cast else case.weight_bits],
    )
    operator.inputs = np.array(operands, np.int32)
    operator.outputs = np.array([leaving], np.int32)
    operator.builtinOptions = _options(case)
    name = type(operator.builtinOptions).__name__.removesuffix("T")
    operator.builtinOptionsType = getattr(schema.BuiltinOptions, name)
    graph.operators.append(operator)
    graph.inputs, graph.outputs = np.array([entry], np.int32), np.array([leaving], np.int32)
    return write_model(model)


def _add_weights(model: Any, case: Case, weights: np.ndarray, grid: Any) -> int:
    kind, packed = TYPE_OF_BITS[case.weight_bits], pack(weights, case.weight_bits)
    if not case.cast:
        return add_tensor(model, "w", weights.shape, kind, grid, packed)
    source = add_tensor(model, "w", weights.shape, kind, None, packed)
    for target, parameters in ((schema.TensorType.FLOAT32, None), (schema.TensorType.INT8, grid)):
        widened = add_tensor(model, "", weights.shape, target, parameters)
        operator = schema.OperatorT()
        operator.opcodeIndex = operator_code(model, "CAST", 6)
        operator.inputs, operator.outputs = np.array([source], np.int32), np.array([widened], np.int32)
        operator.builtinOptionsType = schema.BuiltinOptions.CastOptions
        operator.builtinOptions = schema.CastOptionsT()
        operator.builtinOptions.inDataType = model.subgraphs[0].tensors[source].type
        operator.builtinOptions.outDataType = target
        model.subgraphs[0].operators.append(operator)
        source = widened
    return source


def _add_bias(model: Any, case: Case, bias: np.ndarray, grid: np.ndarray, scales: np.ndarray) -> int:
    if case.activations == "float32":
        values = (bias * scales.astype(np.float64)).astype(np.float32)
        return add_tensor(model, "b", bias.shape, schema.TensorType.FLOAT32, None, values)
    wide = case.operator == "DEPTHWISE_CONV_2D" and case.activations == "int16"
    kind, dtype = (schema.TensorType.INT64, np.int64) if wide else (schema.TensorType.INT32, np.int32)
    return add_tensor(model, "b", bias.shape, kind, quantization(grid), bias.astype(dtype))


def _options(case: Case) -> Any:
    if case.operator == "FULLY_CONNECTED":
        return schema.FullyConnectedOptionsT()
    options = {
        "CONV_2D": schema.Conv2DOptionsT,
        "DEPTHWISE_CONV_2D": schema.DepthwiseConv2DOptionsT,
        "TRANSPOSE_CONV": schema.TransposeConvOptionsT,
    }[case.operator]()
    stride = STRIDE if case.operator == "TRANSPOSE_CONV" else 1
    options.padding, options.strideH, options.strideW = schema.Padding.VALID, stride, stride
    if case.operator == "DEPTHWISE_CONV_2D":
        options.depthMultiplier = 1
    elif case.activations == "int16":
        # Without it the kernels for int16 take the biases for 64-bit ones.
        options.quantizedBiasType = schema.TensorType.INT32
    return options
