"""Bring a policy to its budgets: widen it while there is room, narrow it while there is none.

Unused bytes are accuracy given away.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from scipy.special import softmax

from tfmpq.policy.allocation import select
from tfmpq.policy.budget import Budget, exceeded
from tfmpq.policy.cost import CostModel
from tfmpq.policy.search_space import Candidates

Bits = tuple[Mapping[str, int], Mapping[str, int]]
"""Weight bits by layer and activation bits by tensor."""

Logits = tuple[Mapping[str, np.ndarray], Mapping[str, np.ndarray]]
"""Learned logits of both in the order of the candidates, without those that have one candidate."""


def spend(
    costs: CostModel,
    budgets: Sequence[Budget],
    candidates: tuple[Candidates, Candidates],
    logits: Logits,
    bits: Bits,
) -> tuple[dict[str, int], dict[str, int]]:
    """Widen layers and tensors while every budget holds, first those that lose the least probability.

    The loss of probability counts per unit of cost. A layer's preference for few bits comes from the pressure
    of the budget; where room is left, there is none.

    Args:
        costs: Counts of the network.
        budgets: Limits.
        candidates: Bits to choose from.
        logits: What was learned.
        bits: A choice that meets the budgets.

    Returns:
        Weight bits by layer and activation bits by tensor; nothing is narrower than before.
    """
    chosen = (dict(bits[0]), dict(bits[1]))
    while True:
        used, options = _share(costs, budgets, *chosen), []
        for kind, name, width, reluctance, attempt in _moves(candidates, logits, chosen, wider=True):
            if not exceeded(budgets, costs, *attempt):
                price = _share(costs, budgets, *attempt) - used
                options.append((reluctance / max(price, 1e-12), kind, name, width))
        if not options:
            return chosen
        _, kind, name, width = min(options)
        chosen[kind][name] = width


def narrow(
    costs: CostModel,
    budgets: Sequence[Budget],
    candidates: tuple[Candidates, Candidates],
    logits: Logits,
    bits: Bits,
) -> tuple[dict[str, int], dict[str, int]]:
    """Narrow layers and tensors until every budget holds, first those that lose the least probability.

    The loss of probability counts per unit of the exceeded costs that is saved. Where narrowing does not
    help, because a wider kernel is the faster one, the most probable assignment within the budgets is taken.

    Args:
        costs: Counts of the network.
        budgets: Limits that can be met together.
        candidates: Bits to choose from.
        logits: What was learned.
        bits: The choice.

    Returns:
        Weight bits by layer and activation bits by tensor that meet the budgets; without a budget of latency
        nothing is wider.
    """
    chosen = (dict(bits[0]), dict(bits[1]))
    while over := exceeded(budgets, costs, *chosen):
        used, options = _share(costs, over, *chosen), []
        for kind, name, width, reluctance, attempt in _moves(candidates, logits, chosen, wider=False):
            saved = used - _share(costs, over, *attempt)
            if saved > 0:
                options.append((reluctance / saved, kind, name, width))
        if not options:
            return _likeliest(costs, budgets, candidates, logits)
        _, kind, name, width = min(options)
        chosen[kind][name] = width
    return chosen


def _likeliest(
    costs: CostModel, budgets: Sequence[Budget], candidates: tuple[Candidates, Candidates], logits: Logits
) -> tuple[dict[str, int], dict[str, int]]:
    found = select(costs, budgets, candidates[0], logits[0], candidates[1], logits[1])
    return found.weight_bits, found.activation_bits


def drawn(
    costs: CostModel,
    budgets: Sequence[Budget],
    candidates: tuple[Candidates, Candidates],
    logits: Logits,
    generator: np.random.Generator,
) -> tuple[dict[str, int], dict[str, int]]:
    """Draw an assignment, narrow it while a budget is exceeded, and widen it while there is room.

    All of it is left to chance: each width is drawn by its probability, and a layer or tensor to change and
    its new width by how much of the probability is kept. Where narrowing does not help, the most probable
    assignment within the budgets is taken, after noise of Gumbel's distribution has been added to the logits,
    which without budgets would be the same as drawing.

    Args:
        costs: Counts of the network.
        budgets: Limits that can be met together.
        candidates: Bits to choose from.
        logits: Unnormalised log-probabilities.
        generator: Source of chance.
    """
    chosen: tuple[dict[str, int], dict[str, int]] = ({}, {})
    for kind in (0, 1):
        for name, widths in candidates[kind].items():
            values = np.asarray(logits[kind].get(name, np.zeros(len(widths))), np.float64)
            chosen[kind][name] = int(generator.choice(widths, p=softmax(values)))
    for wider in (False, True):
        while moves := [
            move
            for move in _moves(candidates, logits, chosen, wider)
            if not (wider and exceeded(budgets, costs, *move[-1]))
        ]:
            if not wider and not exceeded(budgets, costs, *chosen):
                break
            kept = softmax([-reluctance for *_, reluctance, _ in moves])
            kind, name, width, *_ = moves[int(generator.choice(len(moves), p=kept))]
            chosen[kind][name] = width
        if exceeded(budgets, costs, *chosen):
            noisy = [
                {n: np.asarray(v) + generator.gumbel(size=len(v)) for n, v in part.items()} for part in logits
            ]
            chosen = _likeliest(costs, budgets, candidates, (noisy[0], noisy[1]))
    return chosen


def _moves(
    candidates: tuple[Candidates, Candidates], logits: Logits, chosen: Bits, wider: bool
) -> Iterator[tuple[int, str, int, float, Bits]]:
    """Every change of one choice: kind, name, width, lost log-probability, and the whole assignment."""
    for kind in (0, 1):
        for name, values in logits[kind].items():
            widths = list(candidates[kind][name])
            position = widths.index(chosen[kind][name])
            for other in range(position + 1, len(widths)) if wider else range(position):
                changed = {**chosen[kind], name: widths[other]}
                attempt = (changed, chosen[1]) if kind == 0 else (chosen[0], changed)
                yield kind, name, widths[other], float(values[position] - values[other]), attempt


def _share(
    costs: CostModel,
    budgets: Sequence[Budget],
    weight_bits: Mapping[str, int],
    activation_bits: Mapping[str, int],
) -> float:
    """How much of the budgets an assignment uses, each as a fraction of its limit, summed."""
    return sum(costs.value(b.key, weight_bits, activation_bits) / b.limit for b in budgets)
