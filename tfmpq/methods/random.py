"""The control by chance: widths drawn uniformly, narrowed and widened at random until the budgets are used.

A search that does not beat this at equal cost has found nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tfmpq.methods.method import Choice, Outcome, Problem, refuse_foreign_knobs
from tfmpq.methods.options import SearchOptions
from tfmpq.policy.budget import Budget
from tfmpq.policy.greedy import drawn


class _Random:
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


METHOD = _Random()
