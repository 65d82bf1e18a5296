"""The form of a layer in a file for running: bytes that are saved against the time that they cost.

The rule table says which containers are sound (`tfmpq.graph.containers`); where it leaves a choice, this is
the one place that takes it. Times come from a latency table of the device where there is one, else from a
small cost model: multiplications, what an unfolding copies, and the kernels of a kind of processor. Its
numbers are in kernel_costs.json, which benchmarks/kernel_costs.py writes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from tfmpq.errors import UsageError
from tfmpq.graph.containers import Container, Operator, Target, alternatives, container_for
from tfmpq.graph.unfolding import ORDERS, Order, Window, traffic

Preference = Literal["balanced", "size", "speed"]
PREFERENCES: tuple[Preference, ...] = ("balanced", "size", "speed")

Processor = Literal["x86-avx2", "x86-vnni", "arm-dotprod"]
"""Kinds of processors by XNNPACK's kernels for them: x86 with AVX2, with VNNI, and ARM with dot product."""

PROCESSORS: tuple[Processor, ...] = ("x86-avx2", "x86-vnni", "arm-dotprod")

CHOOSING_TARGET: Target = "litert"
"""The target whose layers have a choice of forms."""

BALANCED_SLOWDOWN = 1.05
"""What `balanced` lets a smaller form take, relative to the int8 form of the same layer."""

MAX_SCRATCH = 2**25
"""Default bound of what one unfolding keeps in memory, in bytes."""

OPERATOR_BYTES = 110
"""What an operator with its tensor takes in a file, roughly."""

_COSTS = Path(__file__).with_name("kernel_costs.json")


@dataclass(frozen=True, slots=True)
class FormOptions:
    """What decides where there is a choice.

    Attributes:
        prefer: `size`: the fewest bytes. `speed`: the least time. `balanced`: the fewest bytes in at most
            1.05 times the time of the int8 form.
        processor: What the file is for.
        max_scratch: Most bytes that one unfolding may keep in memory.
    """

    prefer: Preference = "balanced"
    processor: Processor = "x86-avx2"
    max_scratch: int = MAX_SCRATCH

    def __post_init__(self) -> None:
        """Refuse what is not known."""
        if self.prefer not in PREFERENCES or self.processor not in PROCESSORS:
            raise UsageError(
                f"A form is chosen for {', '.join(PREFERENCES)} on {', '.join(PROCESSORS)}. Received: "
                f"{self.prefer} on {self.processor}. Choose one of each."
            )


@dataclass(frozen=True, slots=True)
class FormRequest:
    """What a person says about forms; what is left out is None.

    Attributes:
        prefer: As in `FormOptions`; None for what the file says, or else `balanced`.
        processor: The same; None for what the file says, or else that of this machine.
        max_scratch: Bytes; None for what the file says, or else 32 MiB.
        latency_table: A file of `tfmpq profile`, whose times decide instead of the cost model.
    """

    prefer: Preference | None = None
    processor: Processor | None = None
    max_scratch: int | None = None
    latency_table: str | Path | None = None

    def complete(self, here: Processor, said: FormOptions | None = None) -> FormOptions:
        """What decides, after all.

        Args:
            here: Kind of the processor at hand.
            said: What the file says.
        """
        said = said or FormOptions(processor=here)
        return FormOptions(
            self.prefer or said.prefer,
            self.processor or said.processor,
            said.max_scratch if self.max_scratch is None else self.max_scratch,
        )

    def require(self, target: Target) -> None:
        """Refuse wishes for a target that has no choice.

        Raises:
            UsageError: There are some.
        """
        if target != CHOOSING_TARGET and self != NO_WISHES:
            raise UsageError(
                f"A form is chosen for --target {CHOOSING_TARGET}; others have one form of each layer. "
                f"Received: {target}. Leave out --prefer, --processor, --max-scratch and --latency-table."
            )


NO_WISHES = FormRequest()


@dataclass(frozen=True, slots=True)
class Work:
    """What one layer with weights computes.

    Attributes:
        operator: Row of the rule table.
        bits: Trained weight bit-width.
        fan_in: Weights that feed one output channel.
        channels: Output channels.
        pixels: Pixels of the output.
        window: How a convolution reads its input; None if it is grouped or is no convolution.
    """

    operator: Operator
    bits: int
    fan_in: int
    channels: int
    pixels: int = 1
    window: Window | None = None


@dataclass(frozen=True, slots=True)
class Candidate:
    """A form that a layer may have.

    Attributes:
        container: Bits and operator, and the order of the unfolding.
        bytes: Weights, scales and biases, and what the operators of the unfolding take in the file.
        time: Relative to the int8 form.
        scratch: Bytes that the unfolding keeps in memory.
    """

    container: Container
    bytes: int
    time: float
    scratch: int = 0


@dataclass(frozen=True, slots=True)
class Choice:
    """The form that was chosen for a layer, and the smallest one that was not.

    Attributes:
        chosen: The form.
        rejected: The smallest form that there is besides; None if that is the chosen one.
        reason: Why it was chosen, in words.
        measured: Whether times of the device decided, and not the cost model.
    """

    chosen: Candidate
    rejected: Candidate | None
    reason: str
    measured: bool


def choose(
    work: Work, target: Target, options: FormOptions, measured: Mapping[int, float] | None = None
) -> Choice:
    """Choose the form of a layer.

    Args:
        work: What it computes.
        target: Form of the file.
        options: What decides.
        measured: Times on the device in any unit, by bits of the container; forms without one are left out.
    """
    found = candidates(work, target, options.processor, measured)
    allowed = [
        candidate for candidate in found if not candidate.scratch or candidate.scratch <= options.max_scratch
    ]
    chosen = pick(allowed, options.prefer)
    smallest = min(found, key=lambda candidate: candidate.bytes)
    rejected = None if smallest is chosen else smallest
    told = _usable(measured, container_for(work.operator, work.bits, work.fan_in, target)) is not None
    reason = _reason(chosen, rejected, options, "as measured" if told else _where(options.processor))
    return Choice(replace(chosen, container=replace(chosen.container, reason=reason)), rejected, reason, told)


def pick(found: Sequence[Candidate], prefer: Preference) -> Candidate:
    """The candidate that a preference takes; the first one is the rule table's, which is always allowed."""
    if prefer == "speed":
        return min(found, key=lambda candidate: (candidate.time, candidate.bytes))
    fast = [c for c in found if c.time <= BALANCED_SLOWDOWN or c is found[0] or prefer == "size"]
    return min(fast, key=lambda candidate: (candidate.bytes, candidate.time))


def candidates(
    work: Work, target: Target, processor: Processor, measured: Mapping[int, float] | None = None
) -> list[Candidate]:
    """All forms that a layer may have, that of the rule table first; of the orders the faster one.

    Args:
        work: What it computes.
        target: Form of the file.
        processor: Whose kernels run it.
        measured: Times by bits of the container.
    """
    first = container_for(work.operator, work.bits, work.fan_in, target)
    others = alternatives(work.operator, work.bits, work.fan_in, target)
    if not others or (work.operator == "conv2d" and not (work.window and work.window.is_unfoldable)):
        return [Candidate(first, _bytes(work, first), 1.0)]
    costs = kernel_costs(processor)
    measured = _usable(measured, first)
    whole = costs.reference(work) if measured is None else measured.get(8, measured[first.bits])
    found = []
    for container in (first, *others):
        if measured is not None and container.bits not in measured:
            continue
        order, seconds = costs.time(work, container)
        held = replace(container, order=order)
        time = (seconds if measured is None else measured[container.bits]) / whole
        moved = traffic(work.window, order) if work.window and order else None
        more = OPERATOR_BYTES * moved.operators if moved else 0
        found.append(Candidate(held, _bytes(work, held) + more, time, moved.scratch if moved else 0))
    return found


def _usable(measured: Mapping[int, float] | None, first: Container) -> Mapping[int, float] | None:
    """Times that hold that of the rule table's form, and of which none is too short to be told."""
    told = measured is not None and first.bits in measured and all(measured.values())
    return measured if told else None


def _bytes(work: Work, container: Container) -> int:
    return container.stored_bytes(work.fan_in * work.channels, work.channels)


def _where(processor: Processor) -> str:
    return f"on {processor}" + ("" if kernel_costs(processor).measured else " (an estimate, not measured)")


def _reason(chosen: Candidate, rejected: Candidate | None, options: FormOptions, where: str) -> str:
    held = chosen.container
    kind = "int8" if held.bits == 8 else f"INT{held.bits}"
    if held.order:
        kind = f"INT{held.bits} product unfolded {held.order}, {chosen.time:.2f} of the int8 time {where}"
    if rejected is None:
        return kind if held.order else f"{kind}: no other form is smaller"
    other = f"INT{rejected.container.bits} product"
    if rejected.scratch > options.max_scratch:
        return f"{kind}: an {other} would keep {rejected.scratch} bytes in memory"
    return f"{kind}: an {other} would take {rejected.time:.2f} of the int8 time {where}"


@dataclass(frozen=True, slots=True)
class KernelCosts:
    """Cost model of a kind of processor; times are in a unit of its own.

    Attributes:
        measured: Whether its numbers were measured.
        convolution: Time of an int8 CONV_2D: by multiplication, by output code, at all.
        products: The same of FULLY_CONNECTED by bits of the weights.
        copies: Time of an unfolding: by byte, by run, by operator.
    """

    measured: bool
    convolution: tuple[float, ...]
    products: Mapping[int, tuple[float, ...]]
    copies: tuple[float, ...]

    def reference(self, work: Work) -> float:
        """Time of the int8 form."""
        kernel = self.products[8] if work.operator == "pointwise" else self.convolution
        return _inner(kernel, product_features(work))

    def time(self, work: Work, container: Container) -> tuple[Order | None, float]:
        """Time of a form, and the faster order of its unfolding if it has one."""
        if container.builtin != "FULLY_CONNECTED":
            return None, self.reference(work)
        product = _inner(self.products[container.bits], product_features(work))
        if work.operator != "conv2d" or work.window is None:
            return None, product
        times = {order: _inner(self.copies, copy_features(work.window, order)) for order in reversed(ORDERS)}
        order = min(times, key=lambda name: times[name])
        return order, product + times[order]


def product_features(work: Work) -> tuple[float, ...]:
    """What the time of a product depends on: multiplications, output codes, one."""
    outputs = work.pixels * work.channels
    return float(outputs * work.fan_in), float(outputs), 1.0


def copy_features(window: Window, order: Order) -> tuple[float, ...]:
    """What the time of an unfolding depends on: bytes, runs, operators."""
    moved = traffic(window, order)
    return float(moved.copied), float(moved.runs), float(moved.operators)


def _inner(costs: Sequence[float], features: Sequence[float]) -> float:
    return sum(cost * feature for cost, feature in zip(costs, features, strict=True))


@lru_cache
def kernel_costs(processor: Processor) -> KernelCosts:
    """The cost model of a kind of processor."""
    record: dict[str, Any] = json.loads(_COSTS.read_text())[processor]
    return KernelCosts(
        record["measured"],
        tuple(record["convolution"]),
        {int(bits): tuple(costs) for bits, costs in record["products"].items()},
        tuple(record["copies"]),
    )
