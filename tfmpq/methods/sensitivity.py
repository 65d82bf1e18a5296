"""Layer-wise sensitivity and an exact integer program: minutes instead of a training.

How far each width of each layer moves the network's outputs is measured with everything else in float; the
program takes the assignment of the smallest sum within all budgets. That sum is a prediction: errors of
several layers do not simply add up, and no weight has adapted yet.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import keras
import numpy as np

from tfmpq.files import write_json
from tfmpq.methods.candidates import candidates_of, float_network, outputs_of_each
from tfmpq.methods.method import Choice, Outcome, Problem, refuse_foreign_knobs
from tfmpq.methods.options import SearchOptions
from tfmpq.policy.allocation import select
from tfmpq.policy.budget import Budget

LARGE_SIDE, LARGE_IMAGES = 96, 64
"""From this side of an image on, so many images are used instead of all calibration images."""

_RANGE = 500.0
"""The largest increase becomes this many units, so that the program resolves the small ones."""

Increases = dict[str, np.ndarray]


@dataclass(frozen=True, slots=True)
class AdditiveMethod:
    """A method that finds by how much each width alone moves the outputs, and takes the smallest sum.

    Attributes:
        increases: Finds that, by layer and by tensor, for a searchable model with the float weights.
    """

    increases: Callable[[Problem, keras.Model], tuple[Increases, Increases]]
    trains: ClassVar[bool] = False
    reads_weights: ClassVar[bool] = True

    def check(self, options: SearchOptions) -> None:
        """No knobs: neither a radius nor probabilities."""
        refuse_foreign_knobs(options, ())

    def run(self, problem: Problem) -> Outcome:
        """Find the increases once; the program is solved for every budget."""
        model = problem.searchable()
        begin = time.monotonic()
        weights, activations = self.increases(problem, model)
        seconds = time.monotonic() - begin
        table = {"weights": weights, "activations": activations}
        write_json(
            problem.stage.folder / "sensitivity.json",
            {kind: {n: v.tolist() for n, v in found.items()} for kind, found in table.items()},
        )
        return Outcome(
            model,
            lambda budgets: least_sum(problem, weights, activations, budgets),
            seconds,
            lambda choice: expected_sum(problem, weights, activations, choice),
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
    images = sensitivity_images(problem)
    network = float_network(model)
    candidates = candidates_of(model, network)
    rises = candidates.zeros()
    at_once = network.images_at_once()
    parts = range(0, len(images), at_once)
    count = sum(rise.size for found in rises for rise in found.values())
    problem.reporter.start("sensitivity", count * len(parts))
    for begin in parts:
        part = images[begin : begin + at_once]
        expected, changed = outputs_of_each(network, candidates, part)
        for kind, name, position, found in changed:
            divergence = problem.task.objective.divergence(expected, found)
            rises[kind][name][position] += divergence * len(part) / len(images)
            problem.reporter.advance(1)
    problem.reporter.finish()
    return never_rising(rises[0]), never_rising(rises[1])


def never_rising(increases: Increases) -> Increases:
    """What a narrower width achieved is granted to the wider ones; nothing is below zero."""
    return {name: np.minimum.accumulate(np.maximum(rise, 0.0)) for name, rise in increases.items()}


def sensitivity_images(problem: Problem) -> np.ndarray:
    """Calibration images, fewer of large ones: float32 (N, height, width, channels)."""
    images = problem.task.calibration_images()
    return images[:LARGE_IMAGES] if min(images.shape[1:3]) >= LARGE_SIDE else images


def least_sum(
    problem: Problem, weights: Increases, activations: Increases, budgets: Sequence[Budget]
) -> Choice:
    """The assignment of the smallest sum of increases; of equal ones that with more bits."""
    largest = max((float(v.max()) for v in (*weights.values(), *activations.values())), default=0.0)
    unit = _RANGE / (largest or 1.0)
    scores = [{name: -unit * v for name, v in found.items()} for found in (weights, activations)]
    found = select(problem.costs, budgets, problem.weights, scores[0], problem.activations, scores[1])
    return Choice(found.weight_bits, found.activation_bits, found.repaired)


def expected_sum(problem: Problem, weights: Increases, activations: Increases, choice: Choice) -> float:
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


METHODS = {"sensitivity": AdditiveMethod(measure)}
"""The method, by name."""
