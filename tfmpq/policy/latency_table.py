"""The latency table: how long every layer of one network takes on one device, in every container.

`tfmpq profile` writes it, a search with a budget of latency reads it. The latency of a network is the sum of
its parts: a base, each layer in its container, and each signed activation tensor that has to be clamped
because it has fewer than 8 bits. A table is for one network at one size, one form of the file, one device,
one runtime and one number of threads; for anything else it says nothing, and is refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError

from tfmpq.errors import UsageError
from tfmpq.graph.containers import WEIGHT_BITS, Operator, Target, alternatives, container_for
from tfmpq.graph.forms import Candidate, pick
from tfmpq.policy.cost import REFERENCE_BITS, CostModel, LayerCost
from tfmpq.policy.latency_cost import NANOSECONDS, LatencyCosts

FORMAT: Literal["tfmpq-latency/1"] = "tfmpq-latency/1"
MAX_FILE_BYTES = 2**24
ALONE = "single operators"
"""Source of times that no profiler told: operators that were cut out, with a clock of nanoseconds."""
RESOLUTION_MS = 1e-3
"""Profilers count whole microseconds."""
_DOUBT = 0.1
_DEVICE_FACTS = ("machine", "cpu", "board", "features")
"""What makes two devices the same; cores and memory do not change how long one inference takes."""


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ContainerTime(_Record):
    """A layer in one container.

    Attributes:
        bits: Bits per weight in the file.
        decode: `cast` where the graph widens the weights, else `native`.
        kernel: What the runtime calls what it runs.
        ms: Milliseconds of one inference.
        spread: (largest - smallest) / median of what single processes told.
        samples: Number of timed runs.
    """

    bits: Literal[2, 4, 8]
    decode: Literal["native", "cast"]
    kernel: str
    ms: FiniteFloat
    spread: FiniteFloat
    samples: int


class LayerTimes(_Record):
    """A layer, by what distinguishes it for a runtime, and its times.

    Attributes:
        name: Layer name.
        operator: Row of the rule table.
        macs: Multiply-accumulates for one image.
        weights: Number of weight elements.
        fan_in: Number of weights that feed one output channel.
        times: One for each container.
    """

    name: str
    operator: str
    macs: int
    weights: int
    fan_in: int
    times: list[ContainerTime]


class TensorTime(_Record):
    """An activation tensor.

    Attributes:
        name: Name of the tensor.
        ms: What narrowing it below 8 bits adds, in milliseconds; 0 for tensors without negative values, whose
            narrow grids are clamped by saturation.
        spread: As for layers.
    """

    name: str
    ms: FiniteFloat
    spread: FiniteFloat


class ProfiledNetwork(_Record):
    """A whole network that was measured beside its operators, and what the table says about it.

    Attributes:
        weight_bits: Width of all layers.
        activation_bits: Width of all activation tensors that can be narrowed.
        median_ms: Measured without a profiler: the median of all runs.
        p10_ms: The 10th percentile, which other load on the machine disturbs least.
        spread: (largest - smallest) / median of the processes' medians.
        predicted_ms: Sum of the table's parts.
    """

    weight_bits: int
    activation_bits: int
    median_ms: FiniteFloat
    p10_ms: FiniteFloat | None
    spread: FiniteFloat
    predicted_ms: FiniteFloat


class LatencyTable(_Record):
    """All of a table.

    Attributes:
        format: Version of the file format.
        model: Name of the network.
        input_shape: (height, width, channels).
        classes: Number of logits.
        form: Form of the file, a target of the rule table.
        runtime: Name and version of what ran it.
        device: Machine, CPU, cores, operating system.
        target: What the device was reached through.
        emulated: Whether the device is an emulation, whose times mean nothing.
        threads: Threads of the runtime.
        affinity: CPUs that were kept to.
        source: What timed them.
        created: ISO 8601.
        versions: Versions of what wrote the files.
        base_ms: What is the same at every width.
        layers: The layers with weights, in order.
        tensors: The activation tensors that can be narrowed; empty if only 8 bits were profiled.
        networks: Whole networks, as a check.
        warnings: Reasons to doubt the numbers.
    """

    format: Literal["tfmpq-latency/1"]
    model: str
    input_shape: tuple[int, int, int]
    classes: int
    form: Target
    runtime: dict[str, Any]
    device: dict[str, Any]
    target: dict[str, Any]
    emulated: bool
    threads: int
    affinity: str | None
    source: str
    created: str
    versions: dict[str, str]
    base_ms: FiniteFloat
    layers: list[LayerTimes] = Field(min_length=1)
    tensors: list[TensorTime]
    networks: list[ProfiledNetwork]
    warnings: list[str]

    @property
    def too_short(self) -> bool:
        """Whether the widths of most layers cannot be told apart, since all their times are too short.

        Layers that have the same container at every width count only where no layer has several.
        """
        if self.source == ALONE:
            return False
        chosen = [layer for layer in self.layers if len(layer.times) > 1] or self.layers
        return too_short([max((time.ms for time in layer.times), default=0.0) for layer in chosen])

    def costs(self) -> LatencyCosts:
        """The table as costs of bit-widths; widths whose container was not profiled are left out."""
        return LatencyCosts(
            base=round(self.base_ms * NANOSECONDS),
            weights={layer.name: self._by_width(layer) for layer in self.layers},
            activations={
                tensor.name: {
                    bits: 0 if bits == REFERENCE_BITS else round(tensor.ms * NANOSECONDS)
                    for bits in WEIGHT_BITS
                }
                for tensor in self.tensors
            },
            conditions=conditions(self.device, self.target, self.runtime, self.threads),
        )

    def _by_width(self, layer: LayerTimes) -> dict[int, int]:
        found = {}
        for bits in WEIGHT_BITS:
            time = self._chosen(layer, bits)
            if time is not None:
                found[bits] = round(time.ms * NANOSECONDS)
        return found

    def _chosen(self, layer: LayerTimes, bits: int) -> ContainerTime | None:
        """A layer at a width in the form that a balanced export by this table has; None if not profiled."""
        times: dict[tuple[int, str], ContainerTime] = {(t.bits, t.decode): t for t in layer.times}
        row: Operator = layer.operator  # type: ignore[assignment]
        first = container_for(row, bits, layer.fan_in, self.form)
        if (first.bits, first.decode) not in times:
            return None
        whole = times.get((REFERENCE_BITS, "native"), times[first.bits, first.decode]).ms
        channels = layer.weights // layer.fan_in
        held = [
            Candidate(
                container,
                container.stored_bytes(layer.weights, channels),
                times[container.bits, container.decode].ms / whole if whole else 1.0,
            )
            for container in (first, *alternatives(row, bits, layer.fan_in, self.form))
            if (container.bits, container.decode) in times
        ]
        chosen = pick(held, "balanced").container
        return times[chosen.bits, chosen.decode]

    def held_ms(self, containers: Mapping[str, tuple[int, str]], activation_bits: Mapping[str, int]) -> float:
        """Latency of a network in milliseconds, by the container of each layer: bits and decoding."""
        costs = self.costs()
        total = costs.base + sum(costs.of_tensor(name, bits) for name, bits in activation_bits.items())
        for layer in self.layers:
            held = containers[layer.name]
            ms = next(time.ms for time in layer.times if (time.bits, time.decode) == held)
            total += round(ms * NANOSECONDS)
        return total / NANOSECONDS

    def predicted_ms(self, weight_bits: Mapping[str, int], activation_bits: Mapping[str, int]) -> float:
        """Latency of an assignment in milliseconds.

        Raises:
            UsageError: A width was not profiled.
        """
        return self.costs().total(weight_bits, activation_bits) / NANOSECONDS


def conditions(
    device: Mapping[str, Any], target: Mapping[str, Any], runtime: Mapping[str, Any], threads: int | None
) -> str:
    """Where and how something was measured, in words: only what shares them is compared."""
    where = " ".join(str(target[key]) for key in ("kind", "address") if target.get(key))
    processor = device.get("cpu") or device.get("board") or device.get("machine") or "unknown processor"
    software = " ".join(str(runtime[key]) for key in ("name", "version") if runtime.get(key))
    counted = f"{threads or 'unknown'} thread{'' if threads == 1 else 's'}"
    return ", ".join(text for text in (str(processor), where, software, counted) if text)


def too_short(times: Sequence[float]) -> bool:
    """Whether most times are below a profiler's resolution, and together may be more than a tenth of all.

    A long operator beside many short ones is told well enough.

    Args:
        times: Milliseconds that a profiler told.
    """
    below = sum(ms < RESOLUTION_MS for ms in times)
    return 2 * below > len(times) and below * RESOLUTION_MS > _DOUBT * sum(times)


def load_table(path: str | Path) -> LatencyTable:
    """Read and check a latency table.

    Raises:
        UsageError: The file is missing, too large, or no latency table; the first problem is named.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise UsageError(
            "A latency table is a file that tfmpq profile writes. "
            f"Received: {path} ({error.strerror}). Check the path."
        ) from None
    if len(content) > MAX_FILE_BYTES:
        raise UsageError(
            f"A latency table has at most {MAX_FILE_BYTES} bytes. Received: {path}, which is larger. Check "
            "that it is one."
        )
    try:
        return LatencyTable.model_validate_json(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"]) or "the file"
        raise UsageError(
            f"A latency table is written by tfmpq profile. Received: {path}, where {field}: {first['msg']}. "
            "Profile again."
        ) from None


def check_network(
    table: LatencyTable, model: str, input_shape: tuple[int, ...], classes: int, costs: CostModel
) -> None:
    """Refuse a table of another network or another size.

    Args:
        table: The table.
        model: Name of the network whose latency is limited.
        input_shape: Its (height, width, channels).
        classes: Its number of logits.
        costs: Its layers.

    Raises:
        UsageError: It is another one; the difference is named.
    """
    refuse(_network_differences(table, model, input_shape, classes, costs))


def _network_differences(
    table: LatencyTable, model: str, input_shape: tuple[int, ...], classes: int, costs: CostModel
) -> Iterator[str]:
    if table.model != model:
        yield f"model {table.model} instead of {model}"
    if tuple(table.input_shape) != tuple(input_shape):
        yield f"input {_size(table.input_shape)} instead of {_size(input_shape)}"
    if table.classes != classes:
        yield f"{table.classes} classes instead of {classes}"
    known = {layer.name: layer for layer in table.layers}
    for layer in costs.layers:
        if layer.name not in known:
            yield f"no layer {layer.name}"
        elif _kind(known[layer.name]) != _kind(layer):
            yield f"another layer {layer.name}"


def check_device(
    table: LatencyTable,
    *,
    runtime: Mapping[str, Any] | None = None,
    device: Mapping[str, Any] | None = None,
    threads: int | None = None,
) -> None:
    """Refuse a table of another device, another runtime or another number of threads.

    Args:
        table: The table.
        runtime: Name and version of the runtime that the network is for; None if it is not known.
        device: Facts of the device that the network is for; None if it is not known.
        threads: Threads of the runtime; None if any will do.

    Raises:
        UsageError: Something differs, or the table is that of an emulation; it is named.
    """
    if table.emulated:
        raise UsageError(
            "A latency is measured on a real device. Received: a table of an emulated one, whose times mean "
            "nothing. Profile a real one: tfmpq profile."
        )
    refuse(_device_differences(table, runtime, device, threads))


def _device_differences(
    table: LatencyTable,
    runtime: Mapping[str, Any] | None,
    device: Mapping[str, Any] | None,
    threads: int | None,
) -> Iterator[str]:
    if device is not None:
        for fact in _DEVICE_FACTS:
            was, now = table.device.get(fact), device.get(fact)
            if was != now and not (fact == "features" and _same_words(was, now)):
                what = "other CPU features" if fact == "features" else f"{fact} {was} instead of {now}"
                yield what
    if runtime is not None:
        was, now = (f"{it.get('name')} {it.get('version')}" for it in (table.runtime, runtime))
        if was != now:
            yield f"runtime {was} instead of {now}"
    if threads is not None and threads != table.threads:
        yield f"{table.threads} threads instead of {threads}"


def refuse(differences: Iterator[str]) -> None:
    """Raise if there are any.

    Raises:
        UsageError: There are; the first ones are named.
    """
    found = list(differences)
    if found:
        more = f" and {len(found) - 3} more" if len(found) > 3 else ""
        raise UsageError(
            "A latency table is used for what it was measured with. Received: one with "
            f"{', '.join(found[:3])}{more}. Run tfmpq profile again."
        )


def _same_words(left: Any, right: Any) -> bool:
    return sorted(str(left).split()) == sorted(str(right).split())


def _kind(layer: LayerTimes | LayerCost) -> tuple[str, int, int, int]:
    return layer.operator, layer.macs, layer.weights, layer.fan_in


def _size(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
