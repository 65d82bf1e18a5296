"""The surrogate gap of policies, measured on the searched mixture without training anything.

A policy is set by one-hot logits, for which the mixture is that policy's network exactly. The instrument is
the training step itself, at a learning rate of zero.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import keras
import numpy as np

from tfmpq.methods.method import Choice, Problem
from tfmpq.quantizers.choices import bit_choices, quantize_wrappers
from tfmpq.training.sharpness import RadiusSchedule
from tfmpq.training.step import Distillation, QuantizedTraining, SharpnessOptions

BATCHES = 2
"""Batches that a gap is the mean of; all policies see the same ones."""

_CHOSEN = 1e4
"""Logit of the chosen width beside zeros: the probability of the others is exactly zero."""


def surrogate_gaps(
    problem: Problem, model: keras.Model, sharpness: SharpnessOptions, choices: Sequence[Choice]
) -> list[float]:
    """Surrogate gap of each policy, at the largest radius of `sharpness` and with the weights of the mixture.

    BatchNorm normalises by the batch, since the moving statistics are those of the mixture. The model is left
    as it was.
    """
    for wrapper in quantize_wrappers(model):  # a width that the search has dropped may be in a policy
        for _, quantizer, _ in wrapper.quantizers:
            quantizer.kept = tuple(range(len(quantizer.bits)))
    instrument = QuantizedTraining(model.inputs[0], model.outputs[0])
    radius = RadiusSchedule("fixed", sharpness.radius.rho_max)
    options, task = problem.options, problem.task
    instrument.configure(
        replace(sharpness, radius=radius, alpha=0.0, second_gradient_every=1, update="mean"),
        distillation=Distillation(task.model, 1.0) if options.imitate else None,
        objective=task.objective,
    )
    instrument.compile(optimizer=keras.optimizers.SGD(0.0), jit_compile=keras.backend.backend() == "jax")
    images = task.batches(options.batch_size, options.seed, augment=False)
    batches = [images[i] for i in range(min(BATCHES, len(images)))]
    before = [np.array(variable) for variable in instrument.variables]
    found = []
    problem.reporter.start("sharpness of policies", len(choices))
    for choice in choices:
        set_policy(model, choice.weight_bits, choice.activation_bits)
        gaps = [_gap(instrument, *batch) for batch in batches]
        found.append(float(np.mean(gaps)))
        for variable, value in zip(instrument.variables, before, strict=True):
            variable.assign(value)
        problem.reporter.advance(1, {"gap": found[-1]})
    problem.reporter.finish()
    return found


def _gap(instrument: keras.Model, images: np.ndarray, labels: np.ndarray) -> float:
    logs = instrument.fit(images, labels, batch_size=len(images), shuffle=False, verbose=0).history
    return float(logs["gap"][0])


def set_policy(
    model: keras.Model, weight_bits: Mapping[str, int], activation_bits: Mapping[str, int]
) -> None:
    """Make every choice of a searchable model, by one-hot logits."""
    bits = {"weight": weight_bits, "activation": activation_bits}
    for choice in bit_choices(model):
        chosen = np.asarray(choice.quantizer.bits) == bits[choice.kind][choice.name]
        choice.logits.assign(np.where(chosen, _CHOSEN, 0.0).astype(np.float32))
