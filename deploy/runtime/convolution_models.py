"""Single convolutions as `.tflite` files, as CONV_2D and unfolded, and what each answers, in float64."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from tfmpq.deploy.runtime.probe_models import CHANNELS, SIDE, Probe
from tfmpq.deploy.tflite.flatbuffer import (
    TYPE_OF_BITS,
    add_tensor,
    operator_code,
    pack,
    quantization,
    write_model,
)
from tfmpq.deploy.tflite.layout import VERSIONS, WEIGHTS
from tfmpq.deploy.tflite.metadata import Forms, write_record
from tfmpq.deploy.tflite.unfold import Unfolder, become_fully_connected
from tfmpq.graph.forms import FormOptions
from tfmpq.graph.unfolding import ORDERS, Order, Window

NAME = "convolution"
_STEP, _ZERO_POINT = np.float32(0.0217), -3


@dataclass(frozen=True, slots=True)
class UnfoldedCase:
    """A convolution that is unfolded, with one kind of weights.

    Attributes:
        window: How it reads its input.
        order: Of the unfolding.
        weight_bits: 8, 4 or 2.
    """

    window: Window
    order: Order
    weight_bits: int

    @property
    def operator(self) -> str:
        """What it is called in a matrix of operators."""
        (rows, columns), (stride, _) = self.window.kernel, self.window.strides
        return f"CONV_2D {rows}x{columns}/{stride} unfolded {self.order}"


def unfolded_cases() -> tuple[UnfoldedCase, ...]:
    """Kernels of one and of three pixels, both strides, both orders, all containers."""
    image = (SIDE, SIDE, CHANNELS)
    windows = (
        Window(image, (3, 3), padding="same"),
        Window(image, (3, 3), (2, 2), padding="same"),
        Window(image, (1, 1), (2, 2)),
    )
    return tuple(
        UnfoldedCase(window, order, bits) for window in windows for order in ORDERS for bits in (8, 4, 2)
    )


def unfolded_probe(case: UnfoldedCase) -> Probe:
    """The model of a case, with its answer."""
    return convolution_model(case.window, CHANNELS, case.weight_bits, order=case.order)


def convolution_model(
    window: Window,
    channels: int,
    bits: int,
    *,
    order: Order | None = None,
    product: bool = False,
    container: int | None = None,
    layers: int = 1,
    seed: int = 0,
) -> Probe:
    """Build a file of one convolution with random weights, or of several that read the same input.

    Args:
        window: How it reads its input.
        channels: Output channels.
        bits: Width of the weights.
        order: Of the unfolding; None for none.
        product: Whether a 1x1 convolution is a FULLY_CONNECTED.
        container: Bits per weight in the file; None for 8 in a CONV_2D and those of the weights elsewhere.
        layers: Number of convolutions.
        seed: Of the random numbers.
    """
    model = schema.ModelT()
    model.version, model.operatorCodes, model.buffers = 3, [], [schema.BufferT()]
    graph = schema.SubGraphT()
    graph.tensors, graph.operators, model.subgraphs = [], [], [graph]
    generator, grid = np.random.default_rng(seed), quantization(_STEP, _ZERO_POINT)
    entry = add_tensor(model, "x", (1, *window.image), schema.TensorType.INT8, grid)
    source = generator.integers(-128, 128, (1, *window.image)).astype(np.int8)
    outputs, expected = [], np.zeros(0)
    is_product = product or order is not None
    held = container or (bits if is_product else 8)
    for number in range(layers):
        name = f"{NAME}{number}" if number else NAME
        limit = 2 ** (bits - 1) - 1
        weights = generator.integers(-limit, limit + 1, (channels, *window.kernel, window.image[2]))
        sums = _accumulate(window, source.astype(np.float64) - _ZERO_POINT, weights.astype(np.float64))
        scales = generator.uniform(0.6, 1.4, channels).astype(np.float32) * np.float32(0.0113)
        bias = np.round(generator.normal(0, 0.1 * max(sums.std(), 1.0), channels)).astype(np.int32)
        real = (sums + bias) * (float(_STEP) * scales.astype(np.float64))
        step = np.float32(max(3.1 * real.std(), 0.01) / 127)
        expected = np.clip(real / float(step), -128, 127)
        shape = (channels, window.fan_in) if is_product else weights.shape
        constant = add_tensor(
            model, name + WEIGHTS, shape, TYPE_OF_BITS[held], quantization(scales), pack(weights, held)
        )
        biases = add_tensor(
            model, "", bias.shape, schema.TensorType.INT32, quantization(_STEP * scales), bias
        )
        answer = add_tensor(model, name, real.shape, schema.TensorType.INT8, quantization(step))
        operator = _convolution(window, (entry, constant, biases), answer)
        if order is not None:
            graph.operators += Unfolder(model).unfold(operator, window, order, grid)
        elif product:
            become_fully_connected(operator)
        builtin = "FULLY_CONNECTED" if is_product else "CONV_2D"
        operator.opcodeIndex = operator_code(model, builtin, VERSIONS[builtin, held])
        graph.operators.append(operator)
        outputs.append(answer)
    graph.inputs, graph.outputs = np.array([entry], np.int32), np.array(outputs, np.int32)
    entries: Mapping[str, Any] = {NAME: {"order": order, **window.to_record()}} if order else {}
    write_record(model, {}, {NAME: bits}, Forms(FormOptions(), entries) if entries else None)
    return Probe(write_model(model), source, expected)


def _convolution(window: Window, inputs: tuple[int, int, int], output: int) -> Any:
    operator, options = schema.OperatorT(), schema.Conv2DOptionsT()
    operator.inputs, operator.outputs = np.array(inputs, np.int32), np.array([output], np.int32)
    options.padding = getattr(schema.Padding, window.padding.upper())
    options.strideH, options.strideW = window.strides
    options.dilationHFactor, options.dilationWFactor = window.dilation
    operator.builtinOptions = options
    operator.builtinOptionsType = schema.BuiltinOptions.Conv2DOptions
    return operator


def _accumulate(window: Window, source: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Sums of products, from codes less their zero point and weights (channels, rows, columns, inputs)."""
    padded = np.pad(source, ((0, 0), *window.pads, (0, 0)))
    (rows, columns), (down, right), (tall, wide) = window.output, window.strides, window.dilation
    total = np.zeros((1, rows, columns, len(weights)))
    for i, j in np.ndindex(*window.kernel):
        part = padded[:, i * tall :: down, j * wide :: right][:, :rows, :columns]
        total += part @ weights[:, i, j].T
    return total
