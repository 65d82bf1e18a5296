"""Time of every operator of a `.tflite`, from what profilers told in several processes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from tfmpq.deploy.latency.partitions import Event, indices, owners
from tfmpq.deploy.tflite.flatbuffer import builtin_name, printable, read_model, reading
from tfmpq.deploy.tflite.layout import stored_layers, tensor_name
from tfmpq.deploy.tflite.metadata import read_weight_bits
from tfmpq.policy.latency_table import RESOLUTION_MS, too_short

MERGED = "merged into a neighbour"
"""Kernel of an operator that the runtime does not run by itself, such as padding before a convolution."""


@dataclass(frozen=True, slots=True)
class OperatorTime:
    """One operator.

    Attributes:
        index: Its number in the file.
        layer: Layer that it belongs to; in files of others the name of its output tensor.
        operator: LiteRT's name of it.
        kernel: Kernels that ran, as the runtime calls them; `MERGED` for none.
        delegated: Whether a delegate ran it.
        ms: Time of one inference: the median over processes of the mean of the middle half of its runs, since
            profilers count whole microseconds.
        spread: (largest - smallest) / median of the processes' times; 0 for one process.
    """

    index: int
    layer: str
    operator: str
    kernel: str
    delegated: bool
    ms: float
    spread: float


@dataclass(frozen=True, slots=True)
class LayerTime:
    """The operators of one layer together.

    Attributes:
        name: Layer name.
        operator: LiteRT operators, joined by `+`.
        kernel: Kernels, joined by `+`.
        weight_bits: Trained bit-width; None without weights, and where the file does not record it.
        container: Bits per weight in the file; None without weights.
        ms: Time of one inference.
        share: Part of the time of all operators; None where most of them are too short to be timed.
        spread: That of its longest operator.
    """

    name: str
    operator: str
    kernel: str
    weight_bits: int | None
    container: int | None
    ms: float
    share: float | None
    spread: float


@dataclass(frozen=True, slots=True)
class OperatorProfile:
    """What a profiler tells of a file.

    Attributes:
        source: The profiler.
        operators: All operators of the file, in its order.
        layers: The same by layer.
        unattributed: Kernels whose operator cannot be told, by name, with their milliseconds.
        total_ms: A whole inference with the profiler on; NaN where it is not told.
        outside_ms: What of it is in no operator, the profiler's own time included; NaN where it is not told.
        runs: Profiled runs, over all processes.
        too_short: Whether most operators are below the profiler's resolution.
    """

    source: str
    operators: tuple[OperatorTime, ...]
    layers: tuple[LayerTime, ...]
    unattributed: Mapping[str, float]
    total_ms: float
    outside_ms: float
    runs: int
    too_short: bool

    @property
    def operators_ms(self) -> float:
        """Sum of all operators and of all kernels whose operator cannot be told."""
        return sum(item.ms for item in self.operators) + sum(self.unattributed.values())

    def to_json(self, median_ms: float) -> dict[str, Any]:
        """By layer, with the totals; None for what is not told.

        Args:
            median_ms: An inference without the profiler, which takes time itself; NaN where it is not told.
        """
        outside = None if math.isnan(median_ms) else max(0.0, median_ms - self.operators_ms)
        own = None
        if outside is not None and not math.isnan(self.total_ms):
            own = max(0.0, self.total_ms - self.operators_ms - outside)
        return {
            "source": self.source,
            "layers": [asdict(layer) for layer in self.layers],
            "unattributed": dict(self.unattributed),
            "operators_ms": self.operators_ms,
            "outside_ms": outside,
            "profiler_ms": own,
            "profiled_total_ms": None if math.isnan(self.total_ms) else self.total_ms,
            "resolution_ms": RESOLUTION_MS,
            "runs": self.runs,
        }


@dataclass(frozen=True, slots=True, eq=False)
class ProfiledProcess:
    """What a profiler told in one process.

    Attributes:
        events: Kernels in the order of execution.
        total_ms: Median of whole inferences; NaN where it is not told.
        outside_ms: What of an inference is in no event; NaN where it is not told.
        runs: Number of profiled runs.
    """

    events: tuple[Event, ...]
    total_ms: float
    outside_ms: float
    runs: int


def operator_profile(
    content: bytes, processes: Sequence[ProfiledProcess], source: str, name: str = "model"
) -> OperatorProfile:
    """Bring the events of several processes to the operators of a file.

    Args:
        content: Bytes of the `.tflite`.
        processes: What each of them told.
        source: What timed them.
        name: What to call the file in an error.

    Raises:
        TfmpqError: The file is damaged.
    """
    model = read_model(content, name)
    with reading(name):
        return _profile(model, processes, source)


def _profile(model: Any, processes: Sequence[ProfiledProcess], source: str) -> OperatorProfile:
    graph = model.subgraphs[0]
    times = np.zeros((len(processes), len(graph.operators)))
    kernels: list[dict[str, None]] = [{} for _ in graph.operators]
    delegated = np.ones(len(graph.operators), bool)
    loose: dict[str, list[float]] = {}
    for row, process in zip(times, processes, strict=True):
        found = owners(model, process.events)
        for event, owner in zip(process.events, found, strict=True):
            if owner is None:
                loose.setdefault(event.tag, []).append(event.calls * typical(event.microseconds))
            else:
                kernels[owner][event.tag] = None
                delegated[owner] &= event.delegated
        for owner, runs in _by_owner(process.events, found).items():
            row[owner] = typical(runs)
    layers = layers_of(model)
    operators = tuple(
        OperatorTime(
            index=number,
            layer=printable(layers[number]),
            operator=builtin_name(model, operator),
            kernel=" + ".join(kernels[number]) or MERGED,
            delegated=bool(delegated[number]),
            ms=float(np.median(times[:, number])) / 1e3,
            spread=_spread(times[:, number]),
        )
        for number, operator in enumerate(graph.operators)
    )
    unattributed = {tag: sum(values) / len(processes) / 1e3 for tag, values in loose.items()}
    short = too_short([item.ms for item in operators if item.kernel != MERGED])
    total = math.nan if short else sum(item.ms for item in operators) + sum(unattributed.values())
    return OperatorProfile(
        source,
        operators,
        _by_layer(model, operators, total),
        unattributed,
        float(np.median([process.total_ms for process in processes])),
        float(np.median([process.outside_ms for process in processes])),
        sum(process.runs for process in processes),
        short,
    )


def typical(runs: np.ndarray) -> float:
    """Mean of the middle half: robust as a median, and finer than whole microseconds."""
    ordered = np.sort(np.asarray(runs, np.float64))
    cut = len(ordered) // 4
    return float(ordered[cut : len(ordered) - cut].mean())


def layers_of(model: Any) -> list[str]:
    """Layer of every operator: the name of its output, else that of the operator which reads it.

    In our files widened weights and clamped tensors have no name.
    """
    graph = model.subgraphs[0]
    readers: dict[int, int] = {}
    found = [""] * len(graph.operators)
    for number in reversed(range(len(graph.operators))):
        operator = graph.operators[number]
        for output in indices(operator.outputs)[:1]:
            reader = readers.get(output)
            found[number] = tensor_name(graph.tensors[output]) or ("" if reader is None else found[reader])
        readers.update(dict.fromkeys(indices(operator.inputs), number))
    return found


def _by_owner(events: Sequence[Event], found: Sequence[int | None]) -> dict[int, np.ndarray]:
    """Runs of each operator: the sum of its kernels, run by run."""
    sums: dict[int, np.ndarray] = {}
    for event, owner in zip(events, found, strict=True):
        if owner is not None:
            sums[owner] = sums.get(owner, np.zeros(())) + event.microseconds
    return sums


def _spread(times: np.ndarray) -> float:
    middle = float(np.median(times))
    return float(times.max() - times.min()) / middle if middle else 0.0


def _by_layer(model: Any, operators: Sequence[OperatorTime], total: float) -> tuple[LayerTime, ...]:
    stored = {layer.name: layer.container_bits for layer in stored_layers(model)}
    trained = read_weight_bits(model)
    groups: dict[str, list[OperatorTime]] = {}
    for item in operators:
        groups.setdefault(item.layer, []).append(item)
    found = []
    for name, items in groups.items():
        ms = sum(item.ms for item in items)
        ran = dict.fromkeys(item.kernel for item in items if item.kernel != MERGED)
        found.append(
            LayerTime(
                name=name,
                operator=" + ".join(dict.fromkeys(item.operator for item in items)),
                kernel=" + ".join(ran) or MERGED,
                weight_bits=trained.get(name),
                container=stored.get(name),
                ms=ms,
                share=None if math.isnan(total) else ms / total if total else 0.0,
                spread=max(items, key=lambda item: item.ms).spread,
            )
        )
    return tuple(found)
