"""Running a `.tflite` with LiteRT: logits, values of single tensors, what was delegated."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from tfmpq.deploy.runtime.quiet import quiet_stderr
from tfmpq.deploy.runtime.sandbox import Sandbox
from tfmpq.deploy.runtime.soundness import refuse_wrong
from tfmpq.deploy.tflite.contract import read_contract
from tfmpq.deploy.tflite.flatbuffer import printable, read_file, read_model, reading, write_model
from tfmpq.deploy.tflite.metadata import read_facts
from tfmpq.errors import TfmpqError, UsageError
from tfmpq.tasks.outputs import PROBABILITY, Output

Kernels = Literal["default", "builtin"]
"""`default` applies XNNPACK, as LiteRT does by itself; `builtin` runs LiteRT's own kernels."""


def open_interpreter(content: bytes, kernels: Kernels = "default", threads: int = 1) -> Any:
    """An interpreter with allocated tensors.

    Raises:
        TfmpqError: The runtime refuses the file.
    """
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    resolver = {
        "default": OpResolverType.AUTO,
        "builtin": OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    }[kernels]
    try:
        with quiet_stderr():
            interpreter = Interpreter(
                model_content=content, num_threads=threads, experimental_op_resolver_type=resolver
            )
            interpreter.allocate_tensors()
    except (RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:300]
        raise TfmpqError(
            f"LiteRT has to accept the file. Received: a file that it refuses with: {reason}. "
            "Export it again, or use a newer ai-edge-litert."
        ) from error
    return interpreter


@dataclass(frozen=True, slots=True)
class ExecutionPlan:
    """What of a graph the default delegate took.

    Attributes:
        partitions: Number of delegated partitions.
        complete: Whether one partition reaches from the input to the output, so that nothing runs outside it.
        operators: Names of the operators of the file, in order.
        delegated: For each of them, whether XNNPACK runs it.
    """

    partitions: int
    complete: bool
    operators: tuple[str, ...]
    delegated: tuple[bool, ...]


def execution_plan(content: bytes) -> ExecutionPlan:
    """Ask the runtime how it would execute a file."""
    interpreter = open_interpreter(content)
    nodes = interpreter._get_ops_details()
    delegates = [node for node in nodes if node["op_name"] == "DELEGATE"]
    sources = {int(detail["index"]) for detail in interpreter.get_input_details()}
    outputs = {int(detail["index"]) for detail in interpreter.get_output_details()}
    operators = [node for node in nodes if node["op_name"] != "DELEGATE"]
    computed = {int(index) for node in operators for index in node["outputs"]}
    complete = len(delegates) == 1 and all(
        {int(i) for i in node["inputs"]} & (computed | sources) == sources
        and outputs == {int(i) for i in node["outputs"]}
        for node in delegates
    )
    names = tuple(str(node["op_name"]) for node in operators)
    return ExecutionPlan(len(delegates), complete, names, _delegated(operators, delegates))


def _delegated(
    operators: Sequence[Mapping[str, Any]], delegates: Sequence[Mapping[str, Any]]
) -> tuple[bool, ...]:
    """Which operators lie between the inputs and the outputs of a delegated partition."""
    producers = {int(index): number for number, node in enumerate(operators) for index in node["outputs"]}
    taken: set[int] = set()
    for delegate in delegates:
        entries = {int(index) for index in delegate["inputs"]}
        pending = [int(index) for index in delegate["outputs"]]
        while pending:
            index = pending.pop()
            number = producers.get(index)
            if index in entries or number is None or number in taken:
                continue
            taken.add(number)
            pending += [int(i) for i in operators[number]["inputs"]]
    return tuple(number in taken for number in range(len(operators)))


def tensor_values(
    content: bytes, names: Sequence[str] | None, codes: np.ndarray, kernels: Kernels, threads: int = 2
) -> dict[str, np.ndarray]:
    """What tensors hold after each image has been run.

    Args:
        content: Bytes of a `.tflite`.
        names: Tensors to read, which become outputs of the graph; None for the outputs that it has.
        codes: Input images (N, height, width, channels), as the input tensor holds them.
        kernels: Which kernels execute it.
        threads: Threads of the runtime.

    Returns:
        Arrays (N, ...) by tensor name.

    Raises:
        TfmpqError: The runtime refuses the file, or a tensor is not there.
    """
    if names is not None:
        content = with_outputs(content, names)
    interpreter = open_interpreter(content, kernels, threads)
    source = interpreter.get_input_details()[0]["index"]
    outputs = interpreter.get_output_details()
    found: dict[str, list[np.ndarray]] = {detail["name"]: [] for detail in outputs}
    for index in range(len(codes)):
        interpreter.set_tensor(source, codes[index : index + 1])
        interpreter.invoke()
        for detail in outputs:
            found[detail["name"]].append(interpreter.get_tensor(detail["index"]))
    return {name: np.concatenate(arrays) for name, arrays in found.items()}


def with_outputs(content: bytes, names: Sequence[str]) -> bytes:
    """A file whose outputs are the tensors of these names.

    Raises:
        TfmpqError: A tensor is not there.
    """
    model = read_model(content)
    graph = model.subgraphs[0]
    index = {(tensor.name or b"").decode(errors="replace"): i for i, tensor in enumerate(graph.tensors)}
    missing = next((name for name in names if name not in index), None)
    if missing is not None:
        raise TfmpqError(
            f"A tensor is read by its name. Received: {missing}, which the file has not. Check the name."
        )
    graph.outputs = np.array([index[name] for name in names], np.int32)
    model.signatureDefs = None
    return write_model(model)


def plan_facts(content: bytes) -> dict[str, Any]:
    """`execution_plan` as JSON types; called in a sandbox."""
    return asdict(execution_plan(content))


class Network:
    """A `.tflite` of images, ready to run.

    Attributes:
        image_shape: (height, width, channels) of the input.
        outputs: Its outputs in order, named as the signature of the file names them, or else its tensors.
        quantized: Whether its input is an integer tensor.
        metadata: What the exporter recorded; empty for files of others.
    """

    def __init__(self, content: bytes, name: str, threads: int, kernels: Kernels) -> None:
        model = read_model(content, name)
        self.metadata = read_facts(model, name)
        self._contract = read_contract(model, content, name)
        with reading(name):
            refuse_wrong(model, name)
            names = _output_names(model)
        self._name = name
        self._interpreter = open_interpreter(content, kernels, threads)
        inputs, self._outputs = self._interpreter.get_input_details(), self._interpreter.get_output_details()
        if len(inputs) != 1 or len(inputs[0]["shape"]) != 4:
            raise UsageError(
                f"A classifier takes one batch of images. Received: {name} with inputs "
                f"{[list(map(int, d['shape'])) for d in inputs]}. Give a classifier."
            )
        self._input = inputs[0]
        height, width, channels = (int(size) for size in self._input["shape"][1:])
        self.image_shape = (height, width, channels)
        self.outputs = tuple(
            Output(names[int(detail["index"])], _shape_for_image(detail), _cut(detail))
            for detail in self._outputs
        )
        self.quantized = bool(np.issubdtype(self._input["dtype"], np.integer))

    def run(self, images: np.ndarray) -> np.ndarray:
        """Logits of a batch, from a network of one output.

        Args:
            images: float32 (N, height, width, channels), preprocessed.

        Returns:
            float32 (N, classes).

        Raises:
            UsageError: The images have another shape, or there are several outputs.
        """
        return _logits(self.run_all(images), self._name)

    def run_all(self, images: np.ndarray) -> list[np.ndarray]:
        """All outputs for a batch, float32 (N, ...) each; otherwise as `run`."""
        if images.ndim != 4 or images.shape[1:] != self.image_shape:
            raise UsageError(
                f"Images have the shape of the input, (N, {', '.join(map(str, self.image_shape))}). "
                f"Received: {images.shape}. Resize them."
            )
        codes = self._contract.codes(images)
        found = [np.empty((len(images), *output.shape), np.float32) for output in self.outputs]
        # One image at a time: the graph has batch size 1, and at that size the delegate is fastest anyway.
        for index in range(len(codes)):
            self._interpreter.set_tensor(self._input["index"], codes[index : index + 1])
            self._interpreter.invoke()
            for values, detail in zip(found, self._outputs, strict=True):
                held = self._interpreter.get_tensor(detail["index"])
                values[index] = to_real(held, detail).reshape(values.shape[1:])
        return found


def _output_names(model: Any) -> dict[int, str]:
    """Names of the outputs of a file, by the index of their tensors."""
    graph = model.subgraphs[0]
    names = {int(index): graph.tensors[int(index)].name for index in graph.outputs}
    for signature in model.signatureDefs or []:
        if signature.subgraphIndex == 0:
            names |= {entry.tensorIndex: entry.name for entry in signature.outputs}
    return {index: printable((name or b"").decode(errors="replace")) for index, name in names.items()}


def _cut(detail: Any) -> float:
    """A half for probabilities, which are on the grid of LOGISTIC or of a hard sigmoid, else 0."""
    scale, zero_point = detail["quantization"]
    steps = (np.float32(1.0 / 256), np.float32(1.0 / 255))
    return PROBABILITY if zero_point == -128 and np.float32(scale) in steps else 0.0


def _shape_for_image(detail: Mapping[str, Any]) -> tuple[int, ...]:
    """Shape of an output without the batch of one image."""
    sizes = tuple(int(size) for size in detail["shape"])
    return sizes[1:] if sizes[:1] == (1,) else sizes


def _logits(found: Sequence[np.ndarray], name: str) -> np.ndarray:
    """The one output of a classifier, (N, classes)."""
    if len(found) != 1:
        raise UsageError(
            f"A classifier answers with logits. Received: {name} with {len(found)} outputs. Run all of them."
        )
    return found[0].reshape(len(found[0]), math.prod(found[0].shape[1:]))


class SandboxedNetwork:
    """A `.tflite` of images in a child process, which a hostile file may crash; as `Network` otherwise."""

    def __init__(self, content: bytes, name: str, threads: int, kernels: Kernels) -> None:
        self._name, self._sandbox = name, Sandbox(name)
        facts = self._sandbox.call(f"{__name__}:open_network", content, name, threads, kernels)
        height, width, channels = facts["image_shape"]
        self.image_shape: tuple[int, int, int] = (height, width, channels)
        self.outputs = tuple(Output(output, tuple(shape), cut) for output, shape, cut in facts["outputs"])
        self.quantized: bool = facts["quantized"]
        self.metadata: dict[str, Any] = facts["metadata"]

    def run(self, images: np.ndarray) -> np.ndarray:
        """Logits of a batch; see `Network.run`."""
        return _logits(self.run_all(images), self._name)

    def run_all(self, images: np.ndarray) -> list[np.ndarray]:
        """All outputs for a batch; see `Network.run_all`."""
        return self._sandbox.call(f"{__name__}:run_network", np.asarray(images))


_served: list[Network] = []
"""The network that this process, if it is a sandbox's child, has open."""


def open_network(content: bytes, name: str, threads: int, kernels: Kernels) -> dict[str, Any]:
    """Open a network for `run_network`, and say what it is; called in a sandbox."""
    network = Network(content, name, threads, kernels)
    _served[:] = [network]
    fields = ("image_shape", "quantized", "metadata")
    outputs = [(output.name, output.shape, output.cut) for output in network.outputs]
    return {field: getattr(network, field) for field in fields} | {"outputs": outputs}


def run_network(images: np.ndarray) -> list[np.ndarray]:
    """All outputs for a batch from the network that is open; called in a sandbox."""
    return _served[0].run_all(images)


def load(
    source: str | Path | bytes, *, threads: int = 1, kernels: Kernels = "default"
) -> Network | SandboxedNetwork:
    """Open a `.tflite` that takes images.

    Args:
        source: File, which is run in a child process, because it may come from anybody; or the bytes of one
            that this process has written, which are run here.
        threads: Threads of the runtime.
        kernels: Which kernels execute it.

    Raises:
        UsageError: It takes something else than images.
        TfmpqError: The file is missing, damaged or refused by the runtime, or the runtime answers it wrongly.
    """
    if isinstance(source, bytes):
        return Network(source, "model", threads, kernels)
    return SandboxedNetwork(read_file(source), str(source), threads, kernels)


def run(source: str | Path | bytes, images: np.ndarray, threads: int = 1) -> np.ndarray:
    """Logits of a batch in one call; see `Network.run`."""
    return load(source, threads=threads).run(images)


def to_real(codes: np.ndarray, detail: Mapping[str, Any]) -> np.ndarray:
    """What a tensor of the runtime holds to float32."""
    if not np.issubdtype(detail["dtype"], np.integer):
        return codes.astype(np.float32)
    scale, zero_point = detail["quantization"]
    return (codes.astype(np.float32) - np.float32(zero_point)) * np.float32(scale)
