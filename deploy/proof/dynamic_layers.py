"""What a proof says about every layer of a file of float activations, the kernels that ran it included."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from tfmpq.deploy.proof.verified_layers import VerifiedLayer, executed
from tfmpq.deploy.proof.verify import LayerCheck, Verification
from tfmpq.deploy.runtime.sandbox import Sandbox
from tfmpq.graph.dynamic import DynamicLayer, DynamicModel

_QUANTIZED_INPUTS = ("QD8", "QDU8")
"""XNNPACK's names of inputs that a kernel quantizes, by itself or for processors that take them unsigned."""


def dynamic_layers(
    frozen: DynamicModel, content: bytes, proof: Verification, sandbox: Sandbox
) -> tuple[tuple[VerifiedLayer, ...], tuple[str, ...], tuple[str, ...]]:
    """The layers in order of execution, what is wrong with their kernels, and what is not told.

    Args:
        frozen: The network that the file is said to hold.
        content: The file.
        proof: Its proof.
        sandbox: Where the runtime is asked.
    """
    if not proof.by_layer:
        return (), (), ()
    delegated, kernels = executed(content, proof, sandbox)
    checks = {check.name: check for check in proof.by_layer}
    computed = [layer for layer in frozen.layers if layer.name in checks]
    layers = tuple(
        _layer(layer, checks[layer.name], delegated.get(layer.name), kernels.names.get(layer.name))
        for layer in computed
    )
    if kernels.problem:
        return layers, (), (f"the kernels are not told: {kernels.problem}",)
    return layers, tuple(_other_kernels(frozen, kernels.names)), ()


def _layer(
    layer: DynamicLayer, check: LayerCheck, delegated: bool | None, kernel: str | None
) -> VerifiedLayer:
    weights = layer.weights
    return VerifiedLayer(
        name=layer.name,
        kind=layer.kind,
        weight_bits=weights.bits if weights else None,
        container=weights.container if weights else None,
        bytes=weights.stored_bytes if weights else 0,
        delegated=delegated,
        kernel=kernel,
        elements=check.elements,
        off_by_one=check.off_by_one,
        off_by_more=check.off_by_more,
        builtin_elements=0,
        builtin_off_by_one=0,
        builtin_off_by_more=0,
    )


def _other_kernels(frozen: DynamicModel, names: Mapping[str, str]) -> Iterator[str]:
    """Layers whose kernel does not quantize its input, or reads weights of another width."""
    for layer in frozen.weighted:
        weights = layer.weights
        if weights is None or weights.reads is None or layer.name not in names:
            continue
        wanted = f"QC{weights.container}W"
        given = names[layer.name]
        if wanted not in given or not any(f"{word}, F32" in given for word in _QUANTIZED_INPUTS):
            yield f"layer {layer.name} ran in {given}, not in a kernel of quantized inputs and {wanted}"
