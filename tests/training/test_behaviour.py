"""What the search is for: flat minima rather than sharp ones, and fewer bits where they cost more."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers, ops
from scipy.stats import binomtest, spearmanr

from tfmpq.policy.expected_cost import ExpectedCost
from tfmpq.policy.network_cost import cost_model
from tfmpq.training import sharpness
from tfmpq.training.backend import compiled, value_and_gradient
from tfmpq.training.budget_term import BudgetTerm
from tfmpq.training.optimizer import QuantizationOptimizer
from tfmpq.training.sharpness import RadiusSchedule
from tfmpq.training.step import QuantizedTraining, SharpnessOptions

STARTS, STEPS, RATE, NOISE, RHO = 32, 800, 0.04, 2.0, 0.5
SHARP, FLAT = np.array([1.0, 0.0], np.float32), np.array([-1.0, 0.0], np.float32)


def wells(x: Any, noise: Any) -> Any:
    """Two wells of equal depth, 0.2 and 0.8 wide, in a shallow bowl; on a tilt that is the batch's own."""
    value = 0.05 * ops.sum(ops.square(x)) + ops.sum(noise * x)
    for centre, width in ((SHARP, 0.2), (FLAT, 0.8)):
        value = value - ops.exp(-ops.sum(ops.square(x - centre)) / (2 * width**2))
    return value


def step(x: Any, noise: Any, rho: Any, flat: bool) -> tuple[Any, Any]:
    """One step of SGD or of ASGA, and the next radius."""

    def loss(tensors: Any) -> tuple[Any, tuple[()]]:
        return wells(tensors[0], noise), ()

    (value, _), first = value_and_gradient(loss, [x])
    if not flat:
        return x - RATE * first[0], rho
    ascent = sharpness.ascent(first, rho, 1e-3)
    (moved, _), second = value_and_gradient(loss, [x + ascent.deltas[0]])
    gap = sharpness.surrogate_gap(value, moved, ascent, second)
    schedule = RadiusSchedule("inverse", rho_max=RHO, phi=RHO * float(np.log(2)))
    return x - RATE * sharpness.combine(first, second)[0], schedule.update({"rho": rho}, gap)["rho"]


@pytest.mark.parametrize("flat", [True, False])
def test_asga_leaves_the_sharp_minimum_for_the_flat_one(flat: bool) -> None:
    """From a majority of starts in the sharp one, and SGD does not: the same starts, the same batches."""
    generator = np.random.default_rng(0)
    x = ops.convert_to_tensor((SHARP + generator.uniform(-0.1, 0.1, (STARTS, 2))).astype(np.float32))
    rho = ops.full((STARTS,), RHO)
    walk = compiled(
        lambda x, noise, rho: ops.vectorized_map(lambda each: step(*each, flat=flat), (x, noise, rho))
    )
    for _ in range(STEPS):
        noise = ops.convert_to_tensor(generator.normal(0, NOISE, (STARTS, 2)).astype(np.float32))
        x, rho = walk(x, noise, rho)
    near_flat = np.linalg.norm(np.asarray(x) - FLAT, axis=1) < 1.2
    near_sharp = np.linalg.norm(np.asarray(x) - SHARP, axis=1) < 0.4
    assert np.mean(near_flat if flat else near_sharp) > 0.5


def small() -> keras.Model:
    image = keras.Input((8, 8, 3), name="image")
    x = layers.Conv2D(6, 3, strides=2, activation="relu", name="conv")(image)
    x = layers.Conv2D(6, 1, activation="relu", name="mix")(x)
    x = layers.GlobalAveragePooling2D(name="gap")(x)
    return keras.Model(image, layers.Dense(4, name="logits")(x))


def dense() -> keras.Model:
    """Learns sixteen images by heart within two hundred steps."""
    image = keras.Input((4, 4, 2), name="image")
    x = layers.Dense(24, activation="relu", name="hidden")(layers.Flatten(name="flat")(image))
    return keras.Model(image, layers.Dense(4, name="logits")(x))


class Search:
    """A small network's search, from the same weights as often as wanted; compiled once."""

    def __init__(self, made: Any, options: SharpnessOptions | None, rate: float) -> None:
        weights = {node.name: (2, 4, 8) for node in made.network.weighted}
        expected = ExpectedCost(
            cost_model(made.network), weights, {name: (8,) for name in made.network.tensors}
        )
        self.trainer = QuantizedTraining(made.quantized.inputs[0], made.quantized.outputs[0])
        self.trainer.configure(options, BudgetTerm(expected, {"bops": 1.0}, rate=0.0, penalty=0.0))
        self.trainer.compile(optimizer=QuantizationOptimizer(rate, weight_decay=None), jit_compile=False)
        self.trainer.optimizer.build(self.trainer.trainable_variables)
        self.trainer.make_train_function()
        self.images, self.labels = made.images, made.labels
        own = [*self.trainer.non_trainable_variables, *self.trainer.optimizer.variables]
        self._own = [(variable, np.array(variable)) for variable in own]
        (self._multiplier,) = (v for v, _ in self._own if v.path.endswith("multipliers"))

    def begin(self, weights: list[np.ndarray], multiplier: float = 0.0) -> None:
        """Go to these weights, with an optimizer that has seen nothing."""
        for variable, value in self._own:
            variable.assign(value)
        self._multiplier.assign([multiplier])  # the weight of the cost: nothing moves it
        for variable, value in zip(self.trainer.trainable_variables, weights, strict=True):
            variable.assign(value)

    def step(self) -> dict[str, float]:
        logs = self.trainer.train_function(iter([(self.images, self.labels)]))
        return {name: float(value) for name, value in logs.items()}

    def weights(self) -> list[np.ndarray]:
        return [np.array(variable) for variable in self.trainer.trainable_variables]


@pytest.mark.slow
def test_asga_finds_flatter_points_than_sgd(searchable: Callable[..., Any]) -> None:
    """The gap at one radius, so 2 h / rho^2 too, where both have come down to the same loss: a sign test."""
    made = searchable((2, 4, 8), (8,), build=dense)
    asga = Search(made, SharpnessOptions(RadiusSchedule("inverse", rho_max=0.5, window=20)), 0.05)
    sgd = Search(made, None, 0.05)
    gauge = Search(made, SharpnessOptions(RadiusSchedule("fixed", rho_max=0.05), alpha=0.0), 0.05)
    start, seeds, flatter = asga.weights(), 8, 0
    for seed in range(seeds):
        generator = np.random.default_rng(seed)
        labels = generator.integers(0, 4, len(made.labels)).astype(np.int32)
        begin = [w + generator.normal(0, 0.1, w.shape).astype(np.float32) * (w.ndim == 2) for w in start]
        courses = []
        for search in (asga, sgd):
            search.labels = labels
            search.begin(begin)
            courses.append([(search.weights(), search.step()["loss"]) for _ in range(200)])
        reached = max(course[-1][1] for course in courses)
        gaps = []
        for course in courses:
            gauge.labels = labels
            gauge.begin(next(weights for weights, loss in course if loss <= reached))
            gaps.append(gauge.step()["gap"])
        flatter += gaps[0] < gaps[1]
    assert binomtest(flatter, seeds, alternative="greater").pvalue < 0.05


def test_a_heavier_cost_leaves_fewer_expected_bit_operations(
    searchable: Callable[..., Any],
) -> None:
    search = Search(searchable((2, 4, 8), (8,), build=small), None, 0.05)
    start, weights, reached = search.weights(), (0.0, 0.1, 0.3, 1.0, 3.0), []
    for weight in weights:
        search.begin(start, weight)
        reached.append([search.step() for _ in range(25)][-1]["expected_bops"])
    assert spearmanr(weights, reached).statistic == pytest.approx(-1.0)
