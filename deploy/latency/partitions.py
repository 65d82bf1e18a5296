"""Which operator of a file each event of a profiler belongs to.

LiteRT names an operator that it runs itself by its index in the graph. A delegate names its own kernels, by
their order within one of its partitions; so the partitions are found as LiteRT finds them, and the kernels of
each are matched with its operators in order.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np

from tfmpq.deploy.tflite.flatbuffer import builtin_name

_KERNELS: Mapping[str, str] = {
    "CONV_2D": "Convolution|Fully Connected",  # a 1x1 one may become a matrix product
    "DEPTHWISE_CONV_2D": "Convolution",
    "TRANSPOSE_CONV": "Deconvolution",
    "FULLY_CONNECTED": "Fully Connected",
    "ADD": "Add",
    "SUB": "Subtract",
    "MUL": "Multiply",
    "MEAN": "Mean|Average|Reduce",
    "PAD": "Pad",
    "RESHAPE": "Reshape|Copy",
    "CONCATENATION": "Concat|Copy",
    "MAX_POOL_2D": "Max Pooling",
    "AVERAGE_POOL_2D": "Average Pooling",
    "LOGISTIC": "Sigmoid",
    "SOFTMAX": "Softmax",
    "TANH": "Tanh",
    "HARD_SWISH": "Hard ?Swish",
    "LEAKY_RELU": "Leaky ?ReLU",
    "QUANTIZE": "Convert|Invalid Unary Op",  # the latter in LiteRT 2.3
    "DEQUANTIZE": "Convert",
    "SLICE": "Slice",
    "STRIDED_SLICE": "Slice",
    "TRANSPOSE": "Transpose",
    "RESIZE_BILINEAR": "Resize",
}
"""What XNNPACK calls the kernels of an operator."""


@dataclass(frozen=True, slots=True, eq=False)
class Event:
    """A kernel that a profiler timed, in every recorded run of one process.

    Attributes:
        tag: Name of the kernel, or of the operator.
        delegated: Whether a delegate ran it.
        index: Of the operator in the graph; delegated: of the kernel in its partition.
        microseconds: float64 (runs,); one mean where the profiler tells no more.
        calls: Kernels that these times are a mean of: more than one where the profiler cannot tell the
            kernels of several partitions apart.
    """

    tag: str
    delegated: bool
    index: int
    microseconds: np.ndarray
    calls: int = 1


def owners(model: Any, events: Sequence[Event]) -> list[int | None]:
    """Index of the operator that each event belongs to; None where it cannot be told.

    Args:
        model: The file in object form.
        events: In the order of execution.
    """
    operators = model.subgraphs[0].operators
    builtins = [builtin_name(model, operator) for operator in operators]
    own = {event.index for event in events if not event.delegated and event.index < len(operators)}
    parts = partitions(model, own)
    groups = _groups(events)
    if len(groups) != len(parts):
        groups, parts = [list(chain(*groups))], [list(chain(*parts))]
    found: list[int | None] = [None if event.delegated else event.index for event in events]
    for group, part in zip(groups, parts, strict=True):
        names = [builtins[number] for number in part]
        for position, match in zip(group, _matched(names, [events[i].tag for i in group]), strict=True):
            found[position] = None if match is None else part[match]
    return [
        None if owner is None or owner >= len(operators) or event.calls > 1 else owner
        for owner, event in zip(found, events, strict=True)
    ]


def partitions(model: Any, undelegated: Collection[int]) -> list[list[int]]:
    """Operators of each delegated partition, in order of execution.

    As in LiteRT's graph partitioning: whatever is ready and on the same side goes into one subset, then the
    sides change.

    Args:
        model: The file in object form.
        undelegated: Indices of the operators that no delegate takes.
    """
    graph = model.subgraphs[0]
    produced = {index for operator in graph.operators for index in indices(operator.outputs)}
    waiting = list(range(len(graph.operators)))
    subsets: list[list[int]] = []
    while waiting:
        side: bool | None = None
        subset: list[int] = []
        for number in waiting:
            operator = graph.operators[number]
            ready = not any(index in produced for index in indices(operator.inputs))
            if ready and side in (None, number in undelegated):
                side = number in undelegated
                subset.append(number)
                produced -= set(indices(operator.outputs))
        if not subset:
            return []  # a cycle: no graph that runs
        waiting = [number for number in waiting if number not in set(subset)]
        if not side:
            subsets.append(subset)
    return subsets


def indices(tensors: Any) -> list[int]:
    """Tensors of an operator: the object form has None for none at all, and -1 for one that is left out."""
    return [] if tensors is None else [int(index) for index in tensors if index >= 0]


def _groups(events: Sequence[Event]) -> list[list[int]]:
    """Positions of the delegated events of each partition: within one, indices rise."""
    found: list[list[int]] = []
    last = -1
    for position, event in enumerate(events):
        if not event.delegated:
            last = -1
            continue
        if last < 0 or event.index <= last:
            found.append([])
        found[-1].append(position)
        last = event.index
    return found


def _matched(builtins: Sequence[str], tags: Sequence[str]) -> list[int | None]:
    """For each kernel the operator it belongs to: the longest common subsequence.

    A kernel that matches none belongs to the operator of the kernel before; an operator without kernels was
    merged into a neighbour.
    """
    rows, columns = len(tags), len(builtins)
    best = np.zeros((rows + 1, columns + 1), np.int64)
    for i in reversed(range(rows)):
        for j in reversed(range(columns)):
            taken = best[i + 1, j + 1] + 1 if _is_kernel_of(tags[i], builtins[j]) else 0
            best[i, j] = max(taken, best[i + 1, j], best[i, j + 1])
    found: list[int | None] = []
    last: int | None = None
    j = 0
    for i in range(rows):
        while j < columns:
            if _is_kernel_of(tags[i], builtins[j]) and best[i, j] == best[i + 1, j + 1] + 1:
                last, j = j, j + 1
                break
            if best[i, j] == best[i + 1, j]:
                break  # this kernel matches none
            j += 1
        found.append(last)
    return found


def _is_kernel_of(tag: str, builtin: str) -> bool:
    words = _KERNELS.get(builtin, builtin.replace("_", " "))
    return re.match(rf"(?:Static |Constant )?(?:{words})\b", tag, re.IGNORECASE) is not None
