"""What a file takes on a microcontroller, and whether the runtime there computes it as it should."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass

import numpy as np

from tfmpq.deploy.conversion.microcontroller_form import arena_peak, packed_saving
from tfmpq.deploy.conversion.topology import output_shapes
from tfmpq.deploy.microcontroller.runtime import arena_bytes, is_installed, run_micro
from tfmpq.deploy.proof.verify import LayerCheck, check_layers, noise
from tfmpq.deploy.runtime.interpreter import tensor_values
from tfmpq.deploy.tflite.flatbuffer import TYPE_NAMES, builtin_name, read_model, write_model
from tfmpq.errors import TfmpqError, UsageError
from tfmpq.graph.frozen import FrozenModel
from tfmpq.results import Result

_IMAGES = 4


@dataclass(frozen=True, slots=True)
class MicroComparison(Result):
    """Answers of the microcontroller's runtime beside those of LiteRT's own kernels.

    Each operator rounds for itself, so that answers drift apart with depth, most where an output has a far
    finer step than the tensor before it. Whether the runtime is right is therefore asked of each operator.

    Attributes:
        images: Number of inputs.
        elements: Elements of all outputs.
        off_by_one: Elements of the outputs that differ by one output step.
        off_by_more: Elements that differ by more.
        worst: Largest difference, in output steps.
        operators_off_by_one: Elements of all layers one step away from their float64 recomputation from the
            inputs that this runtime gave them.
        operators_off_by_more: Elements further away; any is an error.
    """

    images: int
    elements: int
    off_by_one: int
    off_by_more: int
    worst: int
    operators_off_by_one: int
    operators_off_by_more: int


@dataclass(frozen=True, slots=True)
class MicroReport(Result):
    """A file on a microcontroller.

    Attributes:
        flash_bytes: Bytes of the model in flash, without facts that only tools read.
        arena_bytes: Bytes of RAM that tflite-micro takes on this 64-bit machine, an upper bound for a 32-bit
            one; None where the package is not installed.
        activation_bytes: Bytes of RAM for activations and unpacked weights, estimated (see `arena_peak`).
        unpacking_bytes: How many of them are there because INT4 weights are unpacked.
        packing_saves_bytes: Bytes of flash that INT4 saves.
        operators: Number of operators by kernel and type of the weights.
        comparison: Answers beside LiteRT's; None where the package is not installed.
        notes: What to know.
    """

    flash_bytes: int
    arena_bytes: int | None
    activation_bytes: int
    unpacking_bytes: int
    packing_saves_bytes: int
    operators: dict[str, int]
    comparison: MicroComparison | None
    notes: tuple[str, ...]


def flash_image(content: bytes) -> bytes:
    """A file without what only tools read: metadata, signatures, names of tensors."""
    model = read_model(content)
    model.metadata = model.signatureDefs = model.description = None
    for graph in model.subgraphs:
        graph.name = None
        for tensor in graph.tensors:
            tensor.name = None
    return write_model(model)


def micro_report(
    content: bytes,
    core: bytes,
    frozen: FrozenModel,
    images: np.ndarray | None = None,
) -> MicroReport:
    """Measure a file for microcontrollers and hold it against LiteRT and float64.

    Args:
        content: The file.
        core: Its network proper.
        frozen: The network, as it was written.
        images: float32 (N, height, width, channels), preprocessed; None for noise.

    Raises:
        TfmpqError: The runtime refuses the file, or an operator is more than one step off.
    """
    image = flash_image(content)
    peak, without = arena_peak(frozen), arena_peak(frozen, unpacking=False)
    saved = packed_saving(frozen)
    notes = []
    arena, comparison = None, None
    if is_installed():
        arena = arena_bytes(image, peak)
        comparison = _compare(core, frozen, images)
    else:
        notes.append("not run on its runtime: tflite-micro is not installed (pip install 'tfmpq[tflm]')")
    if peak - without > saved:
        notes.append(
            f"INT4 saves {saved} bytes of flash and takes {peak - without} bytes of RAM to unpack; "
            "--prefer ram packs only what fits beside the activations"
        )
    return MicroReport(
        len(image), arena, peak, peak - without, saved, operators_by_kernel(content), comparison, tuple(notes)
    )


def refuse_arena(limit: int | None, reports: dict[str, MicroReport]) -> None:
    """Refuse a file that needs more memory than there is.

    Args:
        limit: Bytes of the arena; None for any.
        reports: The file's report first, and those of others that could be written instead, by what they are.

    Raises:
        UsageError: The file needs more; the smallest that can be met is named.
    """
    sizes = {name: report.arena_bytes or report.activation_bytes for name, report in reports.items()}
    needed = next(iter(sizes.values()))
    if limit is None or needed <= limit:
        return
    least = min(sizes, key=lambda name: sizes[name])
    smaller = f" ({least} needs {sizes[least]})" if sizes[least] < needed else ""
    raise UsageError(
        f"The network needs an arena of {needed} bytes{smaller}. Received: --arena {limit}. Give at least "
        f"{sizes[least]} bytes, a smaller input or a smaller network."
    )


def operators_by_kernel(content: bytes) -> dict[str, int]:
    """Number of operators of a file by name, with the type of constant weights where they are not INT8."""
    model = read_model(content)
    graph = model.subgraphs[0]
    counted: Counter[str] = Counter()
    for operator in graph.operators:
        kinds = {TYPE_NAMES.get(graph.tensors[int(index)].type) for index in operator.inputs if index >= 0}
        packed = next((kind for kind in ("INT4", "INT2") if kind in kinds), None)
        counted[builtin_name(model, operator) + (f" {packed}" if packed else "")] += 1
    return dict(sorted(counted.items()))


def _compare(core: bytes, frozen: FrozenModel, images: np.ndarray | None) -> MicroComparison:
    values = (noise(frozen) if images is None else np.asarray(images, np.float32))[:_IMAGES]
    codes = frozen.layers[0].grid.quantize(values)
    names = [layer.name for layer in frozen.layers]
    room = arena_peak(frozen) + sum(math.prod(shape) for shape in output_shapes(frozen).values())
    read = run_micro(core, names[1:], codes, room)
    held = {names[0]: codes} | dict(zip(names[1:], read, strict=True))
    checks = check_layers(frozen, held, "tflite-micro")
    wrong = next((check for check in checks if check.off_by_more), None)
    if wrong is not None:
        raise TfmpqError(_explain(wrong))
    ours = run_micro(core, None, codes, room)
    theirs = tensor_values(core, None, codes, "builtin")
    distance = np.concatenate(
        [
            np.abs(one.astype(np.int64) - theirs[name].astype(np.int64)).ravel()
            for name, one in zip(frozen.returned, ours, strict=True)
        ]
    )
    return MicroComparison(
        len(values),
        distance.size,
        int((distance == 1).sum()),
        int((distance > 1).sum()),
        int(distance.max()),
        sum(check.off_by_one for check in checks),
        0,
    )


def _explain(check: LayerCheck) -> str:
    return (
        f"Every operator has to be right to one step under tflite-micro. Received: layer {check.name} "
        f"({check.kind}), of whose {check.elements} elements {check.off_by_more} are further off. The "
        "file was removed; please report the model."
    )
