"""The front of a search: for every size the choice that is expected to lose least."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tfmpq.methods.method import Choice, Outcome
from tfmpq.policy.budget import Budget
from tfmpq.policy.cost import CostModel
from tfmpq.policy.search_space import Candidates

POINTS = 32
"""Sizes that are asked for, evenly between the smallest and that of 8 bits."""

WORTH = 0.01
"""Share of the size at 8 bits by which each choice is smaller than the one before; less is worth no trial."""


@dataclass(frozen=True, slots=True)
class FrontPoint:
    """One choice of the front.

    Attributes:
        choice: The bit-widths.
        size: Bytes of weights, scales and biases, as the cost model counts them.
        expected: How far it is expected to move the network's outputs; None if the method does not say.
    """

    choice: Choice
    size: int
    expected: float | None


def size_front(
    outcome: Outcome, costs: CostModel, weights: Candidates, points: int = POINTS
) -> tuple[FrontPoint, ...]:
    """Choices from the largest to the smallest, each clearly smaller than the one before and than 8 bits.

    Args:
        outcome: What a search brought; it is asked once for every size.
        costs: Counts of the network.
        weights: Candidate weight bits by layer.
        points: Sizes that are asked for.
    """
    whole = costs.size(costs.uniform()[0])
    cheapest = {layer.name: min(weights[layer.name], key=layer.stored_bytes) for layer in costs.layers}
    least = costs.size(cheapest)
    found: list[FrontPoint] = []
    for limit in np.linspace(whole, least, points + 1)[1:]:
        size = int(limit) if limit > least else least
        choice = outcome.choose((Budget("size", size, f"size={size}B"),))
        reached = costs.size(choice.weight_bits)
        if reached <= (found[-1].size if found else whole) - WORTH * whole:
            found.append(FrontPoint(choice, reached, outcome.expected and outcome.expected(choice)))
    return tuple(found)
