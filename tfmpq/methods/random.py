"""The control by chance: widths drawn uniformly, narrowed and widened at random until the budgets are used.

A search that does not beat this at equal cost has found nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from tfmpq.budget import Budget, exceeded
from tfmpq.quantize import Candidates
from tfmpq.search_options import SearchOptions
from tfmpq.searcher import Choice, Outcome, Problem, refuse_foreign_knobs

_Bits = tuple[dict[str, int], dict[str, int]]


class _Random:
    def check(self, options: SearchOptions) -> None:
        """No knobs."""
        refuse_foreign_knobs(options, ())

    def run(self, problem: Problem) -> Outcome:
        """Nothing is trained; every budget gets a draw of its own from the seed."""
        return Outcome(problem.searchable(), lambda budgets: _drawn(problem, budgets), seconds=0.0)


def _drawn(problem: Problem, budgets: Sequence[Budget]) -> Choice:
    generator = np.random.default_rng(problem.options.seed)
    bits: _Bits = (_draw(problem.weights, generator), _draw(problem.activations, generator))
    repaired = bool(exceeded(budgets, problem.costs, *bits))
    while exceeded(budgets, problem.costs, *bits):
        bits = _any(list(_neighbours(problem.space, bits, -1)), generator)
    while fitting := [
        wider
        for wider in _neighbours(problem.space, bits, +1)
        if not exceeded(budgets, problem.costs, *wider)
    ]:
        bits = _any(fitting, generator)
    return Choice(*bits, repaired=repaired)


def _draw(candidates: Candidates, generator: np.random.Generator) -> dict[str, int]:
    return {name: int(generator.choice(bits)) for name, bits in candidates.items()}


def _any(options: Sequence[_Bits], generator: np.random.Generator) -> _Bits:
    return options[int(generator.integers(len(options)))]


def _neighbours(candidates: tuple[Candidates, Candidates], bits: _Bits, step: int) -> Iterator[_Bits]:
    """All that differ by one candidate in one layer or tensor, in the direction of `step`."""
    for kind in (0, 1):
        for name, widths in candidates[kind].items():
            position = list(widths).index(bits[kind][name]) + step
            if 0 <= position < len(widths):
                changed: Mapping[str, int] = bits[kind] | {name: widths[position]}
                yield (dict(changed), bits[1]) if kind == 0 else (bits[0], dict(changed))


METHOD = _Random()
