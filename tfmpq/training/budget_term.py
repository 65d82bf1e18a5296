"""The pressure of the budgets on the bit-width logits: expected costs in the loss, driven to their limits."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from keras import ops

from tfmpq.policy.cost import CostKey
from tfmpq.policy.expected_cost import ExpectedCost
from tfmpq.training.backend import value_and_gradient

_TINY = 1e-30
"""Stands for a probability of zero, whose logarithm counts nothing."""


class Pressure(NamedTuple):
    """What a `BudgetTerm` adds to a step.

    Attributes:
        gradients: To be added to those of the logits, in their order.
        multipliers: Those of the next step.
        metrics: Scalars by name: expected costs relative to the uniform 8-bit network (`expected_size`, ...),
            `expected_bits` of a weight, and `entropy`, the mean of all mixtures in nats.
    """

    gradients: list[Any]
    multipliers: Any
    metrics: dict[str, Any]


@dataclass(frozen=True, slots=True)
class BudgetTerm:
    """The part of the loss that drives expected costs to their limits.

    With v_k = expected cost / limit - 1 of each budget, the loss gains `sum_k multiplier_k * v_k` and
    `penalty / 2 * max_k(v_k)^2`, and the multipliers follow dual ascent, `max(0, multiplier + rate * v)`: no
    weight has to be tuned by hand. The quadratic term damps the oscillation of the multipliers, and it acts
    on both sides of the tightest limit, because bits that a budget leaves unused are accuracy given away.
    Time that is left unused is not: narrow kernels may be the slow ones. So a latency has a quadratic term of
    its own, which acts above its limit only.

    Attributes:
        cost: Differentiable expected costs, relative to the uniform 8-bit network.
        limits: Limit of each cost, relative to the uniform 8-bit network.
        rate: Step size of the dual ascent.
        penalty: Weight of the quadratic term.
    """

    cost: ExpectedCost
    limits: Mapping[CostKey, float]
    rate: float
    penalty: float = 5.0

    def pressure(
        self,
        choices: Mapping[str, Callable[[Any], Any]],
        logits: Sequence[Any],
        multipliers: Any,
    ) -> Pressure:
        """Gradient with respect to the logits, next multipliers, and what is expected.

        Args:
            choices: `weight:LAYER` or `activation:TENSOR` for each logit vector, and how it becomes
                probabilities.
            logits: The vectors, (number of candidates,) each.
            multipliers: (number of limits,).
        """

        def mixtures(logits: Sequence[Any]) -> list[Any]:
            return [relaxed(vector) for relaxed, vector in zip(choices.values(), logits, strict=True)]

        def term(logits: Sequence[Any]) -> tuple[Any, tuple[dict[CostKey, Any], Any]]:
            expected = self._expected(list(choices), mixtures(logits))
            excess = {key: expected[key] / limit - 1.0 for key, limit in self.limits.items()}
            along = ops.stack(list(excess.values()))
            value = ops.sum(multipliers * along) + 0.5 * self.penalty * _quadratic(excess)
            return value, (expected, along)

        (_, (expected, excess)), gradients = value_and_gradient(term, logits)
        metrics = {f"expected_{key}": value for key, value in expected.items()}
        metrics["expected_bits"] = 8.0 * expected["weight-bits"]
        metrics["entropy"] = mean_entropy(mixtures(logits))
        return Pressure(list(gradients), ops.relu(multipliers + self.rate * excess), metrics)

    def _expected(self, choices: Sequence[str], probabilities: Sequence[Any]) -> dict[CostKey, Any]:
        by_kind: dict[str, dict[str, Any]] = {"weight": {}, "activation": {}}
        for name, vector in zip(choices, probabilities, strict=True):
            kind, layer = name.split(":", 1)
            by_kind[kind][layer] = vector
        # Logs have the columns that they always had, and that of a budget.
        keys = [key for key in self.cost.keys if key != "kernel-size" or key in self.limits]
        return {key: self.cost(key, by_kind["weight"], by_kind["activation"]) for key in keys}


def _quadratic(excess: Mapping[CostKey, Any]) -> Any:
    """The squared violation of the tightest limit, and that of a latency."""
    spent = [value for key, value in excess.items() if key != "latency"]
    value = ops.square(ops.max(ops.stack(spent))) if spent else 0.0
    return value + ops.square(ops.relu(excess["latency"])) if "latency" in excess else value


def mean_entropy(probabilities: Sequence[Any]) -> Any:
    """Entropy in nats, the mean over all vectors of probabilities: 0 once every choice is made."""
    if not len(probabilities):
        return ops.zeros(())
    entropies = [-ops.sum(p * ops.log(ops.maximum(p, _TINY))) for p in probabilities]
    return ops.mean(ops.stack(entropies))
