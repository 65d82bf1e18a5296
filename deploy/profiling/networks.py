"""The networks that a profile runs: between them, every layer in every container of the search space."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tfmpq.deploy.profiling.random_network import BITS, StandIn
from tfmpq.graph.containers import Target, container_for
from tfmpq.graph.frozen import FrozenModel
from tfmpq.policy.cost import CostModel
from tfmpq.policy.network_cost import cost_model
from tfmpq.policy.search_space import activation_candidates

Held = tuple[int, str]
"""What distinguishes containers of one layer for a runtime: bits, and `native` or `cast`."""


@dataclass(frozen=True, slots=True, eq=False)
class PlannedNetwork:
    """One whole network.

    Attributes:
        weight_bits: Width of all layers.
        activation_bits: Width of all activation tensors that can be narrowed.
        containers: Bits per weight in the file and how they are decoded, by layer name.
        frozen: The network.
    """

    weight_bits: int
    activation_bits: int
    containers: dict[str, Held]
    frozen: FrozenModel


def planned_networks(
    subject: StandIn, target: Target, weight_bits: Sequence[int], activation_bits: Sequence[int]
) -> list[PlannedNetwork]:
    """One network for 8 bits, one for each width that adds a container, one with narrow activations.

    Args:
        subject: The network.
        target: Form of the files.
        weight_bits: Widths of weights to choose from.
        activation_bits: Widths of activations to choose from.
    """
    costs = cost_model(subject.network)
    found: list[PlannedNetwork] = []
    for bits in sorted({BITS, *weight_bits}, reverse=True):
        containers = _containers(costs, bits, target)
        known = [plan.containers for plan in found]
        if any(all(other[name] != held for other in known) for name, held in containers.items()):
            uniform = dict.fromkeys(containers, bits)
            found.append(PlannedNetwork(bits, BITS, containers, subject.with_bits(uniform)))
    narrow = min(activation_bits)
    if narrow < BITS:
        tensors = activation_candidates(subject.network, (narrow,))
        clamped = {name: widths[0] for name, widths in tensors.items()}
        uniform = dict.fromkeys(found[0].containers, BITS)
        frozen = subject.with_bits(uniform, clamped)
        found.append(PlannedNetwork(BITS, narrow, found[0].containers, frozen))
    return found


def _containers(costs: CostModel, bits: int, target: Target) -> dict[str, Held]:
    found = {layer.name: container_for(layer.operator, bits, layer.fan_in, target) for layer in costs.layers}
    return {name: (container.bits, container.decode) for name, container in found.items()}
