"""The proof of a written file: it holds the trained numbers, and the runtime computes with them as it should.

Every layer is recomputed in float64 from the very inputs that the runtime gave it, so that a deviation is
found in the layer where it arises and is not amplified by depth.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from tfmpq.containers import DELEGATED, Target
from tfmpq.deploy.flatbuffer import read_model, write_model
from tfmpq.deploy.layout import tensor_name
from tfmpq.deploy.readback import mismatches
from tfmpq.deploy.reference import expected_value, steps_off
from tfmpq.deploy.runtime import Kernels, execution_plan, open_interpreter
from tfmpq.deploy.specialize import specialize
from tfmpq.deploy.topology import deployable, undelegated
from tfmpq.frozen import FrozenModel

MAX_SHARE = 1e-4
"""Largest share of a layer kind's elements that may be one step off under XNNPACK; one element always may.

LiteRT's own kernels round twice, so any number of elements may be one step off there; more is a wrong result.
"""

_THREADS = 2


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
class Verification:
    """Proof of one file.

    Attributes:
        target: Form of the file.
        layers: Number of layers with weights whose integers, scales and biases were compared.
        integers: Number of weight integers that were compared.
        images: Number of images on which operators were recomputed.
        delegate_partitions: Partitions of the `litert` form that XNNPACK took; 1 is the whole graph.
        operators: Comparison by layer kind.
        failures: What is wrong, first mismatch first; empty if all is well.
    """

    target: Target
    layers: int
    integers: int
    images: int
    delegate_partitions: int | None
    operators: tuple[OperatorCheck, ...]
    failures: tuple[str, ...] = field(default=())

    @property
    def passed(self) -> bool:
        """Whether the file is proved."""
        return not self.failures

    def to_json(self) -> dict[str, Any]:
        """All fields and `passed`."""
        return {"passed": self.passed, **asdict(self)}


def verify(
    frozen: FrozenModel, content: bytes, target: Target, images: np.ndarray | None = None
) -> Verification:
    """Prove that a file is the network and that the runtime executes it faithfully.

    The storage form is proved by its integers, by LiteRT's own kernels that execute it, and by the `litert`
    form that `specialize` makes of it, which has to hold the same integers and pass as that form.

    Args:
        frozen: The network that was written.
        content: The file, read back.
        target: Which form of the file.
        images: float32 (N, height, width, channels), preprocessed; None for noise.

    Raises:
        TfmpqError: The file is damaged, or the runtime refuses it.
    """
    frozen = deployable(frozen)
    fast = content if target in DELEGATED else specialize(content)
    failures = list(mismatches(frozen, read_model(content), target))
    if target not in DELEGATED:
        failures += [f"specialized: {line}" for line in mismatches(frozen, read_model(fast), "litert")]
    batch = _noise(frozen) if images is None else np.asarray(images, np.float32)
    partitions: int | None = None
    checks: list[OperatorCheck] = []
    if not failures:  # a graph of another shape cannot be recomputed layer by layer
        partitions, checks, failures = _execute(frozen, content, fast, target, batch)
    weights = [layer.weights for layer in frozen.weighted if layer.weights]
    integers = sum(weight.integers.size for weight in weights)
    return Verification(
        target, len(weights), integers, len(batch), partitions, tuple(checks), tuple(failures)
    )


def _execute(
    frozen: FrozenModel, content: bytes, fast: bytes, target: Target, images: np.ndarray
) -> tuple[int, list[OperatorCheck], list[str]]:
    """Delegated partitions, comparisons, and what is wrong with them."""
    values = list(_activations(frozen, fast, images, "default"))
    checks = _check_operators(frozen, values, "litert", "xnnpack")
    same = _same_logits(frozen, fast, values)
    values = list(_activations(frozen, content, images[:1], "builtin"))  # a wrong kernel shows on any image
    checks += _check_operators(frozen, values, target, "builtin")
    failures = list(_failures(checks))
    plan = execution_plan(fast)
    apart = sum(undelegated(layer) for layer in frozen.layers)
    if not plan.complete and not (apart and plan.partitions <= apart + 1):
        failures.append(f"XNNPACK took {plan.partitions} partitions of the graph, not one that is all of it")
    if not same:
        failures.append("the output changes when the tensors inside the graph are read as well")
    return plan.partitions, checks, failures


def _failures(checks: Sequence[OperatorCheck]) -> Iterator[str]:
    for check in checks:
        if not check.passed:
            yield (
                f"layer {check.worst_layer} ({check.kind}) under {check.kernels} kernels: of "
                f"{check.elements} elements {check.off_by_one} are one step off and {check.off_by_more} more"
            )


def _noise(frozen: FrozenModel) -> np.ndarray:
    """Two images: white noise over the whole input range, and coarse patches that reach deep layers."""
    generator = np.random.default_rng(0)
    height, width, channels = frozen.input_shape
    low, high = frozen.layers[0].grid.dequantize(np.array(frozen.layers[0].grid.code_range))
    white = generator.uniform(low, high, (height, width, channels))
    patches = generator.uniform(low, high, (-(-height // 8), -(-width // 8), channels))
    coarse = patches.repeat(8, axis=0).repeat(8, axis=1)[:height, :width]
    return np.stack([white, coarse]).astype(np.float32)


@dataclass(slots=True)
class _Tally:
    """Deviations of one layer kind."""

    elements: int = 0
    one: int = 0
    more: int = 0
    worst: tuple[int, int, str | None] = (0, 0, None)

    def add(self, layer: str, off: np.ndarray) -> None:
        """Count one layer's output."""
        one, more = int((off == 1).sum()), int((off > 1).sum())
        self.elements, self.one, self.more = self.elements + off.size, self.one + one, self.more + more
        if (more, one) > self.worst[:2]:
            self.worst = (more, one, layer)


def _check_operators(
    frozen: FrozenModel, values: Sequence[dict[str, np.ndarray]], form: str, kernels: str
) -> list[OperatorCheck]:
    """Recompute every layer from the runtime's own inputs."""
    tallies: dict[str, _Tally] = {}
    for codes in values:
        for layer in frozen.layers[1:]:
            expected = expected_value(frozen, layer, [codes[name] for name in layer.inputs])
            tallies.setdefault(layer.kind, _Tally()).add(layer.name, steps_off(expected, codes[layer.name]))
    return [
        OperatorCheck(
            kind,
            kernels,
            form,
            tally.elements,
            tally.one,
            tally.more,
            tally.worst[2],
            tally.more == 0 and (kernels == "builtin" or tally.one <= max(1, MAX_SHARE * tally.elements)),
        )
        for kind, tally in sorted(tallies.items())
    ]


def _activations(
    frozen: FrozenModel, content: bytes, images: np.ndarray, kernels: Kernels
) -> Iterator[dict[str, np.ndarray]]:
    """Codes of every layer's output, by layer name, image after image."""
    model = read_model(content)
    graph = model.subgraphs[0]
    index = {tensor_name(tensor): number for number, tensor in enumerate(graph.tensors)}
    names = [layer.name for layer in frozen.layers]
    graph.outputs = np.array([index[name] for name in names[1:]], np.int32)
    interpreter = open_interpreter(write_model(model), kernels, _THREADS)
    source = interpreter.get_input_details()[0]
    details = {detail["name"]: detail["index"] for detail in interpreter.get_output_details()}
    for image in images:
        codes = frozen.layers[0].grid.quantize(image[None])
        interpreter.set_tensor(source["index"], codes)
        interpreter.invoke()
        yield {names[0]: codes} | {name: interpreter.get_tensor(details[name]) for name in names[1:]}


def _same_logits(frozen: FrozenModel, content: bytes, values: Sequence[dict[str, np.ndarray]]) -> bool:
    """Whether the graph as it is, which the delegate may fuse further, computes the very same logits."""
    interpreter = open_interpreter(content, "default", _THREADS)
    source, output = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    for codes in values:
        interpreter.set_tensor(source["index"], codes[frozen.layers[0].name])
        interpreter.invoke()
        if not np.array_equal(interpreter.get_tensor(output["index"]), codes[frozen.layers[-1].name]):
            return False
    return True
