"""A convolution in a file as an unfolding and a matrix product, and back; see `tfmpq.graph.unfolding`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from tfmpq.deploy.tflite.flatbuffer import add_tensor, builtin_name, contents, operator_code
from tfmpq.deploy.tflite.layout import tensor_name
from tfmpq.graph.unfolding import Order, Shape, Step, Window

_VERSIONS = {"PAD": 2, "RESHAPE": 1, "SLICE": 2, "CONCATENATION": 2}


class Unfolder:
    """Writes unfoldings into one file; constants that are the same are written once.

    Args:
        model: A file in object form.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self._constants: dict[tuple[tuple[int, ...], bytes], int] = {}

    def unfold(self, operator: Any, window: Window, order: Order, grid: Any) -> list[Any]:
        """Have a CONV_2D become a FULLY_CONNECTED; its weights are to be given the shape (channels, fan-in).

        Args:
            operator: The convolution.
            window: How it reads its input.
            order: Of the unfolding.
            grid: Quantization parameters of its input.

        Returns:
            The operators that have to run before it.
        """
        numbers, found = [int(operator.inputs[0])], []
        kind = self._model.subgraphs[0].tensors[numbers[0]].type
        for step in window.unfold(order):
            numbers.append(add_tensor(self._model, "", (1, *step.shape), kind, grid))
            found.append(self._operator(step, [numbers[i] for i in step.inputs], numbers[-1]))
        operator.inputs = np.array([numbers[-1], *operator.inputs[1:]], np.int32)
        become_fully_connected(operator)
        return found

    def _operator(self, step: Step, inputs: list[int], output: int) -> Any:
        operator = schema.OperatorT()
        operator.opcodeIndex = operator_code(self._model, step.kind, _VERSIONS[step.kind])
        operator.builtinOptions = _options(step)
        name = type(operator.builtinOptions).__name__.removesuffix("T")
        operator.builtinOptionsType = getattr(schema.BuiltinOptions, name)
        constants = [self._constant(values) for values in _arguments(step)]
        operator.inputs = np.array([*inputs, *constants], np.int32)
        operator.outputs = np.array([output], np.int32)
        return operator

    def _constant(self, values: np.ndarray) -> int:
        key = (values.shape, values.tobytes())
        if key not in self._constants:
            kind = schema.TensorType.INT32
            self._constants[key] = add_tensor(self._model, "", values.shape, kind, None, values)
        return self._constants[key]


def _arguments(step: Step) -> list[np.ndarray]:
    """Constant inputs of an operator."""
    if step.kind == "PAD":
        return [np.array([(0, 0), *step.pads, (0, 0)], np.int32)]
    if step.kind == "SLICE":
        return [np.array([0, *step.begin], np.int32), np.array([1, *step.shape], np.int32)]
    return []


def _options(step: Step) -> Any:
    if step.kind == "PAD":
        return schema.PadOptionsT()
    if step.kind == "SLICE":
        return schema.SliceOptionsT()
    if step.kind == "RESHAPE":
        options = schema.ReshapeOptionsT()
        options.newShape = np.array([1, *step.shape], np.int32)
        return options
    options = schema.ConcatenationOptionsT()
    options.axis = 3
    return options


def fold(model: Any, operator: Any, producers: Mapping[int, Any], window: Window, order: Order) -> None:
    """Have the matrix product of an unfolding become the CONV_2D again; the unfolding is left to nobody.

    The weights are to be given the shape (channels, *kernel, channels of the input).

    Args:
        model: A file in object form.
        operator: The FULLY_CONNECTED.
        producers: Operators by their first output.
        window: How the convolution reads its input.
        order: Of the unfolding.

    Raises:
        ValueError: What comes before is not this unfolding.
    """
    source = unfolded_input(model, operator, producers, window, order)
    operator.inputs = np.array([source, *operator.inputs[1:]], np.int32)
    options = schema.Conv2DOptionsT()
    options.padding = getattr(schema.Padding, window.padding.upper())
    options.strideH, options.strideW = window.strides
    options.dilationHFactor, options.dilationWFactor = window.dilation
    options.fusedActivationFunction = operator.builtinOptions.fusedActivationFunction
    operator.builtinOptions = options
    operator.builtinOptionsType = schema.BuiltinOptions.Conv2DOptions


def unfolded_input(
    model: Any, operator: Any, producers: Mapping[int, Any], window: Window, order: Order
) -> int:
    """Tensor that an unfolding reads, after a comparison of every operator with what it has to be.

    Raises:
        ValueError: An operator is another.
    """
    steps = window.unfold(order)
    tensors = {len(steps): int(operator.inputs[0])}
    for number in range(len(steps), 0, -1):
        step = steps[number - 1]
        held = producers.get(tensors[number])
        if held is None or not _is(model, held, step):
            raise ValueError(f"no {step.kind} of {step.shape} where a convolution is unfolded")
        for read, index in zip(step.inputs, held.inputs, strict=False):
            if tensors.setdefault(read, int(index)) != int(index):
                raise ValueError(f"a {step.kind} that reads another tensor where a convolution is unfolded")
    return tensors[0]


def _is(model: Any, operator: Any, step: Step) -> bool:
    """Whether an operator is a step: its kind, its settings and the shape and type of its result."""
    tensors, arguments = model.subgraphs[0].tensors, _arguments(step)
    output, entry = tensors[int(operator.outputs[0])], tensors[int(operator.inputs[0])]
    held = operator.inputs[len(step.inputs) :]
    if builtin_name(model, operator) != step.kind or len(held) != len(arguments):
        return False
    if not np.array_equal(output.shape, (1, *step.shape)) or output.type != entry.type:
        return False
    if step.kind == "CONCATENATION" and operator.builtinOptions.axis not in (3, -1):
        return False
    return all(
        tensors[int(index)].type == schema.TensorType.INT32
        and contents(model, tensors[int(index)]).tobytes() == wanted.tobytes()
        for index, wanted in zip(held, arguments, strict=True)
    )


def source_image(model: Any, operator: Any, producers: Mapping[int, Any]) -> Shape:
    """(rows, columns, channels) of what an unfolding reads: the first tensor with a name before it.

    Raises:
        ValueError: There is none, or it is no image.
    """
    graph = model.subgraphs[0]
    index, seen = int(operator.inputs[0]), 0
    while not tensor_name(graph.tensors[index]) and index in producers and seen <= len(graph.operators):
        index, seen = int(producers[index].inputs[0]), seen + 1
    shape = tuple(int(size) for size in graph.tensors[index].shape)
    if len(shape) != 4:
        raise ValueError("a convolution that reads no image")
    return shape[1], shape[2], shape[3]


def become_fully_connected(operator: Any) -> None:
    """Options of a matrix product over the channels of every pixel, for which packed kernels exist."""
    options = schema.FullyConnectedOptionsT()
    options.fusedActivationFunction = operator.builtinOptions.fusedActivationFunction
    options.keepNumDims = True
    operator.builtinOptions = options
    operator.builtinOptionsType = schema.BuiltinOptions.FullyConnectedOptions


def window_of(operator: Any, image: Sequence[int], kernel: tuple[int, int]) -> Window:
    """How a CONV_2D of a file reads its input, of (rows, columns, channels)."""
    options = operator.builtinOptions
    return Window(
        (int(image[0]), int(image[1]), int(image[2])),
        kernel,
        (int(options.strideH), int(options.strideW)),
        (int(options.dilationHFactor), int(options.dilationWFactor)),
        "same" if options.padding == schema.Padding.SAME else "valid",
    )
