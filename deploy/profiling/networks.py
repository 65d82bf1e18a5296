"""The networks that a profile runs: between them, every layer in every container of the search space."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tfmpq.deploy.conversion.chosen_forms import choose_forms
from tfmpq.deploy.conversion.topology import deployable
from tfmpq.deploy.profiling.random_network import BITS, StandIn
from tfmpq.deploy.tflite.layout import container_of
from tfmpq.graph.containers import Target
from tfmpq.graph.forms import CHOOSING_TARGET, FormOptions, Processor
from tfmpq.graph.frozen import FrozenModel
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
        options: What chose the forms of layers that have a choice; None for those of the rule table.
    """

    weight_bits: int
    activation_bits: int
    containers: dict[str, Held]
    frozen: FrozenModel
    options: FormOptions | None = None


def planned_networks(
    subject: StandIn,
    target: Target,
    weight_bits: Sequence[int],
    activation_bits: Sequence[int],
    processor: Processor,
) -> list[PlannedNetwork]:
    """One network for 8 bits, one for each width that adds a container, one with narrow activations.

    Layers that have a choice of forms are in the smallest one, which no other network has.

    Args:
        subject: The network.
        target: Form of the files.
        weight_bits: Widths of weights to choose from.
        activation_bits: Widths of activations to choose from.
        processor: Kind of the device's processor.
    """
    names = [layer.name for layer in cost_model(subject.network).layers]
    smallest = FormOptions("size", processor) if target == CHOOSING_TARGET else None
    found: list[PlannedNetwork] = []
    for bits in sorted({BITS, *weight_bits}, reverse=True):
        frozen = subject.with_bits(dict.fromkeys(names, bits))
        for options in dict.fromkeys((smallest, None)):
            containers = _containers(frozen, names, target, options)
            known = [plan.containers for plan in found]
            if any(all(other[name] != held for other in known) for name, held in containers.items()):
                found.append(PlannedNetwork(bits, BITS, containers, frozen, options))
    narrow = min(activation_bits)
    if narrow < BITS:
        tensors = activation_candidates(subject.network, (narrow,))
        clamped = {name: widths[0] for name, widths in tensors.items()}
        frozen = subject.with_bits(dict.fromkeys(names, BITS), clamped)
        found.append(PlannedNetwork(BITS, narrow, found[0].containers, frozen, found[0].options))
    return found


def _containers(
    frozen: FrozenModel, names: Sequence[str], target: Target, options: FormOptions | None
) -> dict[str, Held]:
    written = deployable(frozen)
    choices = choose_forms(written, target, options) if options else {}
    found = {
        layer.name: choices[layer.name].chosen.container
        if layer.name in choices
        else container_of(written, layer, target)
        for layer in written.weighted
    }
    return {name: (found[name].bits, found[name].decode) for name in names}
