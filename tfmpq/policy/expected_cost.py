"""Differentiable costs: what random choices of bit-widths are expected to cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tfmpq.policy.cost import CostKey, CostModel
from tfmpq.policy.latency_cost import NANOSECONDS


class ExpectedCost:
    """Differentiable costs of independent random choices, as fractions of the uniform 8-bit network.

    Expected BOPs are the sum of macs * E[weight bits] * E[activation bits], which is exact for independent
    choices; so is every other cost, being linear in the probabilities.

    Attributes:
        keys: The costs that are known.
    """

    def __init__(
        self,
        model: CostModel,
        weight_candidates: Mapping[str, Sequence[int]],
        activation_candidates: Mapping[str, Sequence[int]],
    ) -> None:
        """Prepares the tables.

        Args:
            model: Counts of the network.
            weight_candidates: Weight bits to choose from, by layer name.
            activation_candidates: Activation bits to choose from, by name of the tensor that is read.
        """
        self._model = model
        self.keys = model.keys
        totals = {key: model.reference(key) for key in self.keys}
        totals["weight-bits"] *= sum(layer.weights for layer in model.layers)
        self._fixed: dict[CostKey, float] = {"size": model.fixed_bytes / totals["size"]}
        self._tensor_times: dict[str, np.ndarray] = {}
        if model.latency is not None:
            totals["latency"] *= NANOSECONDS
            self._fixed["latency"] = model.latency.base / totals["latency"]
            rows = model.tensor_times(activation_candidates)
            self._tensor_times = {name: row / totals["latency"] for name, row in rows.items()}
        self._tables = {
            key: {name: row / totals[key] for name, row in model.cost_table(key, weight_candidates).items()}
            for key in self.keys
        }
        self._activations = {name: np.array(activation_candidates[name]) for name in model.tensors}

    def __call__(
        self, key: CostKey, weight_probs: Mapping[str, Any], activation_probs: Mapping[str, Any]
    ) -> Any:
        """The expected cost.

        Args:
            key: Which cost.
            weight_probs: Tensor of shape (number of candidates,) by layer name; a layer that has only one
                candidate can be left out.
            activation_probs: The same by tensor name.

        Returns:
            float32 scalar tensor; 1.0 is the cost of the uniform 8-bit network.
        """
        tables = self._tables[key]
        terms = {layer.name: _expectation(tables, weight_probs, layer.name) for layer in self._model.layers}
        if key == "bops":
            bits = {
                name: _expectation(self._activations, activation_probs, name) for name in self._activations
            }
            terms = {layer.name: terms[layer.name] * bits[layer.reads] for layer in self._model.layers}
        expected = sum(terms.values()) + self._fixed.get(key, 0.0)
        if key == "latency":
            for name in self._tensor_times:
                expected += _expectation(self._tensor_times, activation_probs, name)
        return expected


def _expectation(tables: Mapping[str, np.ndarray], probs: Mapping[str, Any], name: str) -> Any:
    from keras import ops

    table = ops.convert_to_tensor(tables[name], dtype="float32")
    if name not in probs and len(tables[name]) == 1:
        return table[0]
    return ops.sum(table * ops.cast(probs[name], "float32"))
