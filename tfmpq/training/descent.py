"""How weights descend: by which rule, and at what rates that rule usually takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import keras

from tfmpq.graph.network import Network
from tfmpq.training.optimizer import QuantizationOptimizer, Rule

_ALPHA = 0.01
"""Share of its peak that the learning rate falls to."""


@dataclass(frozen=True, slots=True)
class Rates:
    """What a rule takes if nothing is given; rates are peaks.

    Attributes:
        float_training: Rate of a float training from random weights.
        adapting: Rate of a float training that begins with the weights of another task.
        float_decay: Weight decay of a float training.
        search: Rate of a search that begins with random weights.
        trained_search: Rate of a search that begins with trained weights.
        finetuning: Rate of a fine-tuning.
        weight_decay: Weight decay of a search and of a fine-tuning.
        step_multiplier: Rate of quantizers' steps, relative to that of the weights.
    """

    float_training: float
    adapting: float
    float_decay: float
    search: float
    trained_search: float
    finetuning: float
    weight_decay: float
    step_multiplier: float


RATES: Mapping[Rule, Rates] = {
    "sgd": Rates(0.1, 0.01, 5e-4, 0.05, 0.01, 0.01, 1e-4, 0.1),
    "adamw": Rates(0.001, 0.0001, 0.05, 0.001, 0.0003, 0.001, 0.01, 1.0),
}
"""By rule."""


def suited_rule(network: Network, asked: str | None = None) -> Rule:
    """The rule that is asked for; else AdamW where there is LayerNormalization, and SGD elsewhere."""
    if asked is not None:
        return cast(Rule, asked)
    return "adamw" if any(node.kind == "layer_normalization" for node in network.nodes) else "sgd"


@dataclass(frozen=True, slots=True)
class Descent:
    """The descent of a training with quantizers; the rate falls by a cosine.

    Attributes:
        rate: Peak learning rate of the weights.
        steps: Steps of the whole training.
        rule: How weights are updated.
        weight_decay: Decay of kernels; None for the rule's.
    """

    rate: float
    steps: int
    rule: Rule = "sgd"
    weight_decay: float | None = None

    def optimizer(self, logit_rate: float | None = None) -> QuantizationOptimizer:
        """The optimizer.

        Args:
            logit_rate: Peak rate of logits of bit-widths; None for that of the weights.
        """
        rates = RATES[self.rule]
        decay = rates.weight_decay if self.weight_decay is None else self.weight_decay
        return QuantizationOptimizer(
            keras.optimizers.schedules.CosineDecay(self.rate, max(1, self.steps), alpha=_ALPHA),
            step_multiplier=rates.step_multiplier,
            logit_multiplier=1.0 if logit_rate is None else logit_rate / self.rate,
            weight_decay=decay or None,
            weights=self.rule,
        )
