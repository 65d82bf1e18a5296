"""What a file takes and gives, around the network proper: types of input and output, pixels, a softmax.

The network proper has int8 (or int16) codes at both ends. An interface puts operators around it that change
nothing of what it computes, so that the network is proved as it is and the interface for itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from tfmpq.data.preprocess import Affine
from tfmpq.deploy.tflite.flatbuffer import (
    add_tensor,
    operator_code,
    pack,
    quantization,
    read_model,
    write_model,
)
from tfmpq.deploy.tflite.layout import tensor_name
from tfmpq.errors import UsageError

FileType = Literal["uint8", "int8", "float32"]
FILE_TYPES: tuple[FileType, ...] = ("uint8", "int8", "float32")

SOFTMAX_SCALE = 1.0 / 256
"""Step of the probabilities that LiteRT's softmax of int8 gives; their zero point is -128."""

_MULTIPLIER = 127
_KINDS = {
    "uint8": schema.TensorType.UINT8,
    "int8": schema.TensorType.INT8,
    "float32": schema.TensorType.FLOAT32,
}
_VERSIONS = {"ADD": 1, "CONV_2D": 3, "DEQUANTIZE": 3, "QUANTIZE": 2, "SOFTMAX": 2}


@dataclass(frozen=True, slots=True)
class Interface:
    """Types and conversions at the ends of a file.

    Attributes:
        input_type: Type of the input; None for that of the network's codes.
        output_type: Type of the outputs; None for that of the network's codes.
        softmax: Whether the file ends in probabilities.
        pixels: Preprocessing that the file itself does, where it takes pixels that the network's codes are
            not already; None where it does none.
    """

    input_type: FileType | None = None
    output_type: FileType | None = None
    softmax: bool = False
    pixels: Affine | None = None

    @property
    def empty(self) -> bool:
        """Whether it adds nothing to a file."""
        return self == Interface()

    def to_json(self) -> dict[str, Any]:
        """All fields."""
        return asdict(self)

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Interface:
        """Rebuild from `to_json`.

        Raises:
            TypeError, ValueError: They are no such fields.
        """
        pixels = fields.get("pixels")
        given = dict(fields)
        if pixels is not None:
            scale, offset = (tuple(map(float, pixels[key])) for key in ("scale", "offset"))
            given["pixels"] = Affine(scale, offset, bool(pixels["reverse"]))
        found = cls(**given)
        if not {found.input_type, found.output_type} <= {None, *FILE_TYPES}:
            raise ValueError(f"types are {', '.join(FILE_TYPES)}")
        return found


def add_interface(content: bytes, interface: Interface) -> bytes:
    """Put an interface around a network.

    Args:
        content: A file of the network proper, whose ends are int8 or int16 codes.
        interface: What to add.

    Returns:
        Bytes of a file with the same operators in the middle.

    Raises:
        UsageError: The network has no such interface; the reason is named.
    """
    if interface.empty:
        return content
    model = read_model(content)
    graph = model.subgraphs[0]
    _refuse_impossible(graph, interface)
    ends = _Ends(model)
    front = ends.front(int(graph.inputs[0]), interface)
    outputs = [ends.back(int(index), interface) for index in graph.outputs]
    graph.inputs = np.array([front], np.int32)
    graph.outputs = np.array(outputs, np.int32)
    graph.operators = [*ends.before[::-1], *graph.operators, *ends.behind]
    return write_model(model)


def network_proper(content: bytes, inputs: Sequence[str], outputs: Sequence[str]) -> bytes:
    """A file without its interface.

    Args:
        content: The file.
        inputs: Names of the network's own input tensors.
        outputs: Names of its own output tensors.

    Raises:
        LookupError: A tensor is not there.
    """
    model = read_model(content)
    graph = model.subgraphs[0]
    named = {tensor_name(tensor): index for index, tensor in enumerate(graph.tensors)}
    graph.inputs = np.array([named[name] for name in inputs], np.int32)
    graph.outputs = np.array([named[name] for name in outputs], np.int32)
    model.signatureDefs = None
    given = {int(index) for index in graph.inputs}
    needed, kept = {int(index) for index in graph.outputs}, []
    for operator in reversed(graph.operators):
        made = {int(index) for index in operator.outputs}
        if made & needed and not made & given:
            kept.append(operator)
            needed |= {int(index) for index in operator.inputs}
    graph.operators = kept[::-1]
    return write_model(model)


def _refuse_impossible(graph: Any, interface: Interface) -> None:
    tensors = graph.tensors
    wide = tensors[int(graph.inputs[0])].type == schema.TensorType.INT16
    narrow = [kind for kind in (interface.input_type, interface.output_type) if kind in ("uint8", "int8")]
    if wide and (narrow or interface.pixels):
        raise UsageError(
            "Inputs and outputs of a network of 16-bit activations are int16 or float32. Received: "
            f"{' and '.join(narrow)}. Choose float32, or 8-bit activations."
        )
    ranks = [len(tensors[int(index)].shape) for index in graph.outputs]
    if interface.softmax and ranks != [2]:
        raise UsageError(
            "A softmax turns the logits of one output, (1, classes), into probabilities. Received: "
            f"{len(ranks)} outputs of rank {', '.join(map(str, ranks))}. Leave --softmax out."
        )
    if interface.softmax and wide and interface.output_type != "float32":
        raise UsageError(
            "A softmax of 16-bit logits is computed in float32. Received: another output type. Add "
            "--output-type float32."
        )


class _Ends:
    """Operators before and behind a network; those before it are collected from the network outwards."""

    def __init__(self, model: Any) -> None:
        self.model, self.tensors = model, model.subgraphs[0].tensors
        self.before: list[Any] = []
        self.behind: list[Any] = []

    def front(self, entry: int, interface: Interface) -> int:
        """Put what the input needs before a tensor; returns the new input."""
        tensor = self.tensors[entry]
        if interface.input_type == "float32":
            return self._float_front(entry)
        if interface.pixels is not None:
            entry = self._pixels(entry, interface.pixels)
        if interface.input_type != "uint8":
            return entry
        scale, zero_point = _grid(self.tensors[entry])
        outer = self._like(tensor, "uint8", entry, quantization(scale, zero_point + 128))
        self.before.append(self._operator("QUANTIZE", [outer], entry, schema.QuantizeOptionsT()))
        return outer

    def _float_front(self, entry: int) -> int:
        """Quantize real values; those halfway between two codes are moved up first, as in training."""
        scale, zero_point = _grid(self.tensors[entry])
        outer = self._like(self.tensors[entry], "float32", entry)
        if zero_point != -1:
            self.before.append(self._operator("QUANTIZE", [outer], entry, schema.QuantizeOptionsT()))
            return outer
        moved = self._like(self.tensors[entry], "float32", None)
        half = self._add("", (), schema.TensorType.FLOAT32, None, np.float32(0.5 * scale))
        self.before.append(self._operator("QUANTIZE", [moved], entry, schema.QuantizeOptionsT()))
        self.before.append(self._operator("ADD", [outer, half], moved, schema.AddOptionsT()))
        return outer

    def _pixels(self, entry: int, rule: Affine) -> int:
        """A 1x1 convolution that makes the network's codes of pixels; returns the tensor of pixels."""
        tensor = self.tensors[entry]
        channels = int(tensor.shape[-1])
        scale = np.broadcast_to(np.array(rule.scale), channels)
        offset = np.broadcast_to(np.array(rule.offset), channels)
        source = np.arange(channels)[:: -1 if rule.reverse else 1]
        kernel = np.zeros((channels, 1, 1, channels), np.int8)
        kernel[np.arange(channels), 0, 0, source] = _MULTIPLIER
        steps = (scale / _MULTIPLIER).astype(np.float32)
        bias = np.round(offset / steps.astype(np.float64)).astype(np.int32)
        outer = self._like(tensor, "int8", entry, quantization(1.0, -128), "pixels")
        weights = self._add("", kernel.shape, schema.TensorType.INT8, quantization(steps), pack(kernel, 8))
        biases = self._add("", bias.shape, schema.TensorType.INT32, quantization(steps), bias)
        options = schema.Conv2DOptionsT()
        options.padding, options.strideH, options.strideW = schema.Padding.VALID, 1, 1
        options.dilationHFactor = options.dilationWFactor = 1
        self.before.append(self._operator("CONV_2D", [outer, weights, biases], entry, options))
        return outer

    def back(self, leaving: int, interface: Interface) -> int:
        """Put what an output needs behind a tensor; returns the new output."""
        if interface.output_type == "float32":
            leaving = self._behind("DEQUANTIZE", leaving, "float32", None, schema.DequantizeOptionsT())
        if interface.softmax:
            options = schema.SoftmaxOptionsT()
            options.beta = 1.0
            kind = "float32" if interface.output_type == "float32" else "int8"
            grid = None if kind == "float32" else quantization(SOFTMAX_SCALE, -128)
            leaving = self._behind("SOFTMAX", leaving, kind, grid, options, "softmax")
        if interface.output_type == "uint8":
            scale, zero_point = _grid(self.tensors[leaving])
            grid = quantization(scale, zero_point + 128)
            leaving = self._behind("QUANTIZE", leaving, "uint8", grid, schema.QuantizeOptionsT())
        return leaving

    def _behind(
        self, name: str, source: int, kind: str, grid: Any, options: Any, suffix: str | None = None
    ) -> int:
        outer = self._like(self.tensors[source], kind, source, grid, suffix)
        self.behind.append(self._operator(name, [source], outer, options))
        return outer

    def _like(
        self, tensor: Any, kind: str, named_after: int | None, grid: Any = None, suffix: str | None = None
    ) -> int:
        """A tensor of the same shape; `named_after` is the one whose name it extends."""
        name = ""
        if named_after is not None:
            name = f"{tensor_name(self.tensors[named_after])}/{suffix or kind}"
        shape = tuple(int(size) for size in tensor.shape)
        return self._add(name, shape, _KINDS[kind], grid)

    def _add(
        self, name: str, shape: tuple[int, ...], kind: int, grid: Any = None, content: Any = None
    ) -> int:
        return add_tensor(self.model, name, shape, kind, grid, content)

    def _operator(self, name: str, inputs: Sequence[int], output: int, options: Any) -> Any:
        operator = schema.OperatorT()
        operator.opcodeIndex = operator_code(self.model, name, _VERSIONS[name])
        operator.inputs, operator.outputs = np.array(inputs, np.int32), np.array([output], np.int32)
        operator.builtinOptions = options
        operator.builtinOptionsType = getattr(schema.BuiltinOptions, type(options).__name__.removesuffix("T"))
        return operator


def _grid(tensor: Any) -> tuple[float, int]:
    return float(tensor.quantization.scale[0]), int(tensor.quantization.zeroPoint[0])
