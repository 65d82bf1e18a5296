"""The differentiable search: logits of the bit-widths are trained together with the weights.

ASGA and its relatives differ in the step only (`SharpnessOptions`); budgets, rates, resumption and the
selection at the end are the same for all.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import keras
import numpy as np

from tfmpq.methods.method import Choice, Outcome, Problem, refuse_foreign_knobs
from tfmpq.methods.options import SearchOptions
from tfmpq.methods.pruning import train_and_prune
from tfmpq.methods.selection import Learned, decide, likeliest
from tfmpq.policy.budget import Budget
from tfmpq.policy.cost import CostModel
from tfmpq.policy.expected_cost import ExpectedCost
from tfmpq.policy.search_space import Candidates
from tfmpq.quantizers.choices import bit_choices
from tfmpq.quantizers.relaxation import Relaxation, scores
from tfmpq.tasks.objective import CLASSES, Objective
from tfmpq.training.budget_term import BudgetTerm
from tfmpq.training.compiling import compile_step
from tfmpq.training.descent import RATES, Descent, suited_rule
from tfmpq.training.loop import train
from tfmpq.training.precision import computing_in
from tfmpq.training.presets import ADAPTIVE_RHO, PRESETS
from tfmpq.training.sharpness import RadiusSchedule
from tfmpq.training.step import Distillation, QuantizedTraining, SharpnessOptions

_LOGIT_TRAVEL = 12.0
"""How far Adam can move a logit in a whole search; the schedule halves it, and e^6 is decided."""

_DUAL_TRAVEL = 5.0
"""How far a budget's multiplier can move in a whole search at a relative violation of 1."""

_COMMON = ("select", "precision")
_SHARPNESS = ("perturb", "rho_max", "norm", "adaptive", "second_gradient_every")


@dataclass(frozen=True, slots=True)
class GradientMethod:
    """A method of this family.

    Attributes:
        sharpness: What its step does beyond plain gradients; None for nothing.
        knobs: What of `sharpness` can be set by options, beside what all sharpness-aware methods have.
        relaxation: How logits weight the candidates. Of a softmax, improbable ones can be dropped.
    """

    trains: ClassVar[bool] = True
    reads_weights: ClassVar[bool] = True

    sharpness: SharpnessOptions | None
    knobs: tuple[str, ...] = ()
    relaxation: Relaxation = "softmax"

    def check(self, options: SearchOptions) -> None:
        """Refuse knobs that the method does not have, and values out of range."""
        own = (*_SHARPNESS, *self.knobs) if self.sharpness else ()
        refuse_foreign_knobs(options, (*own, *self._common))
        self.configured(options)

    @property
    def _common(self) -> tuple[str, ...]:
        return (*_COMMON, "prune_below") if self.relaxation == "softmax" else _COMMON

    def configured(self, options: SearchOptions) -> SharpnessOptions | None:
        """The method's step with the knobs of a call."""
        if self.sharpness is None:
            return None
        knobs = {k: v for k, v in options.knobs.items() if k not in self._common}
        if options.adaptive:
            knobs.setdefault("rho_max", ADAPTIVE_RHO)
        in_radius = {"radius": "kind", "rho_max": "rho_max", "phi": "phi"}
        radius = {field: knobs.pop(name) for name, field in in_radius.items() if name in knobs}
        return replace(self.sharpness, radius=replace(self.sharpness.radius, **radius), **knobs)

    def run(self, problem: Problem) -> Outcome:
        """Train weights and logits, then select."""
        options, task = problem.options, problem.task
        batches = task.batches(options.batch_size, options.seed, options.steps_per_epoch)
        steps = options.epochs * len(batches)
        sharpness = self.configured(options)
        if sharpness is not None:
            # Phi comes from the first gaps; a short search cannot wait for a hundred of them.
            window = min(sharpness.radius.window, max(1, steps // 4 // sharpness.second_gradient_every))
            sharpness = replace(sharpness, radius=replace(sharpness.radius, window=window))
        started = options.float_epochs or task.begins_trained
        rule = suited_rule(task.network, options.optimizer)
        rate = options.learning_rate or (RATES[rule].trained_search if started else RATES[rule].search)
        quantized = problem.searchable(self.relaxation)
        trainer = search_trainer(
            quantized, problem.costs, problem.budgets, problem.space, sharpness,
            Descent(rate, steps, rule), Distillation(task.model, 1.0) if options.imitate else None,
            task.objective,
        )  # fmt: skip
        decided_by = sharpness or SharpnessOptions(RadiusSchedule("fixed"))

        def learned(model: keras.Model) -> Learned:
            return Learned(
                quantized, bit_scores(model, "weight"), bit_scores(model, "activation"), decided_by
            )

        common: dict[str, Any] = {
            "stage": problem.stage,
            "reporter": problem.reporter,
            "label": "search",
            "choices": lambda model: _columns(likeliest(problem, learned(model), problem.budgets)),
        }
        begin = time.monotonic()
        with computing_in(options.precision, trainer):
            if options.prune_below is None:
                train(trainer, batches, epochs=options.epochs, **common)
            else:
                train_and_prune(trainer, batches, options.epochs, options.prune_below, **common)
        seconds = time.monotonic() - begin
        end = learned(trainer)
        return Outcome(quantized, lambda budgets: decide(problem, end, budgets), seconds)


def search_trainer(
    quantized: keras.Model,
    costs: CostModel,
    limits: Sequence[Budget],
    space: tuple[Candidates, Candidates],
    sharpness: SharpnessOptions | None,
    descent: Descent,
    distillation: Distillation | None = None,
    objective: Objective = CLASSES,
) -> QuantizedTraining:
    """The compiled training model of a search."""
    trainer = QuantizedTraining(quantized.inputs[0], quantized.outputs[0])
    expected = ExpectedCost(costs, *space)
    relative = {budget.key: budget.limit / costs.reference(budget.key) for budget in limits}
    steps = max(1, descent.steps)
    trainer.configure(
        sharpness, BudgetTerm(expected, relative, rate=_DUAL_TRAVEL / steps), distillation, objective
    )
    logit_rate = min(0.1, _LOGIT_TRAVEL / steps)
    compile_step(trainer, descent.optimizer(logit_rate))
    return trainer


def _columns(choice: Choice) -> dict[str, float]:
    """A choice as a line of a table."""
    weights: dict[str, float] = {f"weight:{name}": bits for name, bits in choice.weight_bits.items()}
    return weights | {f"activation:{name}": bits for name, bits in choice.activation_bits.items()}


def bit_scores(model: keras.Model, kind: str) -> dict[str, np.ndarray]:
    """What choices of a kind, `weight` or `activation`, are made by, by name of the layer or tensor."""
    return {
        c.name: scores(np.asarray(c.logits), c.quantizer.bits, c.quantizer.relaxation)
        for c in bit_choices(model)
        if c.kind == kind
    }


METHODS = {
    "asga": GradientMethod(PRESETS["asga"], ("radius", "phi", "alpha")),
    "sagm": GradientMethod(PRESETS["sagm"], ("alpha",)),
    "sam": GradientMethod(PRESETS["sam"]),
    "gsam": GradientMethod(PRESETS["gsam"], ("alpha",)),
    # The plain differentiable search of EdMIPS and GMPQ: one gradient, nothing about sharpness.
    "sgd": GradientMethod(None),
    # FracBits (arXiv 2007.02017, AAAI 2021): one real-valued width a choice, plain gradients.
    "fracbits": GradientMethod(None, relaxation="fractional"),
}
"""The methods of this family, by name."""
