"""The training model: ASGA's perturb-align-update step, its rivals', and the plain step.

One step of a sharpness-aware search (arXiv 2505.04877; the equations are in docs/architecture.md):

1. gradient g at the current point, with respect to latent weights and to the *quantized* kernels;
2. perturb by (rho / ||g|| - alpha) g: after quantization by default, of latent weights as an option;
3. gradient g2 at the perturbed point on the same batch, same dropout mask; the BatchNorm statistics that this
   second pass would leave behind are dropped;
4. update with (g + g2) / 2 (or by the rule of another method), plus the budget's gradient on the logits;
5. surrogate gap h = L_p - L moves the radius; each budget's multiplier moves by dual ascent.

Everything is functional (`stateless_call`), so nothing has to be restored and both backends share this file.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import keras
import numpy as np
from keras import ops

from tfmpq.errors import UsageError
from tfmpq.quantizers.choices import bit_choices, quantize_wrappers
from tfmpq.quantizers.learned_step import LearnedStepQuantizer
from tfmpq.quantizers.wrapper import perturbed_kernels
from tfmpq.tasks.objective import CLASSES, Objective
from tfmpq.training import sharpness
from tfmpq.training.backend import TrainStep, batch_value_and_gradient, mean_over_replicas, traced_once
from tfmpq.training.budget_term import BudgetTerm
from tfmpq.training.perturbation import Ball, Perturb
from tfmpq.training.units import in_units
from tfmpq.training.variables import WEIGHTS, positions

Update = Literal["mean", "second", "gap-guided"]
Norm = Literal["global", "layer"]

_SECOND_METRICS = (
    "perturbed_loss",
    "gap",
    "sharpness",
    "rho",
    "rho_at_cap",
    "gradient_norm",
    "gradient_cosine",
    "gap_conflict",
    "alpha_guarded",
)


@dataclass(frozen=True, slots=True)
class SharpnessOptions:
    """How the training step looks for flat minima.

    Attributes:
        radius: Schedule of the perturbation radius rho.
        alpha: Alignment constant of SAGM and ASGA; of the update `gap-guided`, GSAM's.
        perturb: Which kernels are perturbed (`tfmpq.training.perturbation`): after quantization (SAQ's case
            3), before it (case 2), or after it along the latent gradient (case 1).
        norm: Whether one norm spans all tensors, or each layer moves by an equal share of rho along its own.
        adaptive: Perturb in proportion to the magnitude of the weights (ASAM); rho has no unit then.
        second_gradient_every: Take the second gradient every so many steps only, and reuse its part that is
            orthogonal to the first one in between (LookSAM).
        update: What descends: the mean of both gradients (SAGM, ASGA), the second one (SAM), or the second
            one less the part of the first that is orthogonal to it (GSAM).
    """

    radius: sharpness.RadiusSchedule
    alpha: float = 1e-3
    perturb: Perturb = "quantized"
    norm: Norm = "global"
    adaptive: bool = False
    second_gradient_every: int = 1
    update: Update = "mean"

    def __post_init__(self) -> None:
        if not 0 <= self.alpha < math.inf:
            raise UsageError(f"Alpha is not negative. Received: alpha={self.alpha}. Take 0.001.")
        if self.second_gradient_every < 1:
            raise UsageError(
                "The second gradient is taken every step or every few. "
                f"Received: second_gradient_every={self.second_gradient_every}. Take 1."
            )

    @property
    def alignment(self) -> float:
        """Alpha of the ascent; GSAM aligns in its update instead."""
        return self.alpha if self.update == "mean" else 0.0


class _Second(NamedTuple):
    """What the second pass brings: gradients of the trainables, metrics, and state to keep."""

    gradients: list[Any]
    metrics: dict[str, Any]
    state: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Distillation:
    """The distance from the float model's outputs, mixed with the loss to the labels.

    Attributes:
        teacher: Float model, same input and classes.
        weight: Share of the teacher's term.
    """

    teacher: keras.Model
    weight: float = 0.5


class QuantizedTraining(TrainStep, keras.Model):
    """Trains a quantized functional model; construct it with `QuantizedTraining(inputs, outputs)`."""

    def configure(
        self,
        options: SharpnessOptions | None = None,
        budget: BudgetTerm | None = None,
        distillation: Distillation | None = None,
        objective: Objective = CLASSES,
    ) -> None:
        """Choose what a training step does; call before `compile`.

        Args:
            options: Sharpness-aware training; None for the plain gradient step.
            budget: Cost term; None trains weights and steps only.
            distillation: Teacher; None for labels only.
            objective: What the network is trained for.
        """
        self.objective = objective
        self.options = options
        self.budget = budget
        self._distillation = (
            [distillation] if distillation else []
        )  # a list hides the teacher from Keras' tracking
        self.update_statistics = True
        self._wrappers = [w for w in quantize_wrappers(self) if w.weight_quantizer is not None]
        self._state: dict[str, Any] = {}
        if options is not None:
            for name, value in options.radius.initial_state().items():
                self._add_state(name, value)
            if options.second_gradient_every > 1:
                self._add_memory_of_second_gradients()
        if budget is not None:
            self._add_state("multipliers", np.zeros(len(budget.limits), np.float32))

    def _add_state(self, name: str, value: Any) -> None:
        value = np.asarray(value, np.float32)
        self._state[name] = self.add_weight(
            name=name,
            shape=value.shape,
            initializer=(lambda shape, dtype=None, _value=value: ops.convert_to_tensor(_value, dtype)),
            trainable=False,
        )

    def _add_memory_of_second_gradients(self) -> None:
        self._add_state("steps_since_second", 0.0)
        self._add_state("second_metrics", np.zeros(len(_SECOND_METRICS)))
        for i, variable in enumerate(self.trainable_variables):
            self._add_state(f"rejection_{i}", np.zeros(variable.shape))

    # -- what is in a list of trainable tensors --------------------------------------------------------------

    @property
    def ball(self) -> Ball:
        """What the sharpness-aware step perturbs."""
        return Ball(self.trainable_variables, self._wrappers, self._sharpness.perturb)

    @property
    def _sharpness(self) -> SharpnessOptions:
        assert self.options is not None  # noqa: S101 narrowed for the type checker; the callers have looked
        return self.options

    def _choices(self) -> dict[str, tuple[int, LearnedStepQuantizer]]:
        """Position of each vector of logits, and its quantizer, by `weight:LAYER` or `activation:TENSOR`."""
        index = {id(v): i for i, v in enumerate(self.trainable_variables)}
        return {f"{c.kind}:{c.name}": (index[id(c.logits)], c.quantizer) for c in bit_choices(self)}

    # -- the step --------------------------------------------------------------------------------------------

    def compute_update(
        self, trainable: list[Any], state: list[Any], images: Any, labels: Any
    ) -> tuple[list[Any], list[Any], dict[str, Any]]:
        """Gradients, new non-trainable state and metrics of one step; pure in its arguments.

        Args:
            trainable: Tensors, in the order of `trainable_variables`.
            state: Tensors, in the order of `non_trainable_variables`.
            images: (N, height, width, channels) float32.
            labels: (N,) integers.

        Returns:
            Gradients in the order of `trainable`, state in the order of `state`, scalar metrics by name.
        """
        targets = self._targets(images, labels)
        new_values: dict[str, Any] = {}
        if self.options is None:
            (loss, (new_state, outputs)), gradients = batch_value_and_gradient(
                lambda tensors: self._loss(tensors, [], state, images, labels, targets), trainable
            )
            norm = sharpness.global_norm([gradients[i] for i in positions(self.trainable_variables, WEIGHTS)])
            metrics = {"loss": loss, "gradient_norm": norm}
        else:
            gradients, new_state, outputs, metrics, new_values = self._aligned_gradients(
                trainable, state, images, labels, targets
            )
        if self.budget is not None:
            gradients, cost_metrics, multipliers = self._add_cost_gradient(
                self.budget, trainable, state, gradients
            )
            metrics |= cost_metrics
            new_values["multipliers"] = multipliers
        gradients = in_units(self, self.objective.unit, gradients)
        score = self.objective.score(labels, outputs)
        (metrics[self.objective.score_name],) = mean_over_replicas([score])
        return gradients, self._with_values(new_state, new_values), metrics

    def _aligned_gradients(
        self, trainable: list[Any], state: list[Any], images: Any, labels: Any, targets: Any
    ) -> tuple[list[Any], list[Any], Any, dict[str, Any], dict[str, Any]]:
        options = self._sharpness
        zeros = [ops.zeros(w.layer.kernel.shape) for w in self.ball.wrappers]
        count = len(trainable)

        def loss_at(tensors: Sequence[Any]) -> Any:
            return self._loss(tensors[:count], tensors[count:], state, images, labels, targets)

        gradient_at = traced_once(lambda tensors: batch_value_and_gradient(loss_at, tensors))
        (loss, (new_state, outputs)), first = gradient_at([*trainable, *zeros])

        def take() -> _Second:
            return self._second_pass(options, gradient_at, loss, trainable, first, state)

        if options.second_gradient_every == 1:
            second = take()
        else:
            second = self._taken_or_reused(options.second_gradient_every, take, first[:count], state)
        combined = self._combined(options, first[:count], second.gradients)
        return combined, new_state, outputs, {"loss": loss, **second.metrics}, second.state

    def _second_pass(
        self,
        options: SharpnessOptions,
        gradient_at: Callable[[Sequence[Any]], Any],
        loss: Any,
        trainable: list[Any],
        first: Sequence[Any],
        state: list[Any],
    ) -> _Second:
        """Perturb, take the second gradient, measure the gap and adapt the radius."""
        schedule = {name: self._value(state, name) for name in options.radius.initial_state()}
        perturbed, count = self.ball, len(trainable)
        positions, ball = perturbed.latent, perturbed.parts
        rho = options.radius.radius(schedule)
        scales = perturbed.magnitudes(trainable) if options.adaptive else None
        groups = perturbed.layers if options.norm == "layer" else None
        ascent = sharpness.ascent(ball(first), rho, options.alignment, scales, groups)
        kernels = len(first) - count
        moved = list(trainable)
        for position, delta in zip(positions, ascent.deltas[kernels:], strict=True):
            moved[position] = moved[position] + delta
        (perturbed_loss, _), second = gradient_at([*moved, *ascent.deltas[:kernels]])
        gap = sharpness.surrogate_gap(loss, perturbed_loss, ascent, ball(second))
        values = (
            perturbed_loss,
            gap,
            sharpness.top_eigenvalue(gap, rho),
            rho,
            rho >= options.radius.rho_max * (1 - 1e-6),
            ascent.norm,
            sharpness.cosine(ball(first), ball(second)),
            sharpness.conflict(ball(first), ball(second)),
            ascent.guarded,
        )
        metrics = {
            name: ops.cast(value, "float32") for name, value in zip(_SECOND_METRICS, values, strict=True)
        }
        return _Second(second[:count], metrics, options.radius.update(schedule, gap))

    def _taken_or_reused(
        self, every: int, take: Callable[[], _Second], first: Sequence[Any], state: list[Any]
    ) -> _Second:
        """The second gradient every so many steps; in between a stand-in and the last metrics."""
        options = self._sharpness
        memory = [f"rejection_{i}" for i in range(len(first))]
        kept = [*options.radius.initial_state(), "second_metrics", *memory]
        since = self._value(state, "steps_since_second")

        def taken() -> tuple[list[Any], list[Any]]:
            second = take()
            values = second.state | {"second_metrics": ops.stack(list(second.metrics.values()))}
            values |= dict(zip(memory, sharpness.relative_rejection(first, second.gradients), strict=True))
            return list(second.gradients), [values[name] for name in kept]

        def reused() -> tuple[list[Any], list[Any]]:
            rejection = [self._value(state, name) for name in memory]
            return sharpness.reused_second(first, rejection), [self._value(state, name) for name in kept]

        gradients, values = ops.cond(ops.equal(since, 0.0), taken, reused)
        new = dict(zip(kept, values, strict=True))
        metrics = {name: new["second_metrics"][i] for i, name in enumerate(_SECOND_METRICS)}
        metrics["second_gradient"] = ops.cast(ops.equal(since, 0.0), "float32")
        new["steps_since_second"] = ops.mod(since + 1.0, float(every))
        return _Second(gradients, metrics, new)

    def _combined(self, options: SharpnessOptions, first: Sequence[Any], second: Sequence[Any]) -> list[Any]:
        """The gradient to descend, by the method's rule."""
        if options.update == "mean":
            return sharpness.combine(first, second)
        gradients = list(second)
        if options.update == "gap-guided":
            positions = self.ball.weights
            pairs = [first[i] for i in positions], [second[i] for i in positions]
            guided = sharpness.combine_gap_guided(*pairs, options.alpha)
            for position, gradient in zip(positions, guided, strict=True):
                gradients[position] = gradient
        return gradients

    def _targets(self, images: Any, labels: Any) -> Any:
        """What the teacher says, or None."""
        if not self._distillation:
            return None
        said = ops.stop_gradient(self._distillation[0].teacher(images, training=False))
        return self.objective.soft_targets(said)

    def _loss(
        self,
        trainable: Sequence[Any],
        perturbations: Sequence[Any],
        state: Sequence[Any],
        images: Any,
        labels: Any,
        targets: Any,
    ) -> tuple[Any, tuple[list[Any], Any]]:
        """Task loss at a point, with the state that the pass leaves behind and the outputs."""
        names = [wrapper.name for wrapper in self._wrappers]
        kernels = dict(zip(names, perturbations, strict=True)) if len(perturbations) else {}
        with perturbed_kernels(kernels):
            outputs, new_state = self.stateless_call(
                list(trainable), list(state), images, training=self.update_statistics
            )
        outputs = ops.cast(outputs, "float32")
        loss = self.objective.loss(labels, outputs)
        if targets is not None:
            share = self._distillation[0].weight
            loss = (1.0 - share) * loss + share * self.objective.imitation(targets, outputs)
        return loss, (new_state, outputs)

    def _add_cost_gradient(
        self, budget: BudgetTerm, trainable: list[Any], state: list[Any], gradients: Sequence[Any]
    ) -> tuple[list[Any], dict[str, Any], Any]:
        choices = self._choices()
        places = [position for position, _ in choices.values()]
        mixed = {name: quantizer.probabilities for name, (_, quantizer) in choices.items()}
        logits = [trainable[i] for i in places]
        pressure = budget.pressure(mixed, logits, self._value(state, "multipliers"))
        gradients = list(gradients)
        for position, addend in zip(places, pressure.gradients, strict=True):
            gradients[position] = gradients[position] + addend
        return gradients, pressure.metrics, pressure.multipliers

    # -- named entries of the non-trainable state ------------------------------------------------------------

    def _state_position(self, name: str) -> int:
        return next(i for i, v in enumerate(self.non_trainable_variables) if v is self._state[name])

    def _value(self, state: Sequence[Any], name: str) -> Any:
        return state[self._state_position(name)]

    def _with_values(self, state: Sequence[Any], values: Mapping[str, Any]) -> list[Any]:
        new = list(state)
        for name, value in values.items():
            new[self._state_position(name)] = value
        return new
