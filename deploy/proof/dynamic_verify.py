"""The proof of a file of float activations: it holds the network's numbers, and XNNPACK computes with them.

Every layer is recomputed in float64 from the very inputs that the runtime gave it. Kernels that quantize
what they read are those of XNNPACK; LiteRT's own kernels quantize otherwise, so that they prove nothing here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from tfmpq.deploy.proof.dynamic_readback import dynamic_mismatches
from tfmpq.deploy.proof.dynamic_reference import expected_output
from tfmpq.deploy.proof.verify import LayerCheck, OperatorCheck, Verification, weight_counts
from tfmpq.deploy.runtime.interpreter import plan_facts, tensor_values
from tfmpq.deploy.runtime.sandbox import Sandbox
from tfmpq.deploy.tflite.flatbuffer import read_model
from tfmpq.graph.dynamic import DYNAMIC_TARGET, DynamicLayer, DynamicModel
from tfmpq.graph.equivalence import noise


def verify_dynamic(
    frozen: DynamicModel, content: bytes, images: np.ndarray | None = None, sandbox: Sandbox | None = None
) -> Verification:
    """Prove that a file is the network and that XNNPACK executes it faithfully.

    Args:
        frozen: The network that was written.
        content: The file, read back.
        images: float32 (N, height, width, channels), preprocessed; None for noise.
        sandbox: Where the runtime executes the file; None for this process, if it wrote the file itself.

    Returns:
        The proof, in which an element is off by more where it is beyond its bound.

    Raises:
        TfmpqError: The file is damaged, or the runtime refuses it.
    """

    def ask(function: Callable[..., Any], *arguments: Any) -> Any:
        if sandbox is None:
            return function(*arguments)
        return sandbox.call(f"{function.__module__}:{function.__name__}", *arguments)

    batch = noise(frozen.input_shape)[:2] if images is None else np.asarray(images, np.float32)
    failures = list(dynamic_mismatches(frozen, read_model(content)))
    partitions: int | None = None
    checks: list[OperatorCheck] = []
    by_layer: list[LayerCheck] = []
    if not failures:  # a graph of another shape cannot be recomputed layer by layer
        computed = [layer for layer in frozen.layers if layer.kind not in ("input", "constant")]
        values = {frozen.layers[0].name: batch}
        values |= ask(tensor_values, content, [layer.name for layer in computed], batch, "default")
        by_layer = [_check(frozen, layer, values) for layer in computed]
        checks = _by_kind(by_layer)
        failures += [
            f"layer {check.worst_layer} ({check.kind}): of {check.elements} elements {check.off_by_more} "
            "are further "
            "from their recomputation than float32 explains"
            for check in checks
            if not check.passed
        ]
        given = ask(tensor_values, content, None, batch, "default")
        if not all(_same(value, values[name]) for name, value in given.items()):
            failures.append("the output changes when the tensors inside the graph are read as well")
        plan = ask(plan_facts, content)
        partitions = int(plan["partitions"])
        apart = sum(map(undelegated, frozen.layers))
        if not plan["complete"] and not (apart and partitions <= apart + 1):
            failures.append(f"XNNPACK took {partitions} partitions of the graph, not one that is all of it")
    return Verification(
        DYNAMIC_TARGET,
        *weight_counts(frozen),
        len(batch),
        partitions,
        tuple(checks),
        tuple(failures),
        tuple(by_layer),
    )


def undelegated(layer: DynamicLayer) -> bool:
    """Whether XNNPACK has no operator for a layer: parts with steps, maxima that leave pixels out."""
    if layer.kind == "max_pooling2d" and layer.attributes["pool_size"] != (1, 1):
        pairs = zip(layer.attributes["pool_size"], layer.attributes["strides"], strict=True)
        return any(extent < stride for extent, stride in pairs)
    return layer.kind == "slice" and any(step != 1 for _, _, step in layer.attributes["parts"])


def _same(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether the delegate gives the same where no tensor inside is read, but for the order of float sums."""
    gap = np.linalg.norm((one.astype(np.float64) - other).ravel())
    # One code of a kernel that sees another last bit is worth a 255th of its row.
    return bool(gap <= 1e-2 * np.linalg.norm(other.astype(np.float64).ravel()))


def _check(frozen: DynamicModel, layer: DynamicLayer, values: Mapping[str, np.ndarray]) -> LayerCheck:
    """Recompute a layer from the runtime's own inputs, image after image."""
    outside = 0
    found = values[layer.name]
    for index in range(len(found)):
        inputs = [_value(frozen, name, values, index) for name in layer.inputs]
        expected = expected_output(layer, inputs)
        got = found[index : index + 1].astype(np.float64).reshape(expected.value.shape)
        outside += int((~(np.abs(got - expected.value) <= expected.tolerance)).sum())
    return LayerCheck(layer.name, layer.kind, "xnnpack", found.size, 0, outside)


def _value(frozen: DynamicModel, name: str, values: Mapping[str, np.ndarray], index: int) -> np.ndarray:
    """What a layer gave for an image; constants give the same for all."""
    return values[name][index : index + 1] if name in values else frozen.layer(name).arrays["value"][None]


def _by_kind(checks: Sequence[LayerCheck]) -> list[OperatorCheck]:
    """Sums over the layers of each kind; no element may be beyond its bound."""
    summed = []
    for kind in sorted({check.kind for check in checks}):
        layers = [check for check in checks if check.kind == kind]
        worst = max(layers, key=lambda check: check.off_by_more)
        outside, elements = sum(c.off_by_more for c in layers), sum(c.elements for c in layers)
        named = worst.name if outside else None
        summed.append(
            OperatorCheck(kind, "xnnpack", DYNAMIC_TARGET, elements, 0, outside, named, not outside)
        )
    return summed
