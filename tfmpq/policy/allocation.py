"""From learned choices to a policy within its budgets: the most probable assignment that meets all of them.

A multiple-choice knapsack, solved exactly by SciPy's HiGHS: one bit-width for each layer and each activation
tensor, the sum of log-probabilities as large as possible, every budget a linear row. BOPs multiply two
choices; where both are open, the product becomes a variable of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from tfmpq.errors import TfmpqError, UsageError
from tfmpq.policy.budget import Budget, check_each_feasible, exceeded, smallest_text
from tfmpq.policy.cost import CostModel
from tfmpq.policy.integer_program import Choice, Program

_FLOOR = -1e3
"""Log-probability, relative to the best of the layer, that stands for a probability of zero."""

_MAX_ATTEMPTS = 50


@dataclass(frozen=True, slots=True)
class Selection:
    """An assignment that meets its budgets.

    Attributes:
        weight_bits: By layer name.
        activation_bits: By tensor name.
        score: Sum of the chosen log-probabilities.
        repaired: Whether it differs from the most probable choice of every layer and tensor.
    """

    weight_bits: dict[str, int]
    activation_bits: dict[str, int]
    score: float
    repaired: bool


def check_feasible_together(
    budgets: Sequence[Budget],
    model: CostModel,
    weight_candidates: Mapping[str, Sequence[int]],
    activation_candidates: Mapping[str, Sequence[int]],
) -> None:
    """Makes sure that some assignment meets all budgets together.

    Raises:
        UsageError: There is none; the message says what can be met.
        TfmpqError: The solver gave up.
    """
    check_each_feasible(budgets, model, weight_candidates, activation_candidates)
    others = [budget for budget in budgets if budget.key != "latency"]
    if not others or len(others) == len(budgets):
        return
    choices = [
        *_choices("layer", weight_candidates, _indifferent(weight_candidates)),
        *_choices("activation", activation_candidates, _indifferent(activation_candidates)),
    ]
    picks = Program(choices, model, others).fastest(model)
    least = model.value("latency", *_assignment(choices, picks))
    latency = next(budget for budget in budgets if budget.key == "latency")
    if least > latency.limit:
        beside = ", ".join(budget.text for budget in others)
        raise UsageError(
            "Budgets must be within reach of the candidate bits together. "
            f"Received: {latency.text} beside {beside}. The smallest latency beside these: "
            f"{smallest_text(latency, model, least)}; ask for no less, or raise another budget."
        )


def _indifferent(candidates: Mapping[str, Sequence[int]]) -> dict[str, np.ndarray]:
    return {name: np.zeros(len(bits)) for name, bits in candidates.items()}


def select(
    model: CostModel,
    budgets: Sequence[Budget],
    weight_candidates: Mapping[str, Sequence[int]],
    weight_logits: Mapping[str, ArrayLike],
    activation_candidates: Mapping[str, Sequence[int]],
    activation_logits: Mapping[str, ArrayLike],
) -> Selection:
    """The most probable assignment that meets all budgets.

    It is the most probable choice of every layer and tensor if that meets them. Between assignments of equal
    probability more bits win.

    Args:
        model: Counts of the network.
        budgets: Limits, all of which are met.
        weight_candidates: Weight bits to choose from, by layer name.
        weight_logits: Logits or log-probabilities in the order of the candidates, by layer name; a layer with
            one candidate can be left out.
        activation_candidates: Activation bits to choose from, by tensor name.
        activation_logits: As for the weights, by tensor name.

    Raises:
        UsageError: No assignment meets the budgets.
        TfmpqError: Logits are missing, misshapen or not finite, or the solver gave up.
    """
    check_feasible_together(budgets, model, weight_candidates, activation_candidates)
    choices = [
        *_choices("layer", weight_candidates, weight_logits),
        *_choices("activation", activation_candidates, activation_logits),
    ]
    picks = best = tuple(choice.most_probable for choice in choices)
    program: Program | None = None
    for _ in range(_MAX_ATTEMPTS):
        weight_bits, activation_bits = _assignment(choices, picks)
        if not exceeded(budgets, model, weight_bits, activation_bits):
            score = sum(float(c.log_probs[pick]) for c, pick in zip(choices, picks, strict=True))
            return Selection(weight_bits, activation_bits, score, repaired=picks != best)
        if program is None:
            program = Program(choices, model, budgets)
        else:
            # The solver's tolerance let through a hair more than the limit.
            program.forbid(picks)
        picks = program.solve()
    raise TfmpqError(
        "A policy must meet its budgets exactly. Received: only assignments at the solver's tolerance above "
        f"{', '.join(budget.text for budget in budgets)}. Change a budget slightly."
    )


def _choices(
    kind: str, candidates: Mapping[str, Sequence[int]], logits: Mapping[str, ArrayLike]
) -> list[Choice]:
    result = []
    for name, bits in candidates.items():
        values = np.asarray(logits.get(name, [0.0] if len(bits) == 1 else []), np.float64)
        if values.shape != (len(bits),) or np.isnan(values).any() or not np.isfinite(values.max()):
            raise TfmpqError(
                f"Each of the candidates {list(bits)} of {kind} {name} has a logit that is a number. "
                f"Received: {values.tolist()}. If the search diverged, lower its learning rate."
            )
        values = np.maximum(values - values.max(), _FLOOR)
        log_probs = values - np.log(np.exp(values).sum())
        result.append(Choice(kind, name, tuple(bits), log_probs))
    return result


def _assignment(choices: Sequence[Choice], picks: Sequence[int]) -> tuple[dict[str, int], dict[str, int]]:
    bits: dict[str, dict[str, int]] = {"layer": {}, "activation": {}}
    for choice, pick in zip(choices, picks, strict=True):
        bits[choice.kind][choice.name] = choice.candidates[pick]
    return bits["layer"], bits["activation"]
