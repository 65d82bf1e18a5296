"""Layer-wise sensitivity and an exact integer program: minutes instead of a training.

How far each width of each layer moves the network's outputs is measured with everything else in float; the
program takes the assignment of the smallest sum within all budgets. That sum is a prediction: errors of
several layers do not simply add up, and no weight has adapted yet.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import ClassVar

import keras
import numpy as np

from tfmpq.files import write_json
from tfmpq.methods.method import Choice, Outcome, Problem, refuse_foreign_knobs
from tfmpq.methods.options import SearchOptions
from tfmpq.policy.allocation import select
from tfmpq.policy.budget import Budget
from tfmpq.quantizers.choices import quantize_wrappers
from tfmpq.quantizers.learned_step import LearnedStepQuantizer

BATCH = 32
LARGE_SIDE, LARGE_IMAGES = 96, 64
"""From this side of an image on, so many images are used instead of all calibration images."""

_RANGE = 500.0
"""The largest increase becomes this many units, so that the program resolves the small ones."""

Increases = dict[str, np.ndarray]


class _Sensitivity:
    trains: ClassVar[bool] = False
    reads_weights: ClassVar[bool] = True

    def check(self, options: SearchOptions) -> None:
        """No knobs: neither a radius nor probabilities."""
        refuse_foreign_knobs(options, ())

    def run(self, problem: Problem) -> Outcome:
        """Measure once; the program is solved for every budget."""
        model = problem.searchable()
        begin = time.monotonic()
        weights, activations = measure(problem, model)
        seconds = time.monotonic() - begin
        table = {"weights": weights, "activations": activations}
        write_json(
            problem.stage.folder / "sensitivity.json",
            {kind: {n: v.tolist() for n, v in found.items()} for kind, found in table.items()},
        )
        return Outcome(
            model,
            lambda budgets: _least(problem, weights, activations, budgets),
            seconds,
            lambda choice: _expected(problem, weights, activations, choice),
        )


def measure(problem: Problem, model: keras.Model) -> tuple[Increases, Increases]:
    """Mean Kullback-Leibler divergence, in nats, from the float network's outputs, by candidate.

    Args:
        problem: Gives images and reporter.
        model: Searchable model with the float weights; left as it was.

    Returns:
        By layer and by tensor, in the order of the candidates, for those that have a choice; never rising
        with the width: what a narrower grid achieved is granted to the wider ones.
    """
    images = problem.task.calibration_images()
    images = images[:LARGE_IMAGES] if min(images.shape[1:3]) >= LARGE_SIDE else images
    found: dict[str, Increases] = {"weight": {}, "activation": {}}
    choices: list[tuple[Increases, str, LearnedStepQuantizer]] = []
    for wrapper in quantize_wrappers(model):
        for kind, quantizer, _ in wrapper.quantizers:
            quantizer.kept = ()  # float
            if len(quantizer.bits) > 1:
                choices.append((found[kind], wrapper.name, quantizer))
    expected = _outputs(model, images)
    problem.reporter.start("sensitivity", sum(len(quantizer.bits) for _, _, quantizer in choices))
    for increases, name, quantizer in choices:
        rises = []
        for position in range(len(quantizer.bits)):
            quantizer.kept = (position,)
            rises.append(problem.task.objective.divergence(expected, _outputs(model, images)))
            problem.reporter.advance(1)
        quantizer.kept = ()
        increases[name] = np.minimum.accumulate(np.maximum(rises, 0.0))
    problem.reporter.finish()
    for wrapper in quantize_wrappers(model):
        for _, quantizer, _ in wrapper.quantizers:
            quantizer.kept = tuple(range(len(quantizer.bits)))
    return found["weight"], found["activation"]


def _outputs(model: keras.Model, images: np.ndarray) -> np.ndarray:
    """float32 (N, classes); called directly, since each call has another network to compute."""
    parts = [
        keras.ops.convert_to_numpy(model(images[start : start + BATCH], training=False))
        for start in range(0, len(images), BATCH)
    ]
    return np.concatenate(parts)


def _least(problem: Problem, weights: Increases, activations: Increases, budgets: Sequence[Budget]) -> Choice:
    """The assignment of the smallest sum of increases; of equal ones that with more bits."""
    largest = max((float(v.max()) for v in (*weights.values(), *activations.values())), default=0.0)
    unit = _RANGE / (largest or 1.0)
    scores = [{name: -unit * v for name, v in found.items()} for found in (weights, activations)]
    found = select(problem.costs, budgets, problem.weights, scores[0], problem.activations, scores[1])
    return Choice(found.weight_bits, found.activation_bits, found.repaired)


def _expected(problem: Problem, weights: Increases, activations: Increases, choice: Choice) -> float:
    """The sum that the program makes small, in nats."""
    parts = (
        (weights, problem.weights, choice.weight_bits),
        (activations, problem.activations, choice.activation_bits),
    )
    return sum(
        float(rises[list(candidates[name]).index(bits[name])])
        for found, candidates, bits in parts
        for name, rises in found.items()
    )


METHODS = {"sensitivity": _Sensitivity()}
"""The method, by name."""
