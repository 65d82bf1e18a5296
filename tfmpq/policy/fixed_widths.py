"""Bit-widths of a network that is quantized without training, and what 16-bit activations ask of any."""

from __future__ import annotations

from pathlib import Path

from tfmpq.errors import UsageError
from tfmpq.graph.containers import WEIGHT_BITS, require_wide_target
from tfmpq.graph.dynamic import DYNAMIC, require_dynamic_target
from tfmpq.graph.frozen import WIDE
from tfmpq.graph.kinds import INEXACT_WIDE
from tfmpq.graph.network import Network
from tfmpq.policy.policy import Activations, Policy, load_policy, uniform_policy
from tfmpq.policy.search_space import PINNED_BITS


def check_widths(
    weight_bits: int | None,
    activation_bits: int | str | None,
    policy: Policy | str | Path | None,
    target: str,
) -> Policy | None:
    """Refuse widths that contradict each other or the target, before any work.

    Returns:
        The policy that is given, or that of the file; None without one.

    Raises:
        UsageError: They do, or the file is no policy.
    """
    if (weight_bits is None) == (policy is None):
        raise UsageError(
            "A network is quantized to one width or by a policy. Received: "
            f"{'neither' if policy is None else 'both'}. Give either --weight-bits N or --policy FILE."
        )
    if policy is not None and activation_bits is not None:
        raise UsageError(
            f"A policy has the widths of activations. Received: --activation-bits {activation_bits} beside a "
            "policy. Leave it out, or give --weight-bits N."
        )
    if activation_bits not in (None, *WEIGHT_BITS, WIDE, DYNAMIC):
        raise UsageError(
            f"Activations have 2 to 8 bits, or 16, or are {DYNAMIC}. Received: {activation_bits}. Choose one "
            "of these."
        )
    read = policy if policy is None or isinstance(policy, Policy) else load_policy(policy)
    if activation_bits == WIDE or (read is not None and read.wide):
        require_wide_target(target)
    if activation_bits == DYNAMIC or (read is not None and read.dynamic):
        require_dynamic_target(target)
    return read


def choose_policy(
    network: Network,
    model: str,
    weight_bits: int | None,
    activation_bits: int | str | None,
    policy: Policy | None,
) -> Policy:
    """Widths by layer and by tensor.

    Args:
        network: The network.
        model: What it was asked for as.
        weight_bits: Width of all weights, without a policy.
        activation_bits: Width of all activations but those that are pinned, without a policy; None for 8.
        policy: Widths that are given.

    Raises:
        UsageError: The policy is of another network, or the network has no form with 16-bit activations.
    """
    names = [node.name for node in network.weighted]
    if policy is None:
        activations = None if activation_bits is None else _activations(network, activation_bits)
        policy = uniform_policy(model, names, weight_bits or PINNED_BITS, activations)
    policy.check_against(names, network.tensors)
    if policy.wide:
        refuse_inexact(network, model)
    return policy


def _activations(network: Network, bits: int | str) -> Activations:
    """One width of all activations but those that are pinned."""
    if isinstance(bits, str):
        return "dynamic"
    if bits == WIDE:
        return WIDE
    pinned = pinned_tensors(network)
    return {name: bits for name in network.tensors if name not in pinned}


def pinned_tensors(network: Network) -> set[str]:
    """Tensors that have 8 bits whatever the others have: the image, the logits, and grids that are given."""
    outputs = (network.node(name).grid_of for name in network.outputs)
    return {network.tensors[0], *outputs, *network.fixed_tensors}


def refuse_inexact(network: Network, model: str) -> None:
    """Refuse 16-bit activations of a network that the runtime computes inexactly with them.

    Args:
        network: The network.
        model: What it was asked for as.

    Raises:
        UsageError: It has sigmoids or GELU.
    """
    inexact = [
        node.name for node in network.nodes if node.kind in INEXACT_WIDE or node.fixed_step is not None
    ]
    if inexact:
        raise UsageError(
            "The runtime computes sigmoids and GELU with 16-bit activations up to six steps off. Received: "
            f"{', '.join(inexact[:5])} of {model}. Choose 8 bits."
        )
