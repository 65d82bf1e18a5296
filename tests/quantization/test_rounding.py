"""Rounding that is never worse than the nearest, and its damping, chosen on rows that it has not seen."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfmpq.quantization import rounding
from tfmpq.quantization.rounding import (
    DAMPING,
    DAMPINGS,
    chosen_rounding,
    damped_rounding,
    optimal_rounding,
)
from tfmpq.quantization.second_moments import Moments, excess
from tfmpq.quantizers.learned_step import best_step, weight_levels


def problem(seed: int, groups: int, inputs: int, outputs: int) -> tuple[np.ndarray, ...]:
    """A kernel, correlated second moments and steps."""
    generator = np.random.default_rng(seed)
    mix = generator.normal(size=(groups, inputs, inputs))
    moments = mix @ mix.transpose(0, 2, 1) / inputs + 0.05 * np.eye(inputs)
    kernel = generator.normal(size=(groups, inputs, outputs))
    return kernel, moments, generator.uniform(0.2, 0.9, (groups, 1, outputs))


def loss(integers: np.ndarray, kernel: np.ndarray, moments: np.ndarray, steps: np.ndarray) -> np.ndarray:
    error = integers * steps - kernel
    return np.einsum("gio,gij,gjo->go", error, moments, error)


def nearest(kernel: np.ndarray, steps: np.ndarray, bits: int) -> np.ndarray:
    levels = weight_levels(bits)
    return np.clip(np.round(kernel / steps), levels.low, levels.high)


@given(st.integers(0, 10**6), st.integers(1, 3), st.integers(1, 20), st.integers(1, 4), st.integers(2, 8))
def test_no_output_is_worse_than_with_the_nearest_level(
    seed: int, groups: int, inputs: int, outputs: int, bits: int
) -> None:
    kernel, moments, steps = problem(seed, groups, inputs, outputs)
    levels = weight_levels(bits)
    found = optimal_rounding(kernel, moments, steps, levels)
    assert np.all(found == np.round(found))
    assert found.min() >= levels.low
    assert found.max() <= levels.high
    plain = loss(nearest(kernel, steps, bits), kernel, moments, steps)
    assert np.all(loss(found, kernel, moments, steps) <= plain * (1 + 1e-9))


@given(st.integers(0, 10**6))
def test_inputs_that_have_nothing_in_common_are_rounded_to_the_nearest_level(seed: int) -> None:
    kernel, _, steps = problem(seed, 1, 12, 3)
    moments = np.diag(np.random.default_rng(seed).uniform(0.1, 3, 12))[None]
    found = optimal_rounding(kernel, moments, steps, weight_levels(4))
    np.testing.assert_array_equal(found, nearest(kernel, steps, 4))


@given(st.integers(0, 10**6))
def test_it_is_optimal_brain_quantization_with_a_fixed_order(seed: int) -> None:
    """The textbook form, with the inverse of the moments that are left, one output at a time."""
    inputs, bits = 7, 3
    kernel, moments, steps = problem(seed, 1, inputs, 1)
    levels = weight_levels(bits)
    left = list(np.argsort(-np.diag(moments[0])))
    free, integers = kernel[0, :, 0].copy(), np.zeros(inputs)
    while left:
        inverse = np.linalg.inv(moments[0][np.ix_(left, left)])
        first = left[0]
        integers[first] = np.clip(np.round(free[first] / steps[0, 0, 0]), levels.low, levels.high)
        error = free[first] - integers[first] * steps[0, 0, 0]
        free[left] -= error / inverse[0, 0] * inverse[:, 0]
        left = left[1:]
    plain = nearest(kernel, steps, bits)
    best = min(
        (integers[None, :, None], plain), key=lambda q: float(loss(q, kernel, moments, steps).squeeze())
    )
    found = optimal_rounding(kernel, moments, steps, levels)
    np.testing.assert_allclose(
        loss(found, kernel, moments, steps), loss(best, kernel, moments, steps), rtol=1e-9
    )


def test_on_average_little_is_left_to_the_best_of_all_roundings() -> None:
    excess, gain = [], []
    for seed in range(40):
        kernel, moments, steps = problem(seed, 1, 6, 1)
        every = np.array(list(itertools.product((-1, 0, 1), repeat=6)), float)[:, None, :, None]
        best = min(float(loss(q, kernel, moments, steps).squeeze()) for q in every)
        found = loss(optimal_rounding(kernel, moments, steps, weight_levels(2)), kernel, moments, steps)
        excess.append(float(found.squeeze()) / best)
        gain.append(
            float(loss(nearest(kernel, steps, 2), kernel, moments, steps).squeeze() / found.squeeze())
        )
    assert np.mean(excess) < 1.35
    assert np.mean(gain) > 1.1


# -- damping -------------------------------------------------------------------------------------------------

LEVELS = weight_levels(4)


def rows_of(seed: int, count: int, inputs: int = 24, groups: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the float and of the quantized network, whose inputs go together: (groups, count, inputs)."""
    mix = np.random.default_rng(7).normal(size=(groups, inputs, inputs))
    generator = np.random.default_rng(seed)
    wanted = generator.normal(size=(groups, count, inputs)) @ mix + 0.7
    return wanted, wanted + generator.normal(0, 0.3, wanted.shape)


def weights_of(inputs: int = 24, outputs: int = 5, groups: int = 1) -> np.ndarray:
    return np.random.default_rng(3).normal(size=(groups, inputs, outputs))


def steps(kernel: np.ndarray) -> np.ndarray:
    return best_step(kernel, LEVELS, (1,), True)


def output_error(kernel: np.ndarray, weights: np.ndarray, rows: tuple[np.ndarray, np.ndarray]) -> float:
    """Mean squared difference of the outputs, which a bias may shift, from the rows themselves."""
    difference = rows[1] @ kernel - rows[0] @ weights
    return float(np.square(difference - difference.mean(1, keepdims=True)).mean(1).sum())


@pytest.mark.parametrize("count", [20, 30, 2000])
def test_the_damping_is_the_best_one_on_rows_that_were_held_out(count: int) -> None:
    weights, seen, held = weights_of(), rows_of(1, count), rows_of(2, 40)
    moments = [Moments.of(*rows) for rows in (seen, held)]
    errors = [
        output_error(damped_rounding(weights, moments[0], damping, LEVELS, steps).kernel, weights, held)
        for damping in DAMPINGS
    ]
    found = chosen_rounding(weights, *moments, LEVELS, steps)
    assert found.damping == DAMPINGS[int(np.argmin(errors))]
    # and then all rows are used
    together = damped_rounding(weights, moments[0] + moments[1], found.damping, LEVELS, steps)
    np.testing.assert_array_equal(found.integers, together.integers)
    np.testing.assert_array_equal(found.steps, together.steps)


def test_few_rows_are_damped_more_than_many() -> None:
    weights, held = weights_of(), Moments.of(*rows_of(2, 400))
    few, many = (
        chosen_rounding(weights, Moments.of(*rows_of(1, count)), held, LEVELS, steps).damping
        for count in (16, 4000)
    )
    assert few > many


def test_without_held_out_rows_the_damping_is_the_usual_one() -> None:
    found = chosen_rounding(weights_of(), Moments.of(*rows_of(1, 50)), None, LEVELS, steps)
    assert found.damping == DAMPING


@given(st.integers(0, 10**6), st.integers(1, 3), st.integers(2, 12))
def test_the_factor_is_that_of_the_inverse(seed: int, groups: int, inputs: int) -> None:
    _, moments, _ = problem(seed, groups, inputs, 1)
    found = rounding._inverse_factor(moments)
    np.testing.assert_allclose(
        found.transpose(0, 2, 1) @ found, np.linalg.inv(moments), rtol=1e-8, atol=1e-10
    )
    assert np.all(found == np.triu(found))


def test_strong_damping_rounds_the_weights_to_the_nearest_level() -> None:
    weights = weights_of()
    found = damped_rounding(weights, Moments.of(*rows_of(1, 50)), 1e9, LEVELS, steps)
    np.testing.assert_array_equal(found.integers, np.clip(np.round(weights / found.steps), -7, 7))


# -- moments -------------------------------------------------------------------------------------------------


@given(st.integers(0, 10**6), st.lists(st.integers(1, 9), min_size=1, max_size=6), st.integers(1, 3))
def test_moments_of_parts_add_up_to_those_of_all_rows(seed: int, parts: list[int], groups: int) -> None:
    generator = np.random.default_rng(seed)
    wanted, given_ = (generator.normal(3.0, 1.0, (groups, sum(parts), 4)) for _ in range(2))
    ends = np.cumsum(parts)
    added: Moments | None = None
    for begin, end in zip(ends - parts, ends, strict=True):
        new = Moments.of(wanted[:, begin:end], given_[:, begin:end])
        added = new if added is None else added + new
    at_once = Moments.of(wanted, given_)
    assert added is not None
    assert added.count == at_once.count
    for name in ("wanted_mean", "given_mean", "given", "cross"):
        np.testing.assert_allclose(getattr(added, name), getattr(at_once, name), rtol=1e-9, atol=1e-9)


def test_means_alone_add_up_without_products() -> None:
    wanted, given_ = rows_of(1, 30)
    halves = [Moments.of(wanted[:, part], given_[:, part], False) for part in (slice(11), slice(11, None))]
    added = halves[0] + halves[1]
    assert added.given is None
    np.testing.assert_allclose(added.given_mean, given_.mean(1, keepdims=True))


@given(st.integers(0, 10**6))
def test_the_excess_is_the_error_of_the_outputs_but_for_a_constant(seed: int) -> None:
    rows, weights = rows_of(seed, 40, groups=2), weights_of(groups=2)
    kernels = [weights, weights + np.random.default_rng(seed).normal(0, 0.1, weights.shape)]
    moments = Moments.of(*rows)
    differences = [float(excess(kernel, weights, moments).sum()) for kernel in kernels]
    errors = [output_error(kernel, weights, rows) for kernel in kernels]
    np.testing.assert_allclose(differences[1] - differences[0], errors[1] - errors[0], rtol=1e-6)
