"""Quantizers against plain NumPy rounding and against automatic differentiation."""

from __future__ import annotations

import math

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops
from scipy.optimize import minimize_scalar

from tfmpq.errors import UsageError
from tfmpq.quantizers.learned_step import (
    LearnedStepQuantizer,
    Levels,
    activation_levels,
    best_step,
    fake_quantize,
    twice_differentiable,
    weight_levels,
)

BITS = (2, 3, 4, 8)
quick = settings(max_examples=30, deadline=None)
kinds = st.sampled_from(["weight", "signed", "unsigned"])


def levels_of(kind: str, bits: int) -> Levels:
    return weight_levels(bits) if kind == "weight" else activation_levels(bits, kind == "signed")


def reference(x: np.ndarray, step: np.ndarray | float, grid: Levels) -> np.ndarray:
    return np.clip(np.rint(x / step), grid.low, grid.high) * step


def single(x: np.ndarray, step: float, grid: Levels, dtype: str = "float64") -> np.ndarray:
    x = ops.convert_to_tensor(np.asarray(x, dtype))
    return np.asarray(fake_quantize(x, [np.asarray(step, dtype)], None, [grid], [1.0]))


def straight_through(x, steps, probabilities, grids, scales):
    """The textbook form: stop_gradient around the rounding, every candidate kept for the backward pass."""
    total = 0.0
    for i, (step, grid, scale) in enumerate(zip(steps, grids, scales, strict=True)):
        scaled = step * scale + tf.stop_gradient(step - step * scale)
        v = tf.clip_by_value(x / scaled, float(grid.low), float(grid.high))
        total += probabilities[i] * scaled * (v + tf.stop_gradient(tf.round(v) - v))
    return total


@quick
@given(seed=st.integers(0, 10**6), kind=kinds, count=st.integers(1, 3))
def test_the_twice_differentiable_form_has_the_same_values_and_gradients(
    seed: int, kind: str, count: int
) -> None:
    generator = np.random.default_rng(seed)
    grids = [levels_of(kind, bits) for bits in BITS[:count]]
    x = tf.constant(generator.normal(0, 3, (5, 4)))
    steps = [tf.constant(generator.uniform(0.1, 1, (1, 4))) for _ in grids]
    probabilities = tf.constant(generator.dirichlet(np.ones(count)))
    inputs = [x, probabilities, *steps] if count > 1 else [x, *steps]

    def value_and_gradients() -> tuple[tf.Tensor, list[tf.Tensor]]:
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            value = fake_quantize(x, steps, probabilities if count > 1 else None, grids, [0.3] * count)
            total = tf.reduce_sum(value * tf.range(5, dtype=value.dtype)[:, None])
        return value, tape.gradient(total, inputs)

    value, gradients = value_and_gradients()
    with twice_differentiable():
        composed, theirs = value_and_gradients()
    np.testing.assert_allclose(composed, value, rtol=1e-15)
    for ours, other in zip(gradients, theirs, strict=True):
        np.testing.assert_allclose(other, ours, rtol=1e-12, atol=1e-12)


def test_levels_of_the_bit_widths() -> None:
    assert weight_levels(2) == Levels(-1, 1)  # 2 bits are -1, 0, 1
    assert weight_levels(8) == Levels(-127, 127)
    assert activation_levels(8, signed=True) == Levels(-128, 127)
    assert activation_levels(3, signed=False) == Levels(0, 7)


@quick
@given(seed=st.integers(0, 10**6), bits=st.integers(2, 8), kind=kinds, step=st.floats(1e-3, 10))
def test_one_quantizer_is_rounding_and_idempotent_monotone_and_within_half_a_step(
    seed: int, bits: int, kind: str, step: float
) -> None:
    grid = levels_of(kind, bits)
    x = np.sort(np.random.default_rng(seed).normal(0, step * grid.high, 300))
    q = single(x, step, grid)
    np.testing.assert_array_equal(q, reference(x, step, grid))
    np.testing.assert_array_equal(single(q, step, grid), q)  # idempotent
    assert len(np.unique(q)) <= grid.high - grid.low + 1 <= 2**bits
    inside = (x >= grid.low * step) & (x <= grid.high * step)
    assert np.all(np.abs(q - x)[inside] <= step / 2 * (1 + 1e-12))
    assert np.all(np.diff(q) >= 0)  # monotone
    if kind == "weight":
        np.testing.assert_array_equal(single(-x, step, grid), -q)


@quick
@given(seed=st.integers(0, 10**6), bits=st.integers(2, 8), kind=kinds)
def test_one_quantizer_is_idempotent_in_float32_too(seed: int, bits: int, kind: str) -> None:
    generator = np.random.default_rng(seed)
    grid, step = levels_of(kind, bits), float(np.float32(generator.uniform(1e-4, 3)))
    x = generator.normal(0, step * grid.high, 300)
    once = single(x, step, grid, "float32")
    np.testing.assert_array_equal(single(once, step, grid, "float32"), once)


def test_ties_go_to_even() -> None:
    np.testing.assert_array_equal(
        single(np.array([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5]), 1.0, weight_levels(4)), [-2, -2, 0, 0, 2, 2]
    )


@pytest.mark.parametrize("kind", ["weight", "signed", "unsigned"])
def test_lsq_gradients_in_all_three_regions(kind: str) -> None:
    grid, step = levels_of(kind, 3), 0.5
    below, inside, above = (grid.low - 1.3) * step, 1.2 * step, (grid.high + 1.7) * step
    x = tf.constant([below, inside, above], tf.float64)
    factor = 1 / math.sqrt(3 * grid.high)
    s = tf.constant(step, tf.float64)
    upstream = tf.constant([1.0, 10.0, 100.0], tf.float64)
    with tf.GradientTape() as tape:
        tape.watch([x, s])
        total = tf.reduce_sum(upstream * fake_quantize(x, [s], None, [grid], [factor]))
    to_x, to_s = tape.gradient(total, [x, s])
    np.testing.assert_array_equal(to_x, [0, 10, 0])
    expected = (grid.low * 1.0 + (1 - 1.2) * 10.0 + grid.high * 100.0) * factor
    np.testing.assert_allclose(to_s, expected, rtol=1e-14)


@pytest.mark.parametrize(("shape", "axes"), [((3, 3, 4, 5), (3,)), ((3, 3, 4, 1), (2, 3)), ((6, 5), (1,))])
def test_step_gradients_are_scaled_by_elements_and_levels(
    shape: tuple[int, ...], axes: tuple[int, ...]
) -> None:
    """1 / sqrt(N Q_P) with N the elements that share a step, through the trained logarithm of the step."""
    generator = np.random.default_rng(1)
    w = generator.normal(size=shape)
    step_shape = tuple(size if axis in axes else 1 for axis, size in enumerate(shape))
    steps = generator.uniform(0.1, 0.3, step_shape)
    quantizer = LearnedStepQuantizer((3,), channel_axes=axes, narrow=True)
    log_step = tf.constant(np.log(steps)[None], tf.float64)
    upstream = generator.normal(size=shape)
    with tf.GradientTape() as tape:
        tape.watch(log_step)
        total = tf.reduce_sum(upstream * quantizer(tf.constant(w), False, {"log_step": log_step}))
    v = w / steps
    slope = np.where(np.abs(v) < 3, np.rint(v) - v, 3 * np.sign(v)) * upstream
    others = tuple(axis for axis in range(len(shape)) if axis not in axes)
    shared = math.prod(shape[axis] for axis in others)
    expected = slope.sum(axis=others, keepdims=True) / math.sqrt(shared * 3) * steps
    np.testing.assert_allclose(tape.gradient(total, log_step)[0], expected, rtol=1e-11)


def test_activation_steps_count_the_features_of_one_image() -> None:
    x = np.random.default_rng(2).uniform(0, 2, (5, 4, 4, 3))
    log_step = tf.constant([math.log(0.05)], tf.float64)
    with tf.GradientTape() as tape:
        tape.watch(log_step)
        quantizer = LearnedStepQuantizer((4,), signed=False)
        total = tf.reduce_sum(quantizer(tf.constant(x), False, {"log_step": log_step}))
    v = x / 0.05
    expected = np.where(v < 15, np.rint(v) - v, 15).sum() / math.sqrt(48 * 15) * 0.05
    np.testing.assert_allclose(tape.gradient(total, log_step), [expected], rtol=1e-10)


def test_a_one_hot_mixture_is_the_uniform_quantizer_bitwise() -> None:
    generator = np.random.default_rng(3)
    x = tf.constant(generator.normal(size=(20, 7)), tf.float32)
    grids = [weight_levels(b) for b in BITS]
    steps = [tf.constant(generator.uniform(0.01, 0.5, (1, 7)), tf.float32) for _ in BITS]
    for i in range(len(BITS)):
        one_hot = tf.one_hot(i, len(BITS))
        mixed = fake_quantize(x, steps, one_hot, grids, [1.0] * len(BITS))
        alone = fake_quantize(x, [steps[i]], None, [grids[i]], [1.0])
        np.testing.assert_array_equal(mixed, alone)


def test_the_order_of_the_candidates_changes_nothing() -> None:
    generator = np.random.default_rng(4)
    x = tf.constant(generator.normal(size=(30,)))
    grids = [activation_levels(b, True) for b in BITS]
    steps = [tf.constant(s) for s in generator.uniform(0.01, 0.5, len(BITS))]
    logits = tf.constant(generator.normal(size=len(BITS)))
    order = [2, 0, 3, 1]
    plain = fake_quantize(x, steps, tf.nn.softmax(logits), grids, [1.0] * 4)
    permuted = fake_quantize(
        x,
        [steps[i] for i in order],
        tf.nn.softmax(tf.gather(logits, order)),
        [grids[i] for i in order],
        [1.0] * 4,
    )
    np.testing.assert_allclose(permuted, plain, rtol=1e-14, atol=1e-15)


OPERATORS = {
    "conv": lambda x, w: ops.conv(x, w, padding="same"),
    "conv stride 2 valid": lambda x, w: ops.conv(x, w, strides=2, padding="valid"),
    "conv dilated": lambda x, w: ops.conv(x, w, padding="valid", dilation_rate=2),
    "depthwise": lambda x, w: ops.depthwise_conv(x, w[..., :1], strides=2, padding="same"),
    "dense": lambda x, w: ops.matmul(ops.reshape(x, (2, -1)), ops.reshape(w, (-1, 3))[:27]),
}


@pytest.mark.parametrize("name", OPERATORS)
def test_mixture_then_one_convolution_is_the_sum_of_all_convolutions(name: str) -> None:
    operator, generator = OPERATORS[name], np.random.default_rng(5)
    side = 3 if name == "dense" else 7
    x = tf.constant(generator.normal(size=(2, side, side, 3)))
    w = tf.constant(generator.normal(size=(3, 3, 3, 4)))
    weight_grids, input_grids = [weight_levels(b) for b in BITS], [activation_levels(b, True) for b in BITS]
    weight_steps = [tf.constant(generator.uniform(0.05, 0.5, (1, 1, 1, 4))) for _ in BITS]
    input_steps = [tf.constant(s) for s in generator.uniform(0.05, 0.5, len(BITS))]
    p, q = (tf.nn.softmax(tf.constant(generator.normal(size=len(BITS)))) for _ in range(2))
    ones = [1.0] * len(BITS)

    def composite(p, q, w, x):
        kernel = fake_quantize(w, weight_steps, p, weight_grids, ones)
        return operator(fake_quantize(x, input_steps, q, input_grids, ones), kernel)

    def branches(p, q, w, x):
        return sum(
            p[i]
            * q[j]
            * operator(
                straight_through(x, [input_steps[j]], [1.0], [input_grids[j]], [1.0]),
                straight_through(w, [weight_steps[i]], [1.0], [weight_grids[i]], [1.0]),
            )
            for i in range(len(BITS))
            for j in range(len(BITS))
        )

    results = []
    for function in (composite, branches):
        with tf.GradientTape() as tape:
            tape.watch([p, q, w, x])
            y = function(p, q, w, x)
            total = tf.reduce_sum(tf.sin(y))
        results.append([y, *tape.gradient(total, [p, q, w, x])])
    for one, many in zip(*results, strict=True):
        np.testing.assert_allclose(one, many, rtol=1e-10, atol=1e-10)


def test_logit_gradients_have_the_closed_form() -> None:
    generator = np.random.default_rng(6)
    w = tf.constant(generator.normal(size=(3, 3, 2, 5)))
    g = generator.normal(size=w.shape)
    steps = generator.uniform(0.05, 0.5, (len(BITS), 1, 1, 1, 5))
    logits = tf.constant(generator.normal(size=len(BITS)))
    quantizer = LearnedStepQuantizer(BITS, channel_axes=(3,), narrow=True)
    weights = {"log_step": tf.constant(np.log(steps)), "bit_logits": logits}
    with tf.GradientTape() as tape:
        tape.watch(logits)
        mixed = quantizer(w, False, weights)
        total = tf.reduce_sum(g * mixed)
    gradient = tape.gradient(total, logits).numpy()
    p = np.exp(logits) / np.exp(logits).sum()
    candidates = [reference(w.numpy(), s, weight_levels(b)) for s, b in zip(steps, BITS, strict=True)]
    mixture = sum(pi * c for pi, c in zip(p, candidates, strict=True))
    np.testing.assert_allclose(mixed, mixture, rtol=1e-12, atol=1e-14)
    expected = [pi * np.sum(g * (c - mixture)) for pi, c in zip(p, candidates, strict=True)]
    np.testing.assert_allclose(gradient, expected, rtol=1e-10)
    assert abs(gradient.sum()) < 1e-12 * np.abs(gradient).max() * 100
    shifted = quantizer(w, False, {**weights, "bit_logits": logits + 7.0})
    np.testing.assert_allclose(shifted, mixed, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("kind", ["weight", "signed", "unsigned"])
def test_the_written_gradient_is_that_of_the_straight_through_estimator(kind: str) -> None:
    generator = np.random.default_rng(7)
    x = tf.constant(generator.normal(0, 1.5, (6, 5, 4)))
    grids = [levels_of(kind, b) for b in BITS]
    scales = [1 / math.sqrt(30 * grid.high) for grid in grids]
    steps = [tf.constant(generator.uniform(0.01, 0.8, (1, 1, 4))) for _ in BITS]
    p = tf.nn.softmax(tf.constant(generator.normal(size=len(BITS))))
    upstream = generator.normal(size=x.shape)
    results = []
    for function in (fake_quantize, straight_through):
        with tf.GradientTape() as tape:
            tape.watch([x, p, *steps])
            arguments = (x, steps, p, grids, scales)
            y = function(*arguments)
            total = tf.reduce_sum(y * upstream)
        results.append([y, *tape.gradient(total, [x, p, *steps])])
    for written, automatic in zip(*results, strict=True):
        np.testing.assert_allclose(written, automatic, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("bits", BITS)
def test_the_initial_step_is_near_the_least_squares_optimum(bits: int) -> None:
    w = np.random.default_rng(8).normal(0, 0.1, (3, 3, 64, 4))
    grid = weight_levels(bits)
    quantizer = LearnedStepQuantizer((bits,), channel_axes=(3,), narrow=True)
    steps = np.exp(quantizer.initial_log_step(w))
    assert steps.shape == (1, 1, 1, 1, 4)
    for channel in range(4):
        values = w[..., channel]

        def error(step: float, values: np.ndarray = values) -> float:
            return float(np.mean((reference(values, step, grid) - values) ** 2))

        scan = np.abs(values).max() / grid.high * np.linspace(0.05, 1.2, 2000)
        best = min(map(error, scan))
        best = min(best, minimize_scalar(error, bounds=(scan[0], scan[-1]), method="bounded").fun)
        assert error(float(steps[0, 0, 0, 0, channel])) <= 1.25 * best


def test_steps_of_constant_zero_are_positive_and_small() -> None:
    w = np.zeros((3, 3, 2, 2))
    w[..., 1] = 0.5
    steps = best_step(w, weight_levels(4), (0, 1, 2), keepdims=True)
    assert np.all(steps > 0)
    assert steps[..., 0] < 0.01 * steps[..., 1]
    assert best_step(np.zeros(9), activation_levels(8, True), None, keepdims=False) > 0


@pytest.mark.parametrize("bits", [(), (4, 2), (2, 2), (1, 2), (8, 9)])
def test_bits_out_of_range_or_order_are_refused(bits: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match="distinct, ascending and between 2 and 8"):
        LearnedStepQuantizer(bits)


def test_config_round_trip() -> None:
    quantizer = LearnedStepQuantizer((2, 8), False, (3,), True, False)
    assert vars(LearnedStepQuantizer.from_config(quantizer.get_config())) == vars(quantizer)
