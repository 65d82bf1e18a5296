"""The proof of what lies around a network: types, pixels and softmax of a file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from tfmpq.data.preprocess import pixels_of
from tfmpq.deploy.conversion.interface import SOFTMAX_SCALE, Interface, add_interface, network_proper
from tfmpq.deploy.proof.reference import steps_off
from tfmpq.deploy.proof.verify import noise
from tfmpq.deploy.runtime.interpreter import tensor_values
from tfmpq.deploy.runtime.sandbox import Sandbox
from tfmpq.deploy.tflite.contract import read_interface
from tfmpq.deploy.tflite.flatbuffer import builtin_name, contents, read_model, reading
from tfmpq.deploy.tflite.layout import tensor_name
from tfmpq.errors import TfmpqError
from tfmpq.graph.frozen import FrozenModel, TensorGrid

_FLOAT_ERROR = 1e-5
"""Largest error of a softmax in float32, absolute."""

_BIAS_ROUNDING = 0.5 / 127
"""How far, in pixels, the rounded bias of the convolution that takes pixels moves them."""


def split_interface(content: bytes, name: str = "model") -> tuple[bytes, Interface]:
    """The network proper of a file, and what lies around it.

    Raises:
        TfmpqError: The file is damaged, or its ends are not what it records.
    """
    model = read_model(content, name)
    record = read_interface(model, name)
    if not record:
        return content, Interface()
    with reading(name):
        inputs, outputs = record.pop("inputs"), record.pop("outputs")
        interface = Interface.from_json(record)
        core = network_proper(content, inputs, outputs)
        if _computation(read_model(add_interface(core, interface))) != _computation(model):
            raise TfmpqError(
                f"{name} has other operators at its ends than it records ({interface}). Export it again."
            )
    return core, interface


def _computation(model: Any) -> list[Any]:
    """Everything that decides what a file computes, whatever the order of its tables."""
    graph, numbers = model.subgraphs[0], dict[int, int]()

    def tensor(index: int) -> Any:
        if index < 0:
            return None
        held = graph.tensors[index]
        grid = held.quantization
        parts = () if grid is None else (grid.scale, grid.zeroPoint, grid.quantizedDimension)
        described = [None if part is None else np.asarray(part).tolist() for part in parts]
        shape = None if held.shape is None else np.asarray(held.shape).tolist()
        number = numbers.setdefault(index, len(numbers))
        return number, tensor_name(held), shape, held.type, described, contents(model, held).tobytes()

    def operator(held: Any) -> Any:
        code = model.operatorCodes[held.opcodeIndex]
        options = None if held.builtinOptions is None else repr(sorted(vars(held.builtinOptions).items()))
        tensors = [tensor(int(index)) for index in (*held.inputs, *held.outputs)]
        return builtin_name(model, held), code.version, held.builtinOptionsType, options, tensors

    ends = [[tensor(int(index)) for index in indices] for indices in (graph.inputs, graph.outputs)]
    return [*ends, *map(operator, graph.operators)]


def interface_failures(
    content: bytes,
    core: bytes,
    interface: Interface,
    frozen: FrozenModel,
    values: np.ndarray | None = None,
    sandbox: Sandbox | None = None,
) -> Iterator[str]:
    """What of an interface is wrong, one line each.

    Args:
        content: The file.
        core: Its network proper.
        interface: What lies around it.
        frozen: The network.
        values: Preprocessed inputs, float32 (N, height, width, channels); None for noise.
        sandbox: Where the runtime executes the file; None for this process.
    """
    entry = frozen.layers[0].grid
    values = noise(frozen) if values is None else np.asarray(values, np.float32)
    pixels = pixels_of(values, str(frozen.metadata["preprocessing"])) if interface.pixels else None
    codes = entry.quantize(values)
    given = codes if pixels is None else (pixels.astype(np.int16) - 128).astype(np.int8)
    if interface.input_type == "float32":
        given = values
    elif interface.input_type == "uint8":
        given = (given.astype(np.int16) + 128).astype(np.uint8)
    name = frozen.layers[0].name
    own = interface.input_type is None and interface.pixels is None
    read = given if own else _values(sandbox, content, [name], given)[name]
    if interface.pixels is None or pixels is None:
        if not np.array_equal(read, codes):
            yield f"the input reaches the network as other codes ({int((read != codes).sum())} differ)"
    else:
        rule = interface.pixels
        order = pixels[..., ::-1] if rule.reverse else pixels
        real = order * np.array(rule.scale) + np.array(rule.offset)
        wanted = np.clip(real / np.float32(entry.scale) + entry.zero_point, *entry.code_range)
        tie = _BIAS_ROUNDING * max(rule.scale) / entry.scale + 1e-4
        wrong = int((steps_off(wanted, read, tie) > 0).sum())
        if wrong:
            yield f"pixels reach the network as other codes ({wrong} of {read.size} differ)"
    inside = list(_values(sandbox, core, None, read).values())
    outside = list(_values(sandbox, content, None, given).values())
    grids = [frozen.layer(layer).grid for layer in frozen.returned]
    for layer, grid, held, found in zip(frozen.returned, grids, inside, outside, strict=True):
        error = _output_error(interface, grid, held, found)
        if error:
            yield f"output {layer} is {error} away from what the network gives"


def _output_error(interface: Interface, grid: TensorGrid, held: np.ndarray, found: np.ndarray) -> float:
    """How far an output is from what it has to be; 0 if it is right."""
    wanted: np.ndarray = held.astype(np.float64)
    if interface.softmax:
        logits = grid.dequantize(held).astype(np.float64)
        powers = np.exp(logits - logits.max(-1, keepdims=True))
        wanted = powers / powers.sum(-1, keepdims=True)
        if interface.output_type != "float32":
            wanted = np.clip(np.round(wanted / SOFTMAX_SCALE), 0, 255) - 128
    elif interface.output_type == "float32":
        wanted = grid.dequantize(held).astype(np.float64)
    if interface.output_type == "uint8":
        wanted = wanted + 128
    allowed = 0.0
    if interface.softmax:
        allowed = _FLOAT_ERROR if interface.output_type == "float32" else 1.0
    error = float(np.abs(found.astype(np.float64) - wanted).max())
    return error if error > allowed else 0.0


def _values(sandbox: Sandbox | None, *arguments: Any) -> dict[str, np.ndarray]:
    function: Callable[..., Any] = tensor_values
    if sandbox is None:
        return function(*arguments, "default")
    return sandbox.call(f"{function.__module__}:{function.__name__}", *arguments, "default")
