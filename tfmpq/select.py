"""From learned choices to a policy within its budgets: the most probable assignment that meets all of them.

A multiple-choice knapsack, solved exactly by SciPy's HiGHS: one bit-width for each layer and each activation
tensor, the sum of log-probabilities as large as possible, every budget a linear row. BOPs multiply two
choices; where both are open, the product becomes a variable of its own.
"""

from __future__ import annotations

import ctypes
import math
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import ArrayLike

from tfmpq.budget import Budget, check_feasible, exceeded
from tfmpq.cost import CostKey, CostModel
from tfmpq.errors import TfmpqError

_FLOOR = -1e3
"""Log-probability, relative to the best of the layer, that stands for a probability of zero."""

_TIE = 1e-5
"""Log-probability that one more bit is worth, so that between equals the budget is spent."""

_GAP = 1e-7
_NODES = 1000
"""Learned choices need below 500 nodes for 54 layers; a proof among mere ties would take for ever."""

_UNIT = 1e-4
"""Integer costs are scaled by this: one unit is far above the solver's tolerance of 1e-6."""

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


def select(
    model: CostModel,
    budgets: Sequence[Budget],
    weight_candidates: Mapping[str, Sequence[int]],
    weight_logits: Mapping[str, ArrayLike],
    activation_candidates: Mapping[str, Sequence[int]],
    activation_logits: Mapping[str, ArrayLike],
) -> Selection:
    """The most probable assignment that meets all budgets.

    It is the most probable choice of every layer and tensor if that meets them, and it exists whenever the
    smallest bits everywhere meet them. Between assignments of equal probability more bits win.

    Args:
        model: Counts of the network.
        budgets: Limits, all of which are met.
        weight_candidates: Weight bits to choose from, by layer name.
        weight_logits: Logits or log-probabilities in the order of the candidates, by layer name; a layer with
            one candidate can be left out.
        activation_candidates: Activation bits to choose from, by tensor name.
        activation_logits: As for the weights, by tensor name.

    Raises:
        UsageError: The smallest candidates exceed a budget.
        TfmpqError: Logits are missing, misshapen or not finite, or the solver gave up.
    """
    check_feasible(budgets, model, weight_candidates, activation_candidates)
    choices = [
        *_choices("layer", weight_candidates, weight_logits),
        *_choices("activation", activation_candidates, activation_logits),
    ]
    picks = best = tuple(choice.most_probable for choice in choices)
    program: _Program | None = None
    for _ in range(_MAX_ATTEMPTS):
        weight_bits, activation_bits = _assignment(choices, picks)
        if not exceeded(budgets, model, weight_bits, activation_bits):
            score = sum(float(c.log_probs[pick]) for c, pick in zip(choices, picks, strict=True))
            return Selection(weight_bits, activation_bits, score, repaired=picks != best)
        if program is None:
            program = _Program(choices, model, budgets)
        else:
            # The solver's tolerance let through a hair more than the limit.
            program.forbid(picks)
        picks = program.solve()
    raise TfmpqError(
        "A policy must meet its budgets exactly. Received: only assignments at the solver's tolerance above "
        f"{', '.join(budget.text for budget in budgets)}. Change a budget slightly."
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Choice:
    """One bit-width to choose: of a layer's weights or of an activation tensor."""

    kind: str
    name: str
    candidates: tuple[int, ...]
    log_probs: np.ndarray

    @property
    def most_probable(self) -> int:
        """Index of the best candidate, of equally good ones that with the most bits."""
        order = sorted(range(len(self.candidates)), key=lambda i: (self.log_probs[i], self.candidates[i]))
        return order[-1]


def _choices(
    kind: str, candidates: Mapping[str, Sequence[int]], logits: Mapping[str, ArrayLike]
) -> list[_Choice]:
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
        result.append(_Choice(kind, name, tuple(bits), log_probs))
    return result


def _assignment(choices: Sequence[_Choice], picks: Sequence[int]) -> tuple[dict[str, int], dict[str, int]]:
    bits: dict[str, dict[str, int]] = {"layer": {}, "activation": {}}
    for choice, pick in zip(choices, picks, strict=True):
        bits[choice.kind][choice.name] = choice.candidates[pick]
    return bits["layer"], bits["activation"]


class _Program:
    """The 0-1 program: a column for each candidate, and one for each product of two open choices."""

    def __init__(self, choices: Sequence[_Choice], model: CostModel, budgets: Sequence[Budget]) -> None:
        self._choices = choices
        self._starts = np.cumsum([0, *(len(choice.candidates) for choice in choices)]).tolist()
        self._width = self._binaries = self._starts[-1]
        self._rows: list[tuple[Mapping[int, float], float, float]] = []
        for start, choice in zip(self._starts, choices, strict=False):
            self._rows.append(({start + i: 1 for i in range(len(choice.candidates))}, 1, 1))
        self._by_name = {
            (choice.kind, choice.name): (start, choice.candidates)
            for start, choice in zip(self._starts, choices, strict=False)
        }
        for budget in budgets:
            self._limit(budget, model)

    def forbid(self, picks: Sequence[int]) -> None:
        """Leaves this very assignment out."""
        chosen = {start + pick: 1 for start, pick in zip(self._starts, picks, strict=False)}
        self._rows.append((chosen, -np.inf, len(chosen) - 1))

    def solve(self) -> tuple[int, ...]:
        """Index of the chosen candidate of every choice."""
        from scipy.optimize import Bounds, LinearConstraint, milp
        from scipy.sparse import coo_array

        entries = [(r, c, v) for r, (row, _, _) in enumerate(self._rows) for c, v in row.items()]
        rows, columns, values = (np.array(part) for part in zip(*entries, strict=True))
        matrix = coo_array((values.astype(float), (rows, columns)), shape=(len(self._rows), self._width))
        _, lower, upper = zip(*self._rows, strict=True)
        objective = np.zeros(self._width)
        objective[: self._binaries] = -np.concatenate(
            [choice.log_probs + _TIE * np.array(choice.candidates) for choice in self._choices]
        )
        with _native_output_on_stderr():
            result = milp(
                objective,
                integrality=np.arange(self._width) < self._binaries,
                bounds=Bounds(0, 1),
                constraints=LinearConstraint(matrix.tocsr(), lower, upper),
                options={"mip_rel_gap": _GAP, "node_limit": _NODES},
            )
        if result.x is None:
            raise TfmpqError(f"The solver must find a policy. Received: {result.message} Change a budget.")
        return tuple(
            int(np.argmax(result.x[start : start + len(choice.candidates)]))
            for start, choice in zip(self._starts, self._choices, strict=False)
        )

    def _limit(self, budget: Budget, model: CostModel) -> None:
        """Adds the row of a budget, in integers without a common factor, which keeps the solver exact."""
        row = self._bops_row(model) if budget.key == "bops" else self._linear_row(budget.key, model)
        factor = math.gcd(*row.values()) or 1
        limit = _integer_limit(budget, model) // factor
        scaled = {column: value // factor * _UNIT for column, value in row.items()}
        self._rows.append((scaled, -np.inf, (limit + 0.5) * _UNIT))

    def _linear_row(self, key: CostKey, model: CostModel) -> dict[int, int]:
        candidates = {layer.name: self._by_name["layer", layer.name][1] for layer in model.layers}
        row: dict[int, int] = {}
        for name, costs in model.cost_table(key, candidates).items():
            start = self._by_name["layer", name][0]
            row |= {start + i: int(cost) for i, cost in enumerate(costs)}
        return row

    def _bops_row(self, model: CostModel) -> dict[int, int]:
        row: dict[int, int] = {}
        for layer in model.layers:
            weight, weight_bits = self._by_name["layer", layer.name]
            tensor, tensor_bits = self._by_name["activation", layer.reads]
            single = len(weight_bits) == 1 or len(tensor_bits) == 1
            pairs = None if single else self._pairs(weight, len(weight_bits), tensor, len(tensor_bits))
            for i, w in enumerate(weight_bits):
                for j, a in enumerate(tensor_bits):
                    if pairs is None:
                        column = weight + i if len(tensor_bits) == 1 else tensor + j
                    else:
                        column = pairs + i * len(tensor_bits) + j
                    row[column] = row.get(column, 0) + layer.macs * w * a
        return row

    def _pairs(self, weight: int, weights: int, tensor: int, tensors: int) -> int:
        """Columns z_ij = x_i y_j, by sum_j z_ij = x_i and sum_i z_ij = y_j; returns the first."""
        first = self._width
        self._width += weights * tensors
        for i in range(weights):
            columns = dict.fromkeys(range(first + i * tensors, first + (i + 1) * tensors), 1)
            self._rows.append((columns | {weight + i: -1}, 0, 0))
        for j in range(tensors):
            columns = dict.fromkeys(range(first + j, first + weights * tensors, tensors), 1)
            self._rows.append((columns | {tensor + j: -1}, 0, 0))
        return first


@contextmanager
def _native_output_on_stderr() -> Iterator[None]:
    """HiGHS prints a stray line on rare paths, and stdout belongs to results."""
    sys.stdout.flush()
    stdout = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        ctypes.CDLL(None).fflush(None)
        os.dup2(stdout, 1)
        os.close(stdout)


def _integer_limit(budget: Budget, model: CostModel) -> int:
    """The largest integer cost, in the unit of `CostModel.cost_table`, that the budget allows."""
    if budget.key == "size":
        return math.floor(budget.limit) - model.fixed_bytes
    if budget.key == "bops":
        return math.floor(budget.limit)
    weights = sum(layer.weights for layer in model.layers)
    bits = math.floor(Fraction(budget.limit) * weights)
    # The mean is compared in floating point, where the next integer may round to the limit itself.
    return bits + 1 if (bits + 1) / weights <= budget.limit else bits
