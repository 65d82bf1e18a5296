"""Candidate bit-widths of every layer and activation tensor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tfmpq.graph.network import Network

Candidates = Mapping[str, Sequence[int]]
"""Layer or tensor name to its candidate bit-widths."""


PINNED_BITS = 8
"""The first layer, the image and the logits keep 8 bits: they cost little and lose much (SAQ's rule)."""


SAFE_BITS = 4
"""Least bits of a classifier, where budgets allow: what rounding costs there, nothing behind it makes up for.
"""


def weight_candidates(
    network: Network, bits: Sequence[int], other_classes: bool = False
) -> dict[str, tuple[int, ...]]:
    """Candidate widths of every layer; the first layer keeps 8 bits.

    Args:
        network: The network.
        bits: Candidate widths.
        other_classes: Whether the deployed classifier is not the searched one. What the proxy's classifier
            can bear says nothing about it then, so it gets none of the narrowest widths.
    """
    found = {node.name: tuple(bits) for node in network.weighted}
    if other_classes:
        found[network.weighted[-1].name] = tuple(b for b in bits if b >= SAFE_BITS) or tuple(bits)
    return found | {network.weighted[0].name: (PINNED_BITS,)}


def classifiers(network: Network) -> list[str]:
    """Layers with weights whose results reach an output through no other such layer."""
    found: dict[str, None] = {}
    nodes = {node.name: node for node in network.nodes}
    weighted = {node.name for node in network.weighted}
    reached = list(network.outputs)
    for name in reached:
        if name in weighted:
            found[name] = None
        else:
            reached.extend(source for source in nodes[name].inputs if source not in reached)
    return [node.name for node in network.weighted if node.name in found]


def activation_candidates(network: Network, bits: Sequence[int]) -> dict[str, tuple[int, ...]]:
    """Candidate widths of every activation tensor; image, logits and grids that are given keep 8 bits."""
    found = {name: tuple(bits) for name in network.tensors}
    pinned = (network.tensors[0], network.tensors[-1], *network.fixed_tensors)
    return found | dict.fromkeys(pinned, (PINNED_BITS,))
