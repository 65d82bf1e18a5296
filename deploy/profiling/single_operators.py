"""Operators cut out of a network and timed by themselves, for runtimes whose profiler tells nothing.

Less true than operators within their network: caches are warm, and each pays for a call of its own. The base,
what is left of the whole network, makes up for it on the whole, not layer by layer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from tfmpq.deploy.latency.operator_times import layers_of, typical
from tfmpq.deploy.profiling.networks import Held
from tfmpq.deploy.profiling.parts import CLAMP, Parts, layer_times, padding, tensor_of
from tfmpq.deploy.profiling.random_network import BITS, StandIn
from tfmpq.deploy.tflite.flatbuffer import builtin_name, read_model, write_model
from tfmpq.policy.latency_table import ContainerTime, TensorTime

Times = list[float]
"""Milliseconds of one inference, one number for each process."""


class Cutter:
    """Cuts operators out of a file.

    Args:
        content: Bytes of a `.tflite` of ours.
        owner: Layers by the names of paddings that are timed with them.
    """

    def __init__(self, content: bytes, owner: Mapping[str, str]) -> None:
        self._content = content
        model = read_model(content)
        self.layers: dict[str, list[int]] = {}
        self.clamps: dict[str, list[int]] = {}
        for number, name in enumerate(layers_of(model)):
            is_clamp = builtin_name(model, model.subgraphs[0].operators[number]) == CLAMP
            found = self.clamps if is_clamp else self.layers
            found.setdefault(owner.get(name, name), []).append(number)

    def add(self, numbers: Sequence[int], files: dict[str, bytes]) -> str:
        """Put a file of some operators among others, unless there is one of their kind; returns the kind."""
        kind = self._kind(numbers)
        if kind not in files:
            files[kind] = self.cut(numbers)
        return kind

    def cut(self, numbers: Sequence[int]) -> bytes:
        """A file of some operators that follow one another."""
        model = read_model(self._content)
        graph = model.subgraphs[0]
        graph.operators = [graph.operators[number] for number in numbers]
        used = sorted({int(i) for op in graph.operators for i in (*op.inputs, *op.outputs) if int(i) >= 0})
        place = {old: new for new, old in enumerate(used)}
        graph.tensors = [graph.tensors[index] for index in used]
        held = {tensor.buffer for tensor in graph.tensors}
        for number, buffer in enumerate(model.buffers):
            if number not in held:
                buffer.data = None
        for operator in graph.operators:
            operator.inputs = np.array([place.get(int(i), -1) for i in operator.inputs], np.int32)
            operator.outputs = np.array([place[int(i)] for i in operator.outputs], np.int32)
        made = {int(i) for operator in graph.operators for i in operator.outputs}
        read = dict.fromkeys(int(i) for operator in graph.operators for i in operator.inputs if i >= 0)
        graph.inputs = np.array([i for i in read if i not in made and not _constant(model, i)], np.int32)
        graph.outputs = np.array([int(graph.operators[-1].outputs[0])], np.int32)
        model.metadata = []
        return write_model(model)

    def _kind(self, numbers: Sequence[int]) -> str:
        """What a runtime sees of operators: the same text for all that are the same but for their numbers."""
        model = read_model(self._content)
        graph = model.subgraphs[0]
        parts = []
        for number in numbers:
            operator = graph.operators[number]
            tensors = [graph.tensors[int(i)] for i in (*operator.inputs, *operator.outputs) if int(i) >= 0]
            shapes = [(tensor.type, tuple(int(size) for size in tensor.shape)) for tensor in tensors]
            options = operator.builtinOptions
            settings = sorted(vars(options).items()) if options is not None else []
            parts.append((builtin_name(model, operator), shapes, settings))
        return repr(parts)


def _constant(model: Any, index: int) -> bool:
    data = model.buffers[model.subgraphs[0].tensors[index].buffer].data
    return data is not None and len(data) > 0


def single_parts(
    subject: StandIn,
    networks: Sequence[tuple[Mapping[str, Held], int, bytes]],
    whole: float,
    measure: Callable[[Sequence[bytes]], list[Times]],
) -> Parts:
    """Time every operator of some networks that differs from all others.

    Args:
        subject: What the networks are made of.
        networks: For each its containers, the width of its activations and its bytes; the first has 8 bits.
        whole: Milliseconds of the first network.
        measure: Times files, all in turn.
    """
    files: dict[str, bytes] = {}
    layers: dict[str, dict[Held, str]] = {}
    clamps: dict[str, list[str]] = {}
    for containers, activation_bits, content in networks:
        cutter = Cutter(content, padding(subject.frozen))
        if activation_bits == BITS:
            for name, held in containers.items():
                layers.setdefault(name, {})[held] = cutter.add(cutter.layers[name], files)
        for name, numbers in cutter.clamps.items():
            clamps.setdefault(tensor_of(subject.network, name), []).append(cutter.add(numbers, files))
    times = dict(zip(files, measure(list(files.values())), strict=True))
    found = layer_times(
        subject.network,
        {
            name: [_container_time(held, times[kind]) for held, kind in kinds.items()]
            for name, kinds in layers.items()
        },
    )
    first = networks[0][0]
    weighted = sum(float(np.median(times[layers[name][held]])) for name, held in first.items())
    narrow = any(bits < BITS for _, bits, _ in networks)
    tensors = [
        _tensor_time(name, [times[kind] for kind in clamps.get(name, ())]) for name in subject.network.tensors
    ]
    return Parts(whole - weighted, found, tuple(tensors) if narrow else ())


def _container_time(held: Held, times: Times) -> ContainerTime:
    return ContainerTime(
        bits=held[0],  # type: ignore[arg-type]
        decode=held[1],  # type: ignore[arg-type]
        kernel="not told",
        ms=float(np.median(times)),
        spread=_spread(times),
        samples=len(times),
    )


def _tensor_time(name: str, clamps: Sequence[Times]) -> TensorTime:
    return TensorTime(
        name=name,
        ms=sum(float(np.median(times)) for times in clamps),
        spread=max((_spread(times) for times in clamps), default=0.0),
    )


def _spread(times: Times) -> float:
    middle = float(np.median(times))
    return (max(times) - min(times)) / middle if middle else 0.0


def inference_ms(answer: Mapping[str, Any]) -> float:
    """Time of one inference from what a program on a device answers."""
    raw = answer["latency_ms_raw"]
    if len(raw):
        return typical(np.asarray(raw))
    told = answer["latency_ms"]
    return float(told["mean"] if told["p50"] is None or math.isnan(told["p50"]) else told["p50"])
