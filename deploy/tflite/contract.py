"""The contract of a file: what has to be put in and what comes out, for those who never saw the training."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from tfmpq.data.preprocess import PREPROCESSINGS, pixels_of
from tfmpq.deploy.tflite.flatbuffer import TYPE_NAMES, add_buffer, builtin_name, printable, reading
from tfmpq.deploy.tflite.layout import tensor_name
from tfmpq.deploy.tflite.metadata import read_facts
from tfmpq.deploy.tflite.read_app_metadata import read_app_metadata
from tfmpq.errors import TfmpqError

ENTRY = b"tfmpq.interface"

Holds = Literal["pixels", "values"]
"""`pixels`: a tensor takes the bytes of an image, uint8 as they are and int8 less 128. `values`: preprocessed
numbers, which a quantized tensor holds as round(value / scale) + zero point."""

_NEAR = 1e-4
"""Relative difference of a trained step, a float32 logarithm, from the distance between two pixels."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """An input or output of a file.

    Attributes:
        name: What the signature calls it, or the tensor's own name.
        type: Type of its elements, for example `uint8`.
        shape: Shape with the batch axis.
        scale: Step of a quantized tensor; None for others.
        zero_point: Code of 0 in a quantized tensor; None for others.
    """

    name: str
    type: str
    shape: tuple[int, ...]
    scale: float | None
    zero_point: int | None


@dataclass(frozen=True, slots=True)
class Contract:
    """What a file takes and gives.

    Attributes:
        inputs: Its inputs.
        outputs: Its outputs.
        holds: What the first input takes; None if the file does not say.
        preprocessing: Name of the preprocessing that makes `values` of pixels; None if the file does not say.
        mean: Mean that the standard metadata name, in pixels, a number a channel; empty without.
        std: What is divided by then.
        probabilities: Whether the output is a softmax.
        labels: Names of the classes; empty without a file of them.
        description: One line; empty without standard metadata.
    """

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    holds: Holds | None
    preprocessing: str | None
    mean: tuple[float, ...]
    std: tuple[float, ...]
    probabilities: bool
    labels: tuple[str, ...]
    description: str

    def to_json(self) -> dict[str, Any]:
        """All fields."""
        return asdict(self)

    def codes(self, values: np.ndarray) -> np.ndarray:
        """What the input tensor has to hold for preprocessed values.

        Args:
            values: float32 (N, height, width, channels).

        Returns:
            Array of the input's type; ties are rounded to even.
        """
        entry = self.inputs[0]
        kind = np.dtype(entry.type)
        if not np.issubdtype(kind, np.integer):
            return np.asarray(values, kind)
        if self.holds == "pixels" and self.preprocessing is not None:
            pixels = pixels_of(values, self.preprocessing).astype(np.int16)
            return (pixels + np.iinfo(kind).min).astype(kind)
        if entry.scale is None or entry.zero_point is None:
            return np.asarray(values, kind)
        steps = np.round(np.asarray(values, np.float32) / np.float32(entry.scale)) + entry.zero_point
        limits = np.iinfo(kind)
        return np.clip(steps, limits.min, limits.max).astype(kind)


def read_contract(model: Any, content: bytes, name: str | Path = "model") -> Contract:
    """The contract of a file of ours or of anybody's.

    Args:
        model: The file in object form.
        content: Its bytes.
        name: What to call the file in an error.

    Raises:
        TfmpqError: The file is damaged.
    """
    facts = read_facts(model, name)
    with reading(name):
        graph = model.subgraphs[0]
        names = _signature_names(model)
        inputs = tuple(_tensor(graph.tensors[int(index)], names.get(int(index))) for index in graph.inputs)
        outputs = tuple(_tensor(graph.tensors[int(index)], names.get(int(index))) for index in graph.outputs)
        known = facts.get("preprocessing")
        known = known if isinstance(known, str) else None
        app = read_app_metadata(model, content)
        interface = read_interface(model, name)
        makers = {int(index): op for op in graph.operators or [] for index in op.outputs}
        return Contract(
            inputs,
            outputs,
            _holds(inputs, known, interface),
            known,
            app.mean if app else (),
            app.std if app else (),
            bool(outputs) and _is_softmax(model, makers, int(graph.outputs[0])),
            tuple(map(printable, app.labels)) if app else (),
            printable(app.description) if app else "",
        )


def _holds(
    inputs: tuple[Tensor, ...], preprocessing: str | None, interface: Mapping[str, Any]
) -> Holds | None:
    if preprocessing is None or len(inputs) != 1:
        return None
    if interface.get("pixels") is not None:
        return "pixels"
    return "pixels" if pixels_are_codes(preprocessing, inputs[0]) else "values"


def pixels_are_codes(preprocessing: str, tensor: Tensor) -> bool:
    """Whether the codes of a quantized tensor are the pixels that a preprocessing scales, int8 less 128.

    A pixel stands for its preprocessed value to half a step.
    """
    rule = PREPROCESSINGS.get(preprocessing)
    if rule is None or len(rule.scale) > 1 or len(rule.offset) > 1 or rule.reverse:
        return False
    if tensor.scale is None or tensor.zero_point is None or tensor.type not in ("int8", "uint8"):
        return False
    (scale,), (offset,) = rule.scale, rule.offset
    first = (np.iinfo(tensor.type).min - tensor.zero_point) * tensor.scale
    return abs(tensor.scale - scale) <= _NEAR * scale and abs(first - offset) <= (0.5 + 256 * _NEAR) * scale


def normalization(preprocessing: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and divisor of each channel, in pixels; one of each if all channels have the same.

    Raises:
        KeyError: There is no such preprocessing.
    """
    rule = PREPROCESSINGS[preprocessing]
    channels = max(len(rule.scale), len(rule.offset))
    scale, offset = (np.broadcast_to(np.array(values), channels) for values in (rule.scale, rule.offset))
    # Adding 0 makes 0 of -0.
    return tuple(map(float, -offset / scale + 0.0)), tuple(map(float, 1.0 / scale))


def write_interface(model: Any, interface: Mapping[str, Any]) -> None:
    """Record what lies around the network proper, in a metadata entry of its own."""
    entry = schema.MetadataT()
    entry.name = ENTRY
    text = json.dumps(dict(interface), separators=(",", ":")).encode()
    entry.buffer = add_buffer(model, np.frombuffer(text, np.uint8))
    model.metadata = [held for held in model.metadata or [] if held.name != ENTRY] + [entry]


def read_interface(model: Any, name: str | Path = "model") -> dict[str, Any]:
    """What a file records about its interface; empty where it has none.

    Raises:
        TfmpqError: The record is damaged.
    """
    entry = next((held for held in model.metadata or [] if held.name == ENTRY), None)
    if entry is None:
        return {}
    try:
        found = json.loads(bytes(bytearray(model.buffers[entry.buffer].data)))
    except (ValueError, TypeError):
        found = None
    if not isinstance(found, dict):
        raise TfmpqError(f"{name} has a damaged record of its inputs and outputs. Export it again.")
    return found


def _signature_names(model: Any) -> dict[int, str]:
    names: dict[int, str] = {}
    for signature in model.signatureDefs or []:
        if signature.subgraphIndex == 0:
            for entry in (*(signature.inputs or []), *(signature.outputs or [])):
                names[int(entry.tensorIndex)] = (entry.name or b"").decode(errors="replace")
    return names


def _tensor(tensor: Any, name: str | None) -> Tensor:
    grid = tensor.quantization
    scaled = grid is not None and grid.scale is not None and len(grid.scale) == 1
    points = [] if not scaled or grid.zeroPoint is None else list(grid.zeroPoint)
    return Tensor(
        printable(name or tensor_name(tensor)),
        TYPE_NAMES.get(tensor.type, str(tensor.type)).lower(),
        () if tensor.shape is None else tuple(int(size) for size in tensor.shape),
        float(grid.scale[0]) if scaled else None,
        (int(points[0]) if points else 0) if scaled else None,
    )


def _is_softmax(model: Any, makers: Mapping[int, Any], index: int) -> bool:
    """Whether a tensor is a softmax, quantized once more perhaps."""
    for _ in range(3):
        operator = makers.get(index)
        name = "" if operator is None else builtin_name(model, operator)
        if name == "SOFTMAX":
            return True
        if operator is None or name not in ("QUANTIZE", "DEQUANTIZE"):
            return False
        index = int(operator.inputs[0])
    return False
