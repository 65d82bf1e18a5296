"""The proof of a written file: it holds the trained numbers, and the runtime computes with them as it should.

Every layer is recomputed in float64 from the very inputs that the runtime gave it, so that a deviation is
found in the layer where it arises and is not amplified by depth.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tfmpq.deploy.conversion.specialize import specialize
from tfmpq.deploy.conversion.topology import deployable, undelegated
from tfmpq.deploy.proof.readback import mismatches
from tfmpq.deploy.proof.reference import expected_value, steps_off, tie_width
from tfmpq.deploy.runtime.interpreter import Kernels, plan_facts, tensor_values
from tfmpq.deploy.runtime.sandbox import Sandbox
from tfmpq.deploy.tflite.flatbuffer import read_model
from tfmpq.graph.containers import DELEGATED, Target
from tfmpq.graph.dynamic import DynamicModel
from tfmpq.graph.frozen import FrozenModel
from tfmpq.results import Result

MAX_SHARE = 1e-4
"""Largest share of a layer kind's elements that may be one step off under XNNPACK; one element always may.

LiteRT's own kernels round twice, so any number of elements may be one step off there; more is a wrong result.
"""


@dataclass(frozen=True, slots=True)
class OperatorCheck:
    """How close all operators of one kind come to their float64 recomputation.

    Attributes:
        kind: Layer kind.
        kernels: `xnnpack` or `builtin`.
        form: `litert` or `storage`: the form of the file that was executed.
        elements: Number of compared output elements, over all layers and images.
        off_by_one: Elements one output step away.
        off_by_more: Elements further away.
        worst_layer: Layer with the most (then the furthest) deviations; None if there are none.
        passed: Whether that is within the bounds.
    """

    kind: str
    kernels: str
    form: str
    elements: int
    off_by_one: int
    off_by_more: int
    worst_layer: str | None
    passed: bool


@dataclass(frozen=True, slots=True)
class LayerCheck:
    """How close one layer comes to its float64 recomputation under one set of kernels.

    Attributes:
        name: Layer name.
        kind: Layer kind.
        kernels: `xnnpack` or `builtin`.
        elements: Number of compared output elements, over all images.
        off_by_one: Elements one output step away.
        off_by_more: Elements further away.
    """

    name: str
    kind: str
    kernels: str
    elements: int
    off_by_one: int
    off_by_more: int


@dataclass(frozen=True, slots=True)
class Verification(Result):
    """Proof of one file.

    Attributes:
        target: Form of the file.
        layers: Number of layers with weights whose integers, scales and biases were compared.
        integers: Number of weight integers that were compared.
        images: Number of images on which operators were recomputed.
        delegate_partitions: Partitions of the `litert` form that XNNPACK took; 1 is the whole graph.
        operators: Comparison by layer kind.
        by_layer: Comparison by layer, in order of execution; left out of the JSON, because it is long.
        failures: What is wrong, first mismatch first; empty if all is well.
    """

    target: Target
    layers: int
    integers: int
    images: int
    delegate_partitions: int | None
    operators: tuple[OperatorCheck, ...]
    failures: tuple[str, ...] = field(default=())
    by_layer: tuple[LayerCheck, ...] = field(default=())

    @property
    def passed(self) -> bool:
        """Whether the file is proved."""
        return not self.failures

    def to_json(self) -> dict[str, Any]:
        """All fields but `by_layer`, and `passed`."""
        fields = Result.to_json(self)
        del fields["by_layer"]
        return {"passed": self.passed, **fields}


def verify(
    frozen: FrozenModel,
    content: bytes,
    target: Target,
    images: np.ndarray | None = None,
    sandbox: Sandbox | None = None,
) -> Verification:
    """Prove that a file is the network and that the runtime executes it faithfully.

    A form that XNNPACK does not take as a whole is proved by its integers, by LiteRT's own kernels that
    execute it, and by the `litert` form that `specialize` makes of it, which has to hold the same integers
    and pass as that form.

    Args:
        frozen: The network that was written.
        content: The file, read back.
        target: Which form of the file.
        images: float32 (N, height, width, channels), preprocessed; None for noise.
        sandbox: Where the runtime executes the file; None for this process, if it wrote the file itself.

    Raises:
        TfmpqError: The file is damaged, or the runtime refuses it.
    """
    frozen = deployable(frozen)
    fast = content if target in DELEGATED else specialize(content)
    failures = list(mismatches(frozen, read_model(content), target))
    if target not in DELEGATED:
        failures += [f"specialized: {line}" for line in mismatches(frozen, read_model(fast), "litert")]
    batch = noise(frozen) if images is None else np.asarray(images, np.float32)
    partitions: int | None = None
    checks: list[OperatorCheck] = []
    by_layer: list[LayerCheck] = []
    if not failures:  # a graph of another shape cannot be recomputed layer by layer
        proof = _Execution(frozen, sandbox)
        by_layer, checks, partitions = proof.run(content, fast, target, batch)
        failures = proof.failures
    return Verification(
        target,
        *weight_counts(frozen),
        len(batch),
        partitions,
        tuple(checks),
        tuple(failures),
        tuple(by_layer),
    )


def weight_counts(frozen: FrozenModel | DynamicModel) -> tuple[int, int]:
    """Numbers of layers with weights, and of their integers."""
    weights = [layer.weights for layer in frozen.weighted if layer.weights]
    return len(weights), sum(weight.integers.size for weight in weights)


class _Execution:
    """Has the runtime execute a network, here or in a sandbox, and compares every layer."""

    def __init__(self, frozen: FrozenModel, sandbox: Sandbox | None) -> None:
        self.frozen, self.sandbox = frozen, sandbox
        self.failures: list[str] = []

    def run(
        self, content: bytes, fast: bytes, target: Target, images: np.ndarray
    ) -> tuple[list[LayerCheck], list[OperatorCheck], int]:
        """Comparisons by layer and by kind, and the partitions that XNNPACK took."""
        form = target if target in DELEGATED else "litert"
        values = self._values(fast, images, "default")
        # XNNPACK has no operators for 16-bit activations.
        wide = self.frozen.wide
        by_layer = check_layers(self.frozen, values, "builtin" if wide else "xnnpack")
        checks = _by_kind(by_layer, form)
        same = self._same_logits(fast, values)
        own: list[LayerCheck] = []
        if not wide:  # else these kernels have run it already
            values = self._values(content, images[:1], "builtin")  # a wrong kernel shows on any image
            own = check_layers(self.frozen, values, "builtin")
            checks += _by_kind(own, target)
        self.failures += _failures(checks)
        partitions = 0 if wide else self._check_plan(fast)
        if not same:
            self.failures.append("the output changes when the tensors inside the graph are read as well")
        return by_layer + own, checks, partitions

    def _ask(self, function: Callable[..., Any], *arguments: Any) -> Any:
        if self.sandbox is None:
            return function(*arguments)
        return self.sandbox.call(f"{function.__module__}:{function.__name__}", *arguments)

    def _values(self, content: bytes, images: np.ndarray, kernels: Kernels) -> dict[str, np.ndarray]:
        """Codes (N, ...) of every layer's output, by layer name."""
        names = [layer.name for layer in self.frozen.layers]
        codes = self.frozen.layers[0].grid.quantize(images)
        return {names[0]: codes} | self._ask(tensor_values, content, names[1:], codes, kernels)

    def _same_logits(self, content: bytes, values: Mapping[str, np.ndarray]) -> bool:
        """Whether the graph as it is, which the delegate may fuse further, computes the very same logits."""
        codes = values[self.frozen.layers[0].name]
        found = self._ask(tensor_values, content, None, codes, "default")
        return all(np.array_equal(logits, values[name]) for name, logits in found.items())

    def _check_plan(self, content: bytes) -> int:
        plan = self._ask(plan_facts, content)
        apart = sum(undelegated(layer) for layer in self.frozen.layers)
        if not plan["complete"] and not (apart and plan["partitions"] <= apart + 1):
            self.failures.append(
                f"XNNPACK took {plan['partitions']} partitions of the graph, not one that is all of it"
            )
        return int(plan["partitions"])


def _failures(checks: Sequence[OperatorCheck]) -> Iterator[str]:
    for check in checks:
        if not check.passed:
            yield (
                f"layer {check.worst_layer} ({check.kind}) under {check.kernels} kernels: of "
                f"{check.elements} elements {check.off_by_one} are one step off and {check.off_by_more} more"
            )


def noise(frozen: FrozenModel) -> np.ndarray:
    """Two images: white noise over the whole input range, and coarse patches that reach deep layers."""
    generator = np.random.default_rng(0)
    height, width, channels = frozen.input_shape
    low, high = frozen.layers[0].grid.dequantize(np.array(frozen.layers[0].grid.code_range))
    white = generator.uniform(low, high, (height, width, channels))
    patches = generator.uniform(low, high, (-(-height // 8), -(-width // 8), channels))
    coarse = patches.repeat(8, axis=0).repeat(8, axis=1)[:height, :width]
    return np.stack([white, coarse]).astype(np.float32)


def check_layers(frozen: FrozenModel, values: Mapping[str, np.ndarray], kernels: str) -> list[LayerCheck]:
    """Recompute every layer from the runtime's own inputs, image after image."""
    checks = []
    for layer in frozen.layers[1:]:
        one = more = 0
        found, tie = values[layer.name], tie_width(frozen, layer)
        for index in range(len(found)):
            inputs = [values[name][index : index + 1] for name in layer.inputs]
            off = steps_off(expected_value(frozen, layer, inputs), found[index : index + 1], tie)
            one, more = one + int((off == 1).sum()), more + int((off > 1).sum())
        checks.append(LayerCheck(layer.name, layer.kind, kernels, found.size, one, more))
    return checks


def _by_kind(checks: Sequence[LayerCheck], form: str) -> list[OperatorCheck]:
    """Sum over the layers of each kind and hold against the bounds."""
    summed = []
    for kind in sorted({check.kind for check in checks}):
        layers = [check for check in checks if check.kind == kind]
        elements, one, more = (
            sum(getattr(check, what) for check in layers)
            for what in ("elements", "off_by_one", "off_by_more")
        )
        worst = max(layers, key=lambda check: (check.off_by_more, check.off_by_one))
        kernels = worst.kernels
        # One element of a small layer is more than the share; LiteRT's own kernels round twice.
        passed = more == 0 and (kernels == "builtin" or one <= max(1, MAX_SHARE * elements))
        named = worst.name if one or more else None
        summed.append(OperatorCheck(kind, kernels, form, elements, one, more, named, passed))
    return summed
