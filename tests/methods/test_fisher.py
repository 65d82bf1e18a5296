"""Sensitivity from gradients: the form that it is the root of, and what candidates change in it."""

from __future__ import annotations

import itertools
from types import SimpleNamespace
from typing import Any

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from keras import ops

from tfmpq.graph.fusion import analyse
from tfmpq.methods.candidates import candidates_of, outputs_of_each
from tfmpq.methods.fisher import estimate, slopes
from tfmpq.methods.sensitivity import measure
from tfmpq.progress import SilentReporter
from tfmpq.quantization.tails import FusedNetwork
from tfmpq.tasks.objective import CLASSES, one_against_rest, values, yes_or_no
from tfmpq.training.backend import value_and_gradient

from ..quantized_networks import grouped_network

EVERY_SIGN = np.array(list(itertools.product((-1.0, 1.0), repeat=4)), np.float32)


@given(st.lists(st.floats(-4, 4), min_size=4, max_size=4))
def test_projections_have_the_fisher_information_as_covariance(logits: list[float]) -> None:
    """Mean of g g^T over all signs = diag(p) - p p^T, which is the second derivative of the divergence."""
    row = np.array([logits], np.float32)
    gradients = []
    for signs in EVERY_SIGN:
        _, (gradient,) = value_and_gradient(
            lambda x, s=signs: (CLASSES.projection(x[0], ops.convert_to_tensor(s[None])), ()),
            [ops.convert_to_tensor(row)],
        )
        gradients.append(np.asarray(gradient, np.float64)[0])
    shares = np.exp(row[0] - row.max()) / np.exp(row[0] - row.max()).sum()
    wanted = np.diag(shares) - np.outer(shares, shares)
    np.testing.assert_allclose(np.mean([np.outer(g, g) for g in gradients], 0), wanted, atol=1e-5)


KINDS = {
    "classes": CLASSES,
    "binary": yes_or_no("binary", probabilities=False),
    "several labels": yes_or_no("several labels", probabilities=True),
    "one against the rest": one_against_rest(probabilities=False),
    "values": values(2.5),
}


@pytest.mark.parametrize("kind", KINDS)
def test_half_the_mean_square_along_a_small_change_is_the_divergence_of_every_kind(kind: str) -> None:
    objective, generator = KINDS[kind], np.random.default_rng(0)
    outputs = generator.uniform(0.2, 0.8, (6, 4)).astype(np.float32)
    change = generator.normal(0, 0.01, outputs.shape).astype(np.float32)
    squares = []
    for signs in EVERY_SIGN:
        tiled = ops.convert_to_tensor(np.tile(signs, (len(outputs), 1)))
        _, (gradient,) = value_and_gradient(
            lambda x, s=tiled: (objective.projection(x[0], s), ()), [ops.convert_to_tensor(outputs)]
        )
        squares.append(np.square(np.sum(np.asarray(gradient, np.float64) * change, axis=1)))
    assert 0.5 * np.mean(squares) == pytest.approx(objective.divergence(outputs, outputs + change), rel=0.05)


def test_for_small_changes_the_estimate_is_the_measured_divergence(searchable) -> None:
    made = searchable((7, 8), (7, 8))
    network = FusedNetwork(analyse(made.quantized))
    candidates = candidates_of(made.quantized, network)
    # Kernels a tenth of the way to their levels, where the divergence is quadratic.
    for name, kernels in candidates.kernels.items():
        candidates.kernels[name] = [
            network.kernels[name] + 0.1 * (kernel - network.kernels[name]) for kernel in kernels
        ]
    expected, changed = outputs_of_each(network, candidates, made.images)
    measured = {
        (kind, name, position): CLASSES.divergence(expected, found) for kind, name, position, found in changed
    }
    assert {kind for kind, _, _ in measured} == {0, 1}
    squares: dict[Any, float] = {}
    for signs in EVERY_SIGN:
        found = slopes(network, candidates, made.images, np.tile(signs, (len(made.images), 1)))
        for kind, parts in enumerate(found):
            for name, along in parts.items():
                for position, row in enumerate(along):
                    key = (kind, name, position)
                    squares[key] = squares.get(key, 0.0) + 0.5 * np.mean(row**2) / len(EVERY_SIGN)
    for key, divergence in measured.items():
        if key[0] == 0:
            assert squares[key] == pytest.approx(divergence, rel=0.05, abs=1e-9), key


def test_the_estimate_orders_widths_and_leaves_the_model(searchable) -> None:
    made = searchable((2, 4, 8), (4, 8))
    task = SimpleNamespace(calibration_images=lambda: made.images, objective=CLASSES)
    problem: Any = SimpleNamespace(task=task, reporter=SilentReporter(), options=SimpleNamespace(seed=0))
    before = [np.array(v) for v in made.quantized.variables]
    found, measured = estimate(problem, made.quantized), measure(problem, made.quantized)
    for variable, value in zip(made.quantized.variables, before, strict=True):
        np.testing.assert_array_equal(variable, value)
    for one, other in zip(found, measured, strict=True):
        assert one.keys() == other.keys()
        for name, rises in one.items():
            assert rises.shape == other[name].shape
            assert np.all(np.diff(rises) <= 0)
    assert estimate(problem, made.quantized)[0]["pw"].tolist() == found[0]["pw"].tolist()


def test_the_fused_network_computes_what_the_model_computes() -> None:
    """Grouped, depthwise and transposed kernels, whose channels lie along different axes."""
    keras.utils.set_random_seed(0)
    model = grouped_network()
    images = np.random.default_rng(0).uniform(-1, 1, (3, *model.input_shape[1:])).astype("float32")
    network = FusedNetwork(analyse(model))
    image = {network.network.nodes[0].name: ops.convert_to_tensor(images)}
    wanted = np.asarray(model(images, training=False))
    np.testing.assert_allclose(network.outputs(0, image)[0], wanted, rtol=1e-4, atol=1e-5)
    assert list(image) == [network.network.nodes[0].name]
