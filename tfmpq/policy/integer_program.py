"""The 0-1 program behind a selection: a column for each candidate of each choice, a row for each budget.

Solved by SciPy's HiGHS. BOPs multiply two choices; where both are open, the product becomes a variable of its
own.
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

from tfmpq.errors import TfmpqError
from tfmpq.policy.budget import Budget
from tfmpq.policy.cost import CostKey, CostModel
from tfmpq.policy.latency_cost import NANOSECONDS

_TIE = 1e-5
"""Log-probability that one more bit is worth, so that between equals the budget is spent."""

_GAP = 1e-7
_NODES = 1000
"""Learned choices need below 500 nodes for 54 layers; a proof among mere ties would take for ever."""

_UNIT = 1e-4
"""Integer costs are scaled by this: one unit is far above the solver's tolerance of 1e-6."""


@dataclass(frozen=True, slots=True, eq=False)
class Choice:
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


class Program:
    """The 0-1 program: a column for each candidate, and one for each product of two open choices."""

    def __init__(self, choices: Sequence[Choice], model: CostModel, budgets: Sequence[Budget]) -> None:
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
        """Index of the chosen candidate of every choice: the most probable assignment."""
        return self._minimum(
            -np.concatenate(
                [choice.log_probs + _TIE * np.array(choice.candidates) for choice in self._choices]
            )
        )

    def fastest(self, model: CostModel) -> tuple[int, ...]:
        """Index of the chosen candidate of every choice: the assignment of least latency."""
        times = np.zeros(self._binaries)
        for column, nanoseconds in self._latency_row(model).items():
            times[column] = nanoseconds / NANOSECONDS
        return self._minimum(times)

    def _minimum(self, prices: np.ndarray) -> tuple[int, ...]:
        """The assignment of the least sum of prices, one for each candidate of each choice."""
        from scipy.optimize import Bounds, LinearConstraint, milp
        from scipy.sparse import coo_array

        entries = [(r, c, v) for r, (row, _, _) in enumerate(self._rows) for c, v in row.items()]
        rows, columns, values = (np.array(part) for part in zip(*entries, strict=True))
        # SciPy before 1.15 takes no other indices than these.
        places = rows.astype(np.int32), columns.astype(np.int32)
        matrix = coo_array((values.astype(float), places), shape=(len(self._rows), self._width))
        _, lower, upper = zip(*self._rows, strict=True)
        objective = np.zeros(self._width)
        objective[: self._binaries] = prices
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
        if budget.key == "bops":
            row = self._bops_row(model)
        elif budget.key == "latency":
            row = self._latency_row(model)
        else:
            row = self._linear_row(budget.key, model)
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

    def _latency_row(self, model: CostModel) -> dict[int, int]:
        row = self._linear_row("latency", model)
        tensors = {c.name: c.candidates for c in self._choices if c.kind == "activation"}
        for name, times in model.tensor_times(tensors).items():
            start = self._by_name["activation", name][0]
            row |= {start + i: int(time) for i, time in enumerate(times)}
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
    if budget.key in ("bops", "kernel-size"):
        return math.floor(budget.limit)
    if budget.key == "latency":
        return math.floor(Fraction(budget.limit) * NANOSECONDS) - model.times().base
    weights = sum(layer.weights for layer in model.layers)
    bits = math.floor(Fraction(budget.limit) * weights)
    # The mean is compared in floating point, where the next integer may round to the limit itself.
    return bits + 1 if (bits + 1) / weights <= budget.limit else bits
