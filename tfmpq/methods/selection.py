"""From learned logits to bit-widths within budgets, by one of three rules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import keras
import numpy as np

from tfmpq.methods.least_sharp import surrogate_gaps
from tfmpq.methods.method import Choice, Problem
from tfmpq.policy.allocation import select
from tfmpq.policy.budget import Budget
from tfmpq.policy.greedy import drawn, narrow, spend
from tfmpq.training.step import SharpnessOptions

SAMPLES = 20
"""Policies that are drawn to take the least sharp of (SAQ, arXiv 2111.12273, draws as many)."""


@dataclass(frozen=True, slots=True, eq=False)
class Learned:
    """What a differentiable search has learned.

    Attributes:
        model: The searched mixture.
        weight_logits: In the order of the candidates, by layer; without layers that have one candidate.
        activation_logits: The same by tensor.
        sharpness: The step of the search, whose radius and place sharpness is measured with.
    """

    model: keras.Model
    weight_logits: Mapping[str, np.ndarray]
    activation_logits: Mapping[str, np.ndarray]
    sharpness: SharpnessOptions

    @property
    def logits(self) -> tuple[Mapping[str, np.ndarray], Mapping[str, np.ndarray]]:
        """Of weights and of activations."""
        return self.weight_logits, self.activation_logits


def decide(problem: Problem, learned: Learned, budgets: Sequence[Budget]) -> Choice:
    """Bit-widths that meet all budgets, by the rule that was asked for.

    `argmax`: the most probable width of each layer, narrowed greedily where a budget is exceeded.
    `knapsack`: the most probable assignment within the budgets, then widened while there is room.
    `least-sharp`: the policy of the smallest surrogate gap among that one and `SAMPLES` that are drawn from
    the probabilities and brought to the budgets at random.
    """
    if problem.options.select == "argmax":
        likely = Choice(
            _most_probable(problem.weights, learned.weight_logits),
            _most_probable(problem.activations, learned.activation_logits),
            repaired=False,
        )
        return _narrowed(problem, learned, budgets, likely)
    best = likeliest(problem, learned, budgets)
    if problem.options.select == "knapsack":
        return best
    distinct = {_key(best): best}
    generator = np.random.default_rng(problem.options.seed)
    for _ in range(SAMPLES):
        bits = drawn(problem.costs, budgets, problem.space, learned.logits, generator)
        choice = Choice(*bits, repaired=True)
        distinct.setdefault(_key(choice), choice)
    choices = list(distinct.values())
    gaps = surrogate_gaps(problem, learned.model, learned.sharpness, choices)
    return choices[int(np.argmin(gaps))]


def likeliest(problem: Problem, learned: Learned, budgets: Sequence[Budget]) -> Choice:
    """The most probable bit-widths within the budgets, widened while there is room."""
    found = select(
        problem.costs,
        budgets,
        problem.weights,
        learned.weight_logits,
        problem.activations,
        learned.activation_logits,
    )
    return _spent(problem, learned, budgets, Choice(found.weight_bits, found.activation_bits, found.repaired))


def _narrowed(problem: Problem, learned: Learned, budgets: Sequence[Budget], choice: Choice) -> Choice:
    before = (choice.weight_bits, choice.activation_bits)
    after = narrow(problem.costs, budgets, problem.space, learned.logits, before)
    return Choice(*after, repaired=choice.repaired or after != before)


def _spent(problem: Problem, learned: Learned, budgets: Sequence[Budget], choice: Choice) -> Choice:
    before = (choice.weight_bits, choice.activation_bits)
    after = spend(problem.costs, budgets, problem.space, learned.logits, before)
    return Choice(*after, repaired=choice.repaired)


def _most_probable(
    candidates: Mapping[str, Sequence[int]], logits: Mapping[str, np.ndarray]
) -> dict[str, int]:
    return {
        name: bits[int(np.argmax(logits[name]))] if name in logits else bits[0]
        for name, bits in candidates.items()
    }


def _key(choice: Choice) -> tuple[int, ...]:
    return (*choice.weight_bits.values(), *choice.activation_bits.values())
