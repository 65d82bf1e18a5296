"""A `.tflite` graph written operator by operator, without TensorFlow: batch size 1, float activations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from tfmpq.deploy.tflite.flatbuffer import TYPE_OF_BITS, add_tensor, operator_code, pack, quantization
from tfmpq.graph.frozen import Activation

_TYPES = {"float32": schema.TensorType.FLOAT32, "int32": schema.TensorType.INT32}

FUSED = {
    "linear": schema.ActivationFunctionType.NONE,
    "relu": schema.ActivationFunctionType.RELU,
    "relu6": schema.ActivationFunctionType.RELU6,
}
"""How an operator says which activation it applies."""


class GraphWriter:
    """A graph that grows.

    Attributes:
        model: The model in object form.
    """

    def __init__(self) -> None:
        self.model = schema.ModelT()
        self.model.version = 3
        self.model.buffers, self.model.operatorCodes = [schema.BufferT()], []
        graph = schema.SubGraphT()
        graph.tensors, graph.operators, graph.inputs, graph.outputs = [], [], [], []
        self.model.subgraphs = [graph]
        self._constants: dict[tuple[str, tuple[int, ...], bytes], int] = {}

    @property
    def graph(self) -> Any:
        """The main graph."""
        return self.model.subgraphs[0]

    def shape(self, tensor: int) -> tuple[int, ...]:
        """Shape of a tensor, with the batch."""
        return tuple(int(size) for size in self.graph.tensors[tensor].shape)

    def tensor(self, name: str, shape: Sequence[int]) -> int:
        """A float tensor that an operator fills."""
        return add_tensor(self.model, name, shape, schema.TensorType.FLOAT32)

    def constant(self, value: np.ndarray, name: str = "") -> int:
        """A constant of float32 or int32; equal ones without a name are there once."""
        value = np.ascontiguousarray(value)
        key = (value.dtype.name, value.shape, value.tobytes())
        if not name and key in self._constants:
            return self._constants[key]
        found = add_tensor(self.model, name, value.shape, _TYPES[value.dtype.name], None, value)
        if not name:
            self._constants[key] = found
        return found

    def integers(self, name: str, value: np.ndarray, bits: int, scales: np.ndarray, axis: int) -> int:
        """Constant integers with a scale for each channel, packed into `bits` bits each."""
        grid = quantization(scales, 0, axis)
        return add_tensor(self.model, name, value.shape, TYPE_OF_BITS[bits], grid, pack(value, bits))

    def operator(
        self,
        builtin: str,
        inputs: Sequence[int],
        name: str,
        shape: Sequence[int],
        options: Any = None,
        version: int = 1,
    ) -> int:
        """Append an operator; returns its output, a float tensor of this name and shape."""
        output = self.tensor(name, shape)
        made = schema.OperatorT()
        made.opcodeIndex = operator_code(self.model, builtin, version)
        made.inputs, made.outputs = np.asarray(inputs, np.int32), np.asarray([output], np.int32)
        if options is not None:
            made.builtinOptions = options
            made.builtinOptionsType = getattr(schema.BuiltinOptions, type(options).__name__[:-1])
        self.graph.operators.append(made)
        return output

    def reshape(self, source: int, shape: Sequence[int], name: str) -> int:
        """The same elements in another shape."""
        options = schema.ReshapeOptionsT()
        options.newShape = np.asarray(shape, np.int32)
        return self.operator("RESHAPE", [source, self.constant(options.newShape)], name, shape, options)

    def transpose(self, source: int, axes: Sequence[int], name: str) -> int:
        """Axes in another order."""
        given = self.shape(source)
        order = self.constant(np.asarray(axes, np.int32))
        shape = [given[axis] for axis in axes]
        return self.operator("TRANSPOSE", [source, order], name, shape, schema.TransposeOptionsT())

    def binary(self, builtin: str, one: int, other: int, name: str, activation: Activation = "linear") -> int:
        """ADD, SUB, MUL, MINIMUM or MAXIMUM of two tensors, which are broadcast."""
        kinds = {
            "ADD": schema.AddOptionsT,
            "SUB": schema.SubOptionsT,
            "MUL": schema.MulOptionsT,
            "MINIMUM": schema.MaximumMinimumOptionsT,
            "MAXIMUM": schema.MaximumMinimumOptionsT,
        }
        options = kinds[builtin]()
        if activation != "linear":
            options.fusedActivationFunction = FUSED[activation]
        shape = np.broadcast_shapes(self.shape(one), self.shape(other))
        return self.operator(builtin, [one, other], name, shape, options)

    def mean(self, source: int, axes: Sequence[int], name: str, keep: bool = True) -> int:
        """Mean over some axes."""
        options = schema.ReducerOptionsT()
        options.keepDims = keep
        shape = [
            1 if axis in axes else size
            for axis, size in enumerate(self.shape(source))
            if keep or axis not in axes
        ]
        return self.operator(
            "MEAN", [source, self.constant(np.asarray(axes, np.int32))], name, shape, options
        )
