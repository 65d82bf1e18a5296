"""Bit-widths of a network that is quantized without training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tfmpq.containers import WEIGHT_BITS, WIDE_TARGET
from tfmpq.errors import UsageError
from tfmpq.frozen import INEXACT_WIDE, WIDE
from tfmpq.network import Network
from tfmpq.policy import load_policy, uniform_policy
from tfmpq.prepare import PINNED_BITS


@dataclass(frozen=True, slots=True)
class Widths:
    """Widths of weights by layer and of activations by tensor."""

    weights: Mapping[str, int]
    activations: Mapping[str, int]


def check_widths(
    weight_bits: int | None, activation_bits: int | None, policy: str | Path | None, target: str
) -> None:
    """Refuse widths that contradict each other, before any work.

    Raises:
        UsageError: They do.
    """
    if (weight_bits is None) == (policy is None):
        raise UsageError(
            "A network is quantized to one width or by a policy. Received: "
            f"{'neither' if policy is None else 'both'}. Give either --weight-bits N or --policy FILE."
        )
    if activation_bits is None:
        return
    if policy is not None:
        raise UsageError(
            f"A policy has the widths of activations. Received: --activation-bits {activation_bits} beside a "
            "policy. Leave it out, or give --weight-bits N."
        )
    if activation_bits not in (*WEIGHT_BITS, WIDE):
        raise UsageError(
            f"Activations have 2 to 8 bits, or 16. Received: {activation_bits}. Choose one of these."
        )
    if activation_bits == WIDE and target != WIDE_TARGET:
        raise UsageError(
            f"16-bit activations are written for --target {WIDE_TARGET}. Received: {target}. Choose that "
            "target, or 8 bits."
        )


def choose_widths(
    network: Network,
    model: str,
    weight_bits: int | None,
    activation_bits: int | None,
    policy: str | Path | None,
) -> Widths:
    """Widths by layer and by tensor.

    Args:
        network: The network.
        model: What it was asked for as.
        weight_bits: Width of all weights, without a policy.
        activation_bits: Width of all activations but those that are pinned, without a policy; None for 8.
        policy: Policy file.

    Raises:
        UsageError: The policy is of another network, or the network has no form with 16-bit activations.
    """
    names = [node.name for node in network.weighted]
    chosen = load_policy(policy) if policy else uniform_policy(model, names, weight_bits or PINNED_BITS)
    chosen.check_against(names, network.tensors)
    if activation_bits is None:
        return Widths(chosen.weight_bits, chosen.activation_bits(network.tensors))
    inexact = [
        node.name for node in network.nodes if node.kind in INEXACT_WIDE or node.fixed_step is not None
    ]
    if activation_bits == WIDE and inexact:
        raise UsageError(
            "The runtime computes sigmoids and GELU with 16-bit activations up to six steps off. Received: "
            f"{', '.join(inexact[:5])} of {model}. Choose 8 bits."
        )
    outputs = [] if activation_bits == WIDE else [network.node(name).grid_of for name in network.outputs]
    pinned = (network.tensors[0], *outputs, *network.fixed_tensors)
    found = dict.fromkeys(network.tensors, activation_bits) | dict.fromkeys(pinned, PINNED_BITS)
    return Widths(chosen.weight_bits, found)
