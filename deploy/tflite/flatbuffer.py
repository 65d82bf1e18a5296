"""Reading, writing and editing `.tflite` files; packing of 4-bit and 2-bit integers."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from tfmpq.deploy.tflite.bounds import claims_too_much, constant_problem
from tfmpq.errors import TfmpqError, UsageError

IDENTIFIER = b"TFL3"

TYPE_OF_BITS = {8: schema.TensorType.INT8, 4: schema.TensorType.INT4, 2: schema.TensorType.INT2}
BITS_OF_TYPE = {kind: bits for bits, kind in TYPE_OF_BITS.items()}
TYPE_NAMES = {kind: name for name, kind in vars(schema.TensorType).items() if not name.startswith("_")}
BUILTIN_NAMES = {
    code: name for name, code in vars(schema.BuiltinOperator).items() if not name.startswith("_")
}


def read_model(content: bytes, name: str | Path = "model") -> Any:
    """Unpack a `.tflite` into the object form of the LiteRT schema, with every index checked.

    Args:
        content: The file's bytes.
        name: What to call the file in an error.

    Raises:
        TfmpqError: Not a `.tflite`, truncated or corrupt.
    """
    if content[4:8] != IDENTIFIER:
        raise TfmpqError(
            f"A .tflite file carries the identifier TFL3. Received: {name}, which does not. Give a .tflite "
            "file."
        )
    try:
        problem = claims_too_much(content)
        if not problem:
            model = schema.ModelT.InitFromPackedBuf(content, 0)
            problem = _index_problem(model) or constant_problem(model)
    except Exception as error:  # the generated reader trips over damage in any way Python knows
        problem = f"{type(error).__name__}: {error}".splitlines()[0]
    if problem:
        raise TfmpqError(
            f"A .tflite file has to be whole. Received: {name}, which is damaged ({problem}). Export or copy "
            "it again."
        )
    return model


@contextmanager
def reading(name: str | Path) -> Iterator[None]:
    """Turn what a damaged file makes Python trip over into one clear error.

    For code that follows indices and sizes of a file which `read_model` could not all check.

    Raises:
        TfmpqError: The code inside failed on what the file says.
    """
    try:
        yield
    except UsageError:  # a ValueError, but the file is whole
        raise
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, struct.error) as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        raise TfmpqError(
            f"A .tflite file has to be whole. Received: {name}, which is damaged ({reason}). Export or "
            "copy it again."
        ) from error


def read_file(path: str | Path) -> bytes:
    """The bytes of a `.tflite` file.

    Raises:
        TfmpqError: The file cannot be read.
    """
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise TfmpqError(
            f"A .tflite file has to be readable. Received: {path} ({error.strerror}). Check the path."
        ) from error


def printable(text: str) -> str:
    """A name from a file of others as it may reach a terminal: without line ends and control sequences."""
    return "".join(character if character.isprintable() else "?" for character in text)


def _index_problem(model: Any) -> str | None:
    """Why an index of the model points nowhere; None if all are fine."""
    if not model.subgraphs or not model.buffers or model.operatorCodes is None:
        return "no graph"
    for graph in model.subgraphs:
        tensors, operators = graph.tensors or [], graph.operators or []
        used: list[int] = [*_indices(graph.inputs), *_indices(graph.outputs)]
        for operator in operators:
            if not 0 <= operator.opcodeIndex < len(model.operatorCodes):
                return "an operator without code"
            used += [*_indices(operator.inputs), *_indices(operator.outputs)]
        if used and not (min(used) >= -1 and max(used) < len(tensors)):
            return "an operator reads a tensor that does not exist"
        if any(not 0 <= tensor.buffer < len(model.buffers) for tensor in tensors):
            return "a tensor without buffer"
    if any(not 0 <= entry.buffer < len(model.buffers) for entry in model.metadata or []):
        return "metadata without buffer"
    return None


def _indices(vector: Iterable[int] | None) -> list[int]:
    return [] if vector is None else [int(index) for index in vector]


class _Builder(flatbuffers.Builder):
    """Aligns tensor contents to 16 bytes, as the schema demands, and writes equal vectors once.

    Per-channel zero points, all 0, would otherwise take twice the bytes of the scales.
    """

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self._written: dict[tuple[str, bytes], int] = {}
        self.grids: dict[tuple[Any, ...], int] = {}

    def CreateNumpyVector(self, x: np.ndarray) -> int:
        """Write an array; only tensor contents are arrays of uint8."""
        key = (x.dtype.str, x.tobytes())
        if key not in self._written:
            self._written[key] = self._bytes(x) if x.dtype == np.uint8 else super().CreateNumpyVector(x)
        return self._written[key]

    def _bytes(self, x: np.ndarray) -> int:
        self.StartVector(1, x.size, 16)
        start = int(self.head) - x.size  # type: ignore[has-type]
        self.head = start
        self.Bytes[start : start + x.size] = x.tobytes()
        self.vectorNumElems = x.size
        return self.EndVector()


class _Grid(schema.QuantizationParametersT):
    """Quantization parameters that a file holds once: those of a layer's slices are those of its input."""

    @classmethod
    def of(cls, parameters: Any) -> _Grid:
        """The same parameters; the object form of the schema has no other way to share them."""
        grid = cls()
        for name, value in vars(parameters).items():
            setattr(grid, name, value)
        return grid

    def Pack(self, builder: _Builder) -> int:
        """Write them, or say where they are."""
        key = tuple(_hashable(value) for _, value in sorted(vars(self).items()))
        if key not in builder.grids:
            builder.grids[key] = super().Pack(builder)
        return builder.grids[key]


def _hashable(value: Any) -> Any:
    return np.asarray(value).tobytes() if isinstance(value, (np.ndarray, list)) else value


def write_model(model: Any) -> bytes:
    """Pack a model; tensors, buffers and operator codes that nobody uses are dropped."""
    for graph in model.subgraphs:
        _drop_tensors(graph, model.signatureDefs or [])
        for tensor in graph.tensors:
            if tensor.quantization is not None and tensor.quantization.details is None:
                tensor.quantization = _Grid.of(tensor.quantization)
    _drop_buffers(model)
    _drop_operator_codes(model)
    builder = _Builder(sum(_size(buffer) for buffer in model.buffers) + 65536)
    builder.Finish(model.Pack(builder), IDENTIFIER)
    return bytes(builder.Output())


def _size(buffer: Any) -> int:
    return 0 if buffer.data is None else len(buffer.data)


def _drop_tensors(graph: Any, signatures: Sequence[Any]) -> None:
    used = {*_indices(graph.inputs), *_indices(graph.outputs)}
    for operator in graph.operators:
        used |= {*_indices(operator.inputs), *_indices(operator.outputs)}
    kept = sorted(used - {-1})
    renumbered = {old: new for new, old in enumerate(kept)} | {-1: -1}
    graph.tensors = [graph.tensors[index] for index in kept]
    for owner in (graph, *graph.operators):
        owner.inputs = np.array([renumbered[i] for i in _indices(owner.inputs)], np.int32)
        owner.outputs = np.array([renumbered[i] for i in _indices(owner.outputs)], np.int32)
    for signature in signatures:
        for entry in (*signature.inputs, *signature.outputs):
            entry.tensorIndex = renumbered[int(entry.tensorIndex)]


def _drop_buffers(model: Any) -> None:
    owners = [tensor for graph in model.subgraphs for tensor in graph.tensors] + list(model.metadata or [])
    kept = sorted({0} | {owner.buffer for owner in owners})
    renumbered = {old: new for new, old in enumerate(kept)}
    model.buffers = [model.buffers[index] for index in kept]
    for owner in owners:
        owner.buffer = renumbered[owner.buffer]


def _drop_operator_codes(model: Any) -> None:
    operators = [operator for graph in model.subgraphs for operator in graph.operators]
    kept = sorted({operator.opcodeIndex for operator in operators})
    renumbered = {old: new for new, old in enumerate(kept)}
    model.operatorCodes = [model.operatorCodes[index] for index in kept]
    for operator in operators:
        operator.opcodeIndex = renumbered[operator.opcodeIndex]


def builtin_name(model: Any, operator: Any) -> str:
    """Name of what an operator computes, for example `CONV_2D`."""
    code = model.operatorCodes[operator.opcodeIndex]
    number = max(code.builtinCode, code.deprecatedBuiltinCode)
    return BUILTIN_NAMES.get(number, f"BUILTIN_{number}")


def operator_code(model: Any, name: str, version: int) -> int:
    """Index of an operator code; added to the model if it is not there yet."""
    number = getattr(schema.BuiltinOperator, name)
    for index, code in enumerate(model.operatorCodes):
        if max(code.builtinCode, code.deprecatedBuiltinCode) == number and code.version == version:
            return index
    code = schema.OperatorCodeT()
    code.builtinCode, code.deprecatedBuiltinCode, code.version = number, min(number, 127), version
    model.operatorCodes.append(code)
    return len(model.operatorCodes) - 1


def add_buffer(model: Any, content: np.ndarray) -> int:
    """Append a buffer with the bytes of an array and return its index."""
    buffer = schema.BufferT()
    buffer.data = np.frombuffer(np.ascontiguousarray(content).tobytes(), np.uint8)
    model.buffers.append(buffer)
    return len(model.buffers) - 1


def quantization(scales: Any, zero_point: int = 0, axis: int = 0) -> Any:
    """Quantization parameters with one zero point for all channels."""
    parameters = schema.QuantizationParametersT()
    parameters.scale = np.atleast_1d(np.asarray(scales, np.float32))
    parameters.zeroPoint = np.full(parameters.scale.size, zero_point, np.int64)
    parameters.quantizedDimension = axis
    return parameters


def add_tensor(
    model: Any,
    name: str,
    shape: Sequence[int],
    kind: int,
    grid: Any = None,
    content: np.ndarray | None = None,
) -> int:
    """Append a tensor to the main graph and return its index.

    Args:
        model: Model in object form.
        name: Tensor name; empty for none.
        shape: Shape with batch axis.
        kind: Value of `schema.TensorType`.
        grid: Quantization parameters.
        content: Constant contents, packed.
    """
    tensor = schema.TensorT()
    tensor.name = name.encode() or None
    tensor.shape = np.asarray(shape, np.int32)
    tensor.type, tensor.quantization = kind, grid
    tensor.buffer = 0 if content is None else add_buffer(model, content)
    model.subgraphs[0].tensors.append(tensor)
    return len(model.subgraphs[0].tensors) - 1


def contents(model: Any, tensor: Any) -> np.ndarray:
    """Bytes of a constant tensor, uint8; empty for an activation."""
    data = model.buffers[tensor.buffer].data
    return np.zeros(0, np.uint8) if data is None else np.asarray(data, np.uint8)


def pack(integers: np.ndarray, bits: int) -> np.ndarray:
    """Pack signed integers, element 0 into the low bits of byte 0, two's complement.

    Args:
        integers: int8, any shape, each within `bits` bits.
        bits: 8, 4 or 2.

    Returns:
        uint8, ceil(size * bits / 8) bytes; unused high bits are 0.
    """
    codes = np.ascontiguousarray(integers, np.int8).reshape(-1).view(np.uint8)
    if bits == 8:
        return codes
    per_byte = 8 // bits
    padded = np.zeros(-(-codes.size // per_byte) * per_byte, np.uint8)
    padded[: codes.size] = codes & ((1 << bits) - 1)
    shifts = np.arange(per_byte, dtype=np.uint8) * np.uint8(bits)
    return np.bitwise_or.reduce(padded.reshape(-1, per_byte) << shifts, axis=1).astype(np.uint8)


def _unpacked_bytes(bits: int) -> np.ndarray:
    """For each byte the integers in it, side by side as one wider number."""
    shifts = np.arange(8 // bits, dtype=np.uint8) * np.uint8(bits)
    codes = (np.arange(256, dtype=np.uint8)[:, None] >> shifts) & np.uint8((1 << bits) - 1)
    # Moving the sign bit to the top and back extends it.
    up = np.uint8(8 - bits)
    integers = (codes << up).view(np.int8) >> np.int8(up)
    return integers.view(f"u{8 // bits}").reshape(-1)


_UNPACKED = {bits: _unpacked_bytes(bits) for bits in (4, 2)}


def unpack(data: np.ndarray, bits: int, count: int) -> np.ndarray:
    """The first `count` integers of packed bytes, int8; the inverse of `pack`."""
    data = np.asarray(data, np.uint8)
    return (data if bits == 8 else _UNPACKED[bits][data]).view(np.int8)[:count]
