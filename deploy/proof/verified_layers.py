"""What a proof says about every layer of a file on disk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tfmpq.deploy.conversion.specialize import specialize
from tfmpq.deploy.conversion.topology import deployable
from tfmpq.deploy.latency.layer_kernels import LayerKernels, layer_kernels
from tfmpq.deploy.proof.verify import Verification
from tfmpq.deploy.runtime.sandbox import Sandbox
from tfmpq.deploy.tflite.flatbuffer import read_model
from tfmpq.deploy.tflite.layout import StoredLayer, stored_layers, tensor_name
from tfmpq.graph.containers import DELEGATED
from tfmpq.graph.frozen import FrozenLayer, FrozenModel


@dataclass(frozen=True, slots=True)
class VerifiedLayer:
    """One layer of the file.

    Attributes:
        name: Layer name.
        kind: What it computes.
        weight_bits: Trained width; None without weights.
        container: Bits per weight in the file; None without weights.
        bytes: Bytes of packed weights, scales and biases.
        delegated: Whether XNNPACK runs it in the form that is executed.
        kernel: The kernel that runs it there, as the runtime's profiler calls it; `XNNPACK` or LiteRT's own
            operator where there is no profiler; None if it was not executed.
        elements: Output elements compared under XNNPACK.
        off_by_one: Of these, how many are one step off.
        off_by_more: Of these, how many are further off.
        builtin_elements: Output elements compared under LiteRT's own kernels.
        builtin_off_by_one: Of these, how many are one step off.
        builtin_off_by_more: Of these, how many are further off.
    """

    name: str
    kind: str
    weight_bits: int | None
    container: int | None
    bytes: int
    delegated: bool | None
    kernel: str | None
    elements: int
    off_by_one: int
    off_by_more: int
    builtin_elements: int
    builtin_off_by_one: int
    builtin_off_by_more: int


def verified_layers(
    frozen: FrozenModel, content: bytes, proof: Verification, sandbox: Sandbox
) -> tuple[tuple[VerifiedLayer, ...], tuple[str, ...]]:
    """What was found out about each layer, in order of execution, and what limits that.

    Args:
        frozen: The network that the file is said to hold.
        content: The file.
        proof: Its proof.
        sandbox: Where the runtime is asked.
    """
    held = {layer.name: layer for layer in stored_layers(read_model(content))}
    delegated: dict[str, bool] = {}
    kernels: LayerKernels | None = None
    if proof.by_layer:
        delegated, kernels = executed(content, proof, sandbox)
    layers = tuple(_layer(layer, held, proof, delegated, kernels) for layer in deployable(frozen).layers[1:])
    problem = kernels.problem if kernels else None
    return layers, (f"the kernels are not told: {problem}",) if problem else ()


def _layer(
    layer: FrozenLayer,
    held: Mapping[str, StoredLayer],
    proof: Verification,
    delegated: Mapping[str, bool],
    kernels: LayerKernels | None,
) -> VerifiedLayer:
    checks = {check.kernels: check for check in proof.by_layer if check.name == layer.name}
    counts = [
        (check.elements, check.off_by_one, check.off_by_more) if check else (0, 0, 0)
        for check in (checks.get("xnnpack"), checks.get("builtin"))
    ]
    stored = held.get(layer.name) if layer.weights else None
    return VerifiedLayer(
        layer.name,
        layer.kind,
        layer.weights.bits if layer.weights else None,
        stored.container_bits if stored else None,
        stored.stored_bytes if stored else 0,
        delegated.get(layer.name),
        kernels.names.get(layer.name) if kernels else None,
        *counts[0],
        *counts[1],
    )


def executed(content: bytes, proof: Verification, sandbox: Sandbox) -> tuple[dict[str, bool], LayerKernels]:
    """Whether XNNPACK runs a layer, by the name of its output tensor, and its kernel."""
    fast = content if proof.target in DELEGATED else specialize(content)
    graph = read_model(fast).subgraphs[0]
    taken = sandbox.call("tfmpq.deploy.runtime.interpreter:plan_facts", fast)["delegated"]
    delegated = {
        tensor_name(graph.tensors[int(operator.outputs[0])]): bool(by_delegate)
        for operator, by_delegate in zip(graph.operators, taken, strict=False)
    }
    return delegated, layer_kernels(fast, delegated)
