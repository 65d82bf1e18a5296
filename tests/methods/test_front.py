"""The front of a search, from an exact program on made-up sensitivities."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tfmpq.methods.front import WORTH, size_front
from tfmpq.methods.method import Choice, Outcome
from tfmpq.policy.allocation import select
from tfmpq.policy.cost import CostModel, LayerCost

BITS = (2, 4, 8)


def outcome_of(costs: CostModel, rises: dict[str, tuple[float, ...]]) -> Outcome:
    """What an exact search brings whose expectation is the sum of `rises`."""
    widths = dict.fromkeys(rises, BITS)
    logits = {name: -np.array(values) for name, values in rises.items()}
    tensors = dict.fromkeys(costs.tensors, (8,))

    def choose(budgets: Any) -> Choice:
        found = select(costs, budgets, widths, logits, tensors, {})
        return Choice(found.weight_bits, found.activation_bits, found.repaired)

    def expected(choice: Choice) -> float:
        return sum(rises[name][BITS.index(bits)] for name, bits in choice.weight_bits.items())

    return Outcome(None, choose, 0.0, expected)  # type: ignore[arg-type]


@st.composite
def networks(draw: st.DrawFn) -> tuple[CostModel, dict[str, tuple[float, ...]]]:
    layers, rises = [], {}
    for number in range(draw(st.integers(1, 3))):
        weights = 16 * draw(st.integers(1, 40))
        held = None
        if draw(st.booleans()):  # a form in which bits save what they like
            held = dict(zip(BITS, draw(st.tuples(*[st.integers(50, 900)] * 3)), strict=True))
        layers.append(LayerCost(f"l{number}", "dense", weights, weights, 4, weights // 4, f"t{number}", held))
        falls = sorted(draw(st.tuples(*[st.integers(0, 300)] * 3)), reverse=True)
        rises[f"l{number}"] = tuple(value / 100 for value in falls)
    return CostModel(tuple(layers)), rises


@settings(max_examples=20)
@given(networks(), st.integers(1, 12))
def test_every_point_is_smaller_and_the_best_of_its_size(network: Any, points: int) -> None:
    costs, rises = network
    found = size_front(outcome_of(costs, rises), costs, dict.fromkeys(rises, BITS), points)
    sizes = [costs.size(costs.uniform()[0]), *(point.size for point in found)]
    assert all(second <= first - WORTH * sizes[0] for first, second in itertools.pairwise(sizes))
    every = [dict(zip(rises, widths, strict=True)) for widths in itertools.product(BITS, repeat=len(rises))]
    for point in found:
        assert point.size == costs.size(point.choice.weight_bits)
        best = min(
            sum(rises[name][BITS.index(bits)] for name, bits in widths.items())
            for widths in every
            if costs.size(widths) <= point.size
        )
        assert point.expected is not None
        assert point.expected <= best + 1e-6
    least = min(costs.size(widths) for widths in every)
    assert sizes[-1] - least < WORTH * sizes[0]
