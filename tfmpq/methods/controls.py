"""Controls: policies that nothing was learned for, one without a choice and one by chance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from tfmpq.methods.method import Choice, Outcome, Problem, refuse_foreign_knobs
from tfmpq.methods.options import SearchOptions
from tfmpq.policy.allocation import select
from tfmpq.policy.budget import Budget, exceeded
from tfmpq.policy.greedy import drawn
from tfmpq.policy.search_space import Candidates


class _Uniform:
    """The same width everywhere, the widest that fits the budgets."""

    trains: ClassVar[bool] = False
    reads_weights: ClassVar[bool] = False

    def check(self, options: SearchOptions) -> None:
        """No knobs."""
        refuse_foreign_knobs(options, ())

    def run(self, problem: Problem) -> Outcome:
        """Nothing is trained."""
        return Outcome(problem.searchable(), lambda budgets: _widest(problem, budgets), seconds=0.0)


def _widest(problem: Problem, budgets: Sequence[Budget]) -> Choice:
    """The pair of a weight and an activation width with the most bits; of equals the wider activations."""
    pairs = [
        (weights, activations)
        for weights in problem.options.weight_bits
        for activations in problem.options.activation_widths
    ]
    for weights, activations in sorted(pairs, key=lambda pair: (sum(pair), pair[1]), reverse=True):
        choice = Choice(
            _everywhere(problem.weights, weights),
            _everywhere(problem.activations, activations),
            repaired=weights < max(problem.options.weight_bits),
        )
        if not exceeded(budgets, problem.costs, choice.weight_bits, choice.activation_bits):
            return choice
    # No width is within all budgets everywhere: the widest mixture that is.
    found = select(problem.costs, budgets, *_indifferent(problem.weights), *_indifferent(problem.activations))
    return Choice(found.weight_bits, found.activation_bits, repaired=True)


def _indifferent(candidates: Candidates) -> tuple[Candidates, dict[str, np.ndarray]]:
    """Candidates with equal logits."""
    return candidates, {name: np.zeros(len(bits)) for name, bits in candidates.items()}


def _everywhere(candidates: Candidates, width: int) -> dict[str, int]:
    """This width, or the nearest above that a layer may have, or else its widest."""
    return {
        name: min((b for b in bits if b >= width), default=max(bits)) for name, bits in candidates.items()
    }


class _Random:
    """Widths drawn uniformly, narrowed and widened at random until the budgets are used.

    A search that does not beat this at equal cost has found nothing.
    """

    trains: ClassVar[bool] = False
    reads_weights: ClassVar[bool] = False

    def check(self, options: SearchOptions) -> None:
        """No knobs."""
        refuse_foreign_knobs(options, ())

    def run(self, problem: Problem) -> Outcome:
        """Nothing is trained; every budget gets a draw of its own from the seed."""
        return Outcome(problem.searchable(), lambda budgets: _drawn(problem, budgets), seconds=0.0)


def _drawn(problem: Problem, budgets: Sequence[Budget]) -> Choice:
    weights, activations = (
        {name: np.zeros(len(widths)) for name, widths in candidates.items()} for candidates in problem.space
    )
    generator = np.random.default_rng(problem.options.seed)
    bits = drawn(problem.costs, budgets, problem.space, (weights, activations), generator)
    return Choice(*bits, repaired=True)


METHODS = {"uniform": _Uniform(), "random": _Random()}
"""The controls, by name."""
