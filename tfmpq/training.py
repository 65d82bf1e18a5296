"""The training model: ASGA's perturb-align-update step, and the plain step, on a quantized network.

One step of a sharpness-aware search (arXiv 2505.04877; the equations are in docs/architecture.md):

1. gradient g at the current point, with respect to latent weights and to the *quantized* kernels;
2. perturb by (rho / ||g|| - alpha) g: after quantization by default, of latent weights as an option;
3. gradient g2 at the perturbed point on the same batch, same dropout mask; the BatchNorm statistics that this
   second pass would leave behind are dropped;
4. update with (g + g2) / 2, plus the gradient of the cost term on the bit-width logits;
5. surrogate gap h = L_p - L moves the radius; each budget's multiplier moves by dual ascent.

Everything is functional (`stateless_call`), so nothing has to be restored and both backends share this file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import keras
import numpy as np
from keras import ops

from tfmpq import sharpness
from tfmpq.cost import CostKey, ExpectedCost
from tfmpq.quantize import quantize_wrappers
from tfmpq.wrapper import perturbed_kernels

if keras.backend.backend() == "tensorflow":
    from tfmpq.backend_tensorflow import TrainStep, value_and_gradient
else:
    from tfmpq.backend_jax import TrainStep, value_and_gradient  # type: ignore[assignment]


@dataclass(frozen=True, slots=True)
class SharpnessOptions:
    """How the training step looks for flat minima.

    Attributes:
        radius: Schedule of the perturbation radius rho.
        alpha: Alignment constant of SAGM and ASGA.
        perturb: `quantized` perturbs quantized kernels (SAQ's case 3), `latent` the latent ones.
    """

    radius: sharpness.RadiusSchedule
    alpha: float = 1e-3
    perturb: Literal["quantized", "latent"] = "quantized"


@dataclass(frozen=True, slots=True)
class BudgetTerm:
    """The part of the loss that drives expected costs to their limits.

    With v_k = expected cost / limit - 1 of each budget, the loss gains `sum_k multiplier_k * v_k` and
    `penalty / 2 * max_k(v_k)^2`, and the multipliers follow dual ascent, `max(0, multiplier + rate * v)`: no
    weight has to be tuned by hand. The quadratic term damps the oscillation of the multipliers, and it acts
    on both sides of the tightest limit, because bits that a budget leaves unused are accuracy given away.

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


@dataclass(frozen=True, slots=True)
class Distillation:
    """Cross-entropy to the float model's predictions, mixed with that to the labels.

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
    ) -> None:
        """Choose what a training step does; call before `compile`.

        Args:
            options: Sharpness-aware training; None for the plain gradient step.
            budget: Cost term; None trains weights and steps only.
            distillation: Teacher; None for labels only.
        """
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

    # -- what is in a list of trainable tensors --------------------------------------------------------------

    def _positions(self, suffixes: tuple[str, ...]) -> list[int]:
        return [i for i, v in enumerate(self.trainable_variables) if v.path.endswith(suffixes)]

    def _latent_positions(self) -> list[int]:
        """Trainable tensors in the ball: BatchNorm's affine, biases, and latent kernels on request.

        Logits and steps stay out: moving the policy between the two passes would mix policy change with
        sharpness.
        """
        latent = self.options is not None and self.options.perturb == "latent"
        quantized = {id(w.layer.kernel) for w in self._wrappers}
        positions = self._positions(("gamma", "beta", "bias", "kernel"))
        return [i for i in positions if latent or id(self.trainable_variables[i]) not in quantized]

    def _choice_positions(self) -> dict[str, int]:
        """Position of each bit-width logit vector, by `weight:LAYER` or `activation:TENSOR`."""
        index = {id(v): i for i, v in enumerate(self.trainable_variables)}
        found = {}
        for wrapper in quantize_wrappers(self):
            if "bit_logits" in wrapper.weight_variables:
                found[f"weight:{wrapper.name}"] = index[id(wrapper.weight_variables["bit_logits"])]
            if "bit_logits" in wrapper.output_variables:
                found[f"activation:{wrapper.name}"] = index[id(wrapper.output_variables["bit_logits"])]
        return found

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
            (loss, (new_state, logits)), gradients = value_and_gradient(
                lambda tensors: self._loss(tensors, [], state, images, labels, targets), trainable
            )
            metrics = {"loss": loss}
        else:
            gradients, new_state, logits, metrics, new_values = self._aligned_gradients(
                trainable, state, images, labels, targets
            )
        if self.budget is not None:
            gradients, cost_metrics, multipliers = self._add_cost_gradient(trainable, state, gradients)
            metrics |= cost_metrics
            new_values["multipliers"] = multipliers
        hits = ops.equal(ops.argmax(logits, axis=-1), ops.cast(labels, "int32"))
        metrics["accuracy"] = ops.mean(ops.cast(hits, "float32"))
        return gradients, self._with_values(new_state, new_values), metrics

    def _aligned_gradients(
        self, trainable: list[Any], state: list[Any], images: Any, labels: Any, targets: Any
    ) -> tuple[list[Any], list[Any], Any, dict[str, Any], dict[str, Any]]:
        options = self.options
        assert options is not None  # noqa: S101 narrowed for the type checker; the caller has looked
        schedule = {name: self._value(state, name) for name in options.radius.initial_state()}
        positions = self._latent_positions()
        kernels = self._wrappers if options.perturb == "quantized" else []
        zeros = [ops.zeros(w.layer.kernel.shape) for w in kernels]
        count = len(trainable)

        def loss_at(tensors: Sequence[Any]) -> Any:
            return self._loss(tensors[:count], tensors[count:], state, images, labels, targets)

        def ball(gradients: Sequence[Any]) -> list[Any]:
            """The gradients of the perturbed tensors."""
            return [*gradients[count:], *(gradients[i] for i in positions)]

        (loss, (new_state, logits)), first = value_and_gradient(loss_at, [*trainable, *zeros])
        rho = options.radius.radius(schedule)
        ascent = sharpness.ascent(ball(first), rho, options.alpha)
        moved = list(trainable)
        for position, delta in zip(positions, ascent.deltas[len(kernels) :], strict=True):
            moved[position] = moved[position] + delta
        (perturbed_loss, _), second = value_and_gradient(loss_at, [*moved, *ascent.deltas[: len(kernels)]])
        gap = sharpness.surrogate_gap(loss, perturbed_loss, ball(first), ball(second), ascent.alpha)
        metrics = {
            "loss": loss,
            "perturbed_loss": perturbed_loss,
            "gap": gap,
            "sharpness": sharpness.top_eigenvalue(gap, rho),
            "rho": rho,
            "gradient_norm": ascent.norm,
            "gradient_cosine": sharpness.cosine(ball(first), ball(second)),
            "gap_conflict": ops.cast(sharpness.conflict(ball(first), ball(second)), "float32"),
            "alpha_guarded": ops.cast(ascent.guarded, "float32"),
        }
        combined = sharpness.combine(first[:count], second[:count])
        return combined, new_state, logits, metrics, options.radius.update(schedule, gap)

    def _targets(self, images: Any, labels: Any) -> Any:
        """Teacher's probabilities, or None."""
        if not self._distillation:
            return None
        return ops.softmax(ops.stop_gradient(self._distillation[0].teacher(images, training=False)))

    def _loss(
        self,
        trainable: Sequence[Any],
        perturbations: Sequence[Any],
        state: Sequence[Any],
        images: Any,
        labels: Any,
        targets: Any,
    ) -> tuple[Any, tuple[list[Any], Any]]:
        """Task loss at a point, with the state that the pass leaves behind and the class logits."""
        names = [wrapper.name for wrapper in self._wrappers]
        kernels = dict(zip(names, perturbations, strict=True)) if len(perturbations) else {}
        with perturbed_kernels(kernels):
            logits, new_state = self.stateless_call(
                list(trainable), list(state), images, training=self.update_statistics
            )
        logits = ops.cast(logits, "float32")
        loss = ops.mean(keras.losses.sparse_categorical_crossentropy(labels, logits, from_logits=True))
        if targets is not None:
            share = self._distillation[0].weight
            soft = ops.mean(keras.losses.categorical_crossentropy(targets, logits, from_logits=True))
            loss = (1.0 - share) * loss + share * soft
        return loss, (new_state, logits)

    def _add_cost_gradient(
        self, trainable: list[Any], state: list[Any], gradients: Sequence[Any]
    ) -> tuple[list[Any], dict[str, Any], Any]:
        budget = self.budget
        assert budget is not None  # noqa: S101 narrowed for the type checker; the caller has looked
        choices = self._choice_positions()
        multipliers = self._value(state, "multipliers")
        penalty = budget.penalty

        def cost(logits: Sequence[Any]) -> tuple[Any, Any]:
            probabilities: dict[str, dict[str, Any]] = {"weight": {}, "activation": {}}
            for name, vector in zip(choices, logits, strict=True):
                kind, layer = name.split(":", 1)
                probabilities[kind][layer] = ops.softmax(vector)
            expected = [
                budget.cost(key, probabilities["weight"], probabilities["activation"])
                for key in (*budget.limits, "weight-bits")
            ]
            limits = list(budget.limits.values())
            excess = ops.stack([value / limit - 1.0 for value, limit in zip(expected, limits, strict=False)])
            term = ops.sum(multipliers * excess) + 0.5 * penalty * ops.square(ops.max(excess))
            return term, (expected, excess)

        (_, (expected, excess)), to_logits = value_and_gradient(
            cost, [trainable[i] for i in choices.values()]
        )
        gradients = list(gradients)
        for position, addend in zip(choices.values(), to_logits, strict=True):
            gradients[position] = gradients[position] + addend
        metrics = {f"expected_{key}": value for key, value in zip(budget.limits, expected, strict=False)}
        metrics["expected_bits"] = 8.0 * expected[-1]
        return gradients, metrics, ops.relu(multipliers + budget.rate * excess)

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
