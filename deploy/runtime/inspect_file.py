"""What a `.tflite` file holds: ours or anybody's."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tfmpq.deploy.runtime.sandbox import Sandbox
from tfmpq.deploy.runtime.soundness import wrong_operators
from tfmpq.deploy.tflite.contract import Contract, read_contract
from tfmpq.deploy.tflite.flatbuffer import TYPE_NAMES, builtin_name, printable, read_file, read_model, reading
from tfmpq.deploy.tflite.layout import StoredLayer, stored_layers, tensor_name
from tfmpq.deploy.tflite.metadata import read_forms, read_metadata, read_weight_bits
from tfmpq.deploy.tflite.snippets import kotlin_snippet, python_snippet, takes_mediapipe
from tfmpq.errors import TfmpqError
from tfmpq.results import Result


@dataclass(frozen=True, slots=True)
class LayerFacts:
    """One layer with weights.

    Attributes:
        name: Layer name; in files of others the name of the output tensor.
        operator: Row of the rule table, or the LiteRT operator of float weights.
        shape: Shape of the weights in the file.
        weight_bits: Trained bit-width where the file records it, else None.
        container_bits: Bits per weight in the file.
        decode: `native`, or `cast` where the graph widens the weights.
        bytes: Bytes of packed weights, scales and biases.
        scratch: Bytes that the unfolding of a convolution keeps in memory while it runs; 0 without.
        form: Why the layer has its form, where there was a choice and the file says it.
    """

    name: str
    operator: str
    shape: tuple[int, ...]
    weight_bits: int | None
    container_bits: int
    decode: str
    bytes: int
    scratch: int
    form: str | None


@dataclass(frozen=True, slots=True)
class FileFacts(Result):
    """What a file holds.

    Attributes:
        path: The file.
        bytes: Its size.
        form: `storage` or `litert` for our files, else `other`; `litert` also where both forms are the same.
        layers: Layers with weights, in order of execution.
        size: Sum of the layers' bytes.
        mean_weight_bits: Mean trained bits per weight; None if not recorded.
        inputs: Name, type and shape of the inputs.
        outputs: The same of the outputs.
        operators: Names of all operators, in order.
        delegate_partitions: Partitions that XNNPACK takes on this machine; None if the runtime refuses.
        problems: What of it the runtime refuses or answers with wrong numbers; empty for a sound file.
        metadata: What our exporter recorded.
        contract: What has to be put in and what comes out.
        mediapipe: Whether MediaPipe's ImageClassifier takes the file; if not, `--input-type uint8` makes one.
        python: A program that runs this very file; None without a signature.
        kotlin: The same for Android; None for other files than those of images.
    """

    path: str
    bytes: int
    form: str
    layers: tuple[LayerFacts, ...]
    size: int
    mean_weight_bits: float | None
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    operators: tuple[str, ...]
    delegate_partitions: int | None
    problems: tuple[str, ...]
    metadata: dict[str, Any]
    contract: Contract
    mediapipe: bool
    python: str | None
    kotlin: str | None

    def to_json(self) -> dict[str, Any]:
        """All fields; in `layers` the container is called `container`."""
        layers = [
            {"container" if key == "container_bits" else key: value for key, value in asdict(layer).items()}
            for layer in self.layers
        ]
        return Result.to_json(self) | {"layers": layers}


def inspect_file(path: str | Path) -> FileFacts:
    """Read what a file holds.

    Args:
        path: A `.tflite`.

    Raises:
        TfmpqError: The file is missing or damaged.
    """
    content = read_file(path)
    with Sandbox(path) as sandbox:
        return inspect_content(content, path, sandbox)


def inspect_content(content: bytes, path: str | Path, sandbox: Sandbox) -> FileFacts:
    """Read what the bytes of a file hold; the runtime is asked in the sandbox.

    Raises:
        TfmpqError: The file is damaged.
    """
    model = read_model(content, path)
    with reading(path):
        return _facts(path, content, model, sandbox)


def _facts(path: str | Path, content: bytes, model: Any, sandbox: Sandbox) -> FileFacts:
    graph = model.subgraphs[0]
    bits = read_weight_bits(model, path)
    stored, forms = stored_layers(model), read_forms(model, path)
    trained = [(layer, bits[layer.name]) for layer in stored if layer.name in bits]
    weights = sum(_count(layer) for layer, _ in trained)
    mean = sum(_count(layer) * width for layer, width in trained) / weights if weights else None
    layers = tuple(
        LayerFacts(
            printable(layer.name),
            layer.operator or layer.builtin,
            layer.shape,
            bits.get(layer.name),
            layer.container_bits,
            layer.decode,
            layer.stored_bytes,
            int(forms.layers.get(layer.name, {}).get("scratch", 0)),
            forms.why(layer.name),
        )
        for layer in stored
    )
    contract = read_contract(model, content, path)
    signed = bool(model.signatureDefs) and len(contract.inputs) == 1 and bool(contract.outputs)
    partitions, problems = _runtime_facts(content, sandbox)
    return FileFacts(
        path=str(path),
        bytes=len(content),
        form=_form(stored) if bits else "other",
        layers=layers,
        size=sum(layer.bytes for layer in layers),
        mean_weight_bits=mean,
        inputs=tuple(_describe(graph.tensors[index]) for index in graph.inputs),
        outputs=tuple(_describe(graph.tensors[index]) for index in graph.outputs),
        operators=tuple(builtin_name(model, operator) for operator in graph.operators),
        delegate_partitions=partitions,
        problems=(*wrong_operators(model), *problems),
        metadata=read_metadata(content, path),
        contract=contract,
        mediapipe=bool(contract.inputs and contract.outputs) and takes_mediapipe(contract),
        python=python_snippet(contract, path) if signed else None,
        kotlin=kotlin_snippet(contract, path) if signed else None,
    )


def _count(layer: StoredLayer) -> int:
    return math.prod(layer.shape)


def _form(layers: list[StoredLayer]) -> str:
    """`storage` as soon as a convolution is packed, which the fast form never has."""
    packed = any(layer.container_bits < 8 for layer in layers if layer.builtin != "FULLY_CONNECTED")
    return "storage" if packed else "litert"


def _describe(tensor: Any) -> str:
    shape = "x".join(str(int(size)) for size in tensor.shape)
    return f"{printable(tensor_name(tensor))} {TYPE_NAMES.get(tensor.type, tensor.type)} {shape}"


def _runtime_facts(content: bytes, sandbox: Sandbox) -> tuple[int | None, tuple[str, ...]]:
    """Delegated partitions, and why the runtime does not take the file; asked of a child process."""
    try:
        return int(sandbox.call("tfmpq.deploy.runtime.interpreter:plan_facts", content)["partitions"]), ()
    except TfmpqError as error:
        return None, (str(error),)
