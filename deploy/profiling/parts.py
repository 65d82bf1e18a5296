"""From the operators of whole networks to the parts that a latency is the sum of."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tfmpq.deploy.latency.operator_times import OperatorProfile, OperatorTime
from tfmpq.deploy.profiling.networks import Held
from tfmpq.deploy.profiling.random_network import BITS
from tfmpq.graph.frozen import FrozenModel
from tfmpq.graph.fusion import Network
from tfmpq.policy.latency_table import ContainerTime, LayerTimes, TensorTime
from tfmpq.policy.network_cost import cost_model

CLAMP = "QUANTIZE"
"""Operators behind a signed tensor of fewer than 8 bits (see `tfmpq.deploy.conversion.surgery`)."""


@dataclass(frozen=True, slots=True, eq=False)
class SampledNetwork:
    """What was measured of one network.

    Attributes:
        weight_bits: Width of all layers.
        activation_bits: Width of all activation tensors that can be narrowed.
        containers: Bits per weight in the file and how they are decoded, by layer name.
        frozen: The network.
        operators: Its operators.
        median_ms: All of it, without a profiler.
    """

    weight_bits: int
    activation_bits: int
    containers: Mapping[str, Held]
    frozen: FrozenModel
    operators: OperatorProfile
    median_ms: float


@dataclass(frozen=True, slots=True)
class Parts:
    """What a latency is the sum of: `base_ms`, a layer in its container, narrowed tensors."""

    base_ms: float
    layers: tuple[LayerTimes, ...]
    tensors: tuple[TensorTime, ...]


def parts_of(network: Network, sampled: Sequence[SampledNetwork]) -> Parts:
    """Take networks apart.

    A layer is its own operator, the casts of its weights and the padding before it: whether padding is merged
    into a convolution depends on how that one is stored. A tensor is what clamps it. Everything else is the
    base, which is the same in all networks, and is taken from that of 8 bits.

    Args:
        network: The fused nodes.
        sampled: The networks; the first has 8 bits everywhere.
    """
    owner = padding(sampled[0].frozen)
    by_layer: dict[str, dict[Held, list[tuple[list[OperatorTime], int]]]] = {}
    clamps: dict[str, list[OperatorTime]] = {}
    base: list[OperatorTime] = []
    for net in sampled:
        own: dict[str, list[OperatorTime]] = {name: [] for name in net.containers}
        for item in net.operators.operators:
            name = owner.get(item.layer, item.layer)
            if item.operator == CLAMP:
                clamps.setdefault(tensor_of(network, name), []).append(item)
            elif name in own:
                own[name].append(item)
            elif net is sampled[0]:
                base.append(item)
        if net.activation_bits < BITS:
            continue  # the layers are those of the first network, between other operators
        for name, items in own.items():
            held = by_layer.setdefault(name, {})
            held.setdefault(net.containers[name], []).append((items, net.operators.runs))
    layers = layer_times(
        network,
        {
            name: [_container_time(held, items) for held, items in found.items()]
            for name, found in by_layer.items()
        },
    )
    return Parts(_base(sampled[0], base), layers, _tensors(network, sampled, clamps))


def layer_times(network: Network, times: Mapping[str, list[ContainerTime]]) -> tuple[LayerTimes, ...]:
    """Every layer of a network, what it computes, and its times in each container."""
    return tuple(
        LayerTimes(
            name=cost.name,
            operator=cost.operator,
            macs=cost.macs,
            weights=cost.weights,
            fan_in=cost.fan_in,
            times=times[cost.name],
        )
        for cost in cost_model(network).layers
    )


def _base(first: SampledNetwork, rest: Sequence[OperatorTime]) -> float:
    """Operators without weights, and what is in no operator.

    The latter is what the profiler tells, or what the sum of all operators lacks for the whole network as it
    was measured without a profiler, whichever is less: a profiler takes time itself, which counts in small
    networks, and other load lengthens the whole more than its parts.
    """
    missing = first.median_ms - sum(item.ms for item in first.operators.operators)
    told = first.operators.outside_ms
    return sum(item.ms for item in rest) + (min(told, missing) if math.isfinite(told) else missing)


def _tensors(
    network: Network, sampled: Sequence[SampledNetwork], clamps: Mapping[str, Sequence[OperatorTime]]
) -> tuple[TensorTime, ...]:
    """The tensors that can be narrowed, if narrow ones were profiled."""
    if all(net.activation_bits == BITS for net in sampled):
        return ()
    return tuple(
        TensorTime(
            name=name,
            ms=sum(item.ms for item in clamps.get(name, ())),
            spread=max((item.spread for item in clamps.get(name, ())), default=0.0),
        )
        for name in network.tensors
    )


def _container_time(held: Held, found: Sequence[tuple[Sequence[OperatorTime], int]]) -> ContainerTime:
    """One layer in one container, in as many networks as have it so."""
    times = np.array([sum(item.ms for item in items) for items, _ in found])
    middle = float(np.median(times))
    single = max((max(items, key=_ms).spread for items, _ in found if items), default=0.0)
    between = float(times.max() - times.min()) / middle if middle else 0.0
    kernels = dict.fromkeys(item.kernel for items, _ in found for item in items)
    return ContainerTime(
        bits=held[0],  # type: ignore[arg-type]
        decode=held[1],  # type: ignore[arg-type]
        kernel=" + ".join(kernels),
        ms=middle,
        spread=max(single, between),
        samples=sum(runs for _, runs in found),
    )


def _ms(item: OperatorTime) -> float:
    return item.ms


def padding(frozen: FrozenModel) -> dict[str, str]:
    """Layer with weights by the name of the padding that only it reads."""
    readers: dict[str, list[str]] = {}
    for layer in frozen.layers:
        for name in layer.inputs:
            readers.setdefault(name, []).append(layer.name)
    weighted = {layer.name for layer in frozen.weighted}
    return {
        layer.name: readers[layer.name][0]
        for layer in frozen.layers
        if layer.kind == "zero_padding"
        and len(readers.get(layer.name, ())) == 1
        and readers[layer.name][0] in weighted
    }


def tensor_of(network: Network, layer: str) -> str:
    """Name of the grid of a layer's output; operators that stand for one node are named after it."""
    return next((node.grid_of for node in network.nodes if node.name == layer), layer)
