"""Spend what a selected policy leaves of its budgets: unused bytes are accuracy given away."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from tfmpq.budget import Budget, exceeded
from tfmpq.cost import CostModel
from tfmpq.quantize import Candidates


def spend(
    costs: CostModel,
    budgets: Sequence[Budget],
    weight_candidates: Candidates,
    weight_logits: Mapping[str, np.ndarray],
    weight_bits: Mapping[str, int],
    activation_bits: Mapping[str, int],
) -> dict[str, int]:
    """Widen layers while every budget holds, first those that lose the least probability per unit of cost.

    A layer's preference for few bits comes from the pressure of the budget; where room is left, there is
    none.

    Args:
        costs: Counts of the network.
        budgets: Limits.
        weight_candidates: Weight bits to choose from, by layer name.
        weight_logits: Learned logits in the order of the candidates; without layers that have one candidate.
        weight_bits: A choice that meets the budgets.
        activation_bits: Activation bits by tensor, which stay.

    Returns:
        Weight bits by layer; no layer has fewer than before.
    """
    chosen = dict(weight_bits)
    while True:
        options = []
        for name, logits in weight_logits.items():
            candidates = weight_candidates[name]
            position = candidates.index(chosen[name])
            for wider in range(position + 1, len(candidates)):
                attempt = chosen | {name: candidates[wider]}
                if not exceeded(budgets, costs, attempt, activation_bits):
                    price = _share(costs, budgets, attempt, activation_bits) - _share(
                        costs, budgets, chosen, activation_bits
                    )
                    reluctance = float(logits[position] - logits[wider])
                    options.append((reluctance / max(price, 1e-12), name, candidates[wider]))
        if not options:
            return chosen
        _, name, bits = min(options)
        chosen[name] = bits


def _share(
    costs: CostModel,
    budgets: Sequence[Budget],
    weight_bits: Mapping[str, int],
    activation_bits: Mapping[str, int],
) -> float:
    """How much of the budgets an assignment uses, each as a fraction of its limit, summed."""
    return sum(costs.value(b.key, weight_bits, activation_bits) / b.limit for b in budgets)
