"""Relaxations of a choice against the uniform quantizers that they lie between."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops
from scipy.special import softmax

from tfmpq.quantizers.learned_step import LearnedStepQuantizer, fake_quantize, weight_levels
from tfmpq.quantizers.relaxation import next_to, probabilities, scores

quick = settings(max_examples=40, deadline=None)
ALL = (2, 3, 4, 5, 6, 7, 8)
candidates = st.lists(st.sampled_from(ALL), min_size=2, max_size=7, unique=True).map(sorted)


def quantized(x: np.ndarray, bits: int) -> np.ndarray:
    """Uniform quantization with the step of that width, written anew."""
    limit = 2 ** (bits - 1) - 1
    step = 1.0 / limit
    return np.clip(np.rint(x / step), -limit, limit) * step


def mixed(x: tf.Tensor, shares: tf.Tensor, bits: list[int]) -> tf.Tensor:
    grids = [weight_levels(b) for b in bits]
    steps = [tf.constant(1.0 / grid.high, tf.float64) for grid in grids]
    return fake_quantize(x, steps, shares, grids, [1.0] * len(bits))


@quick
@given(bits=candidates, place=st.integers(0, 6))
def test_at_a_candidate_it_is_the_uniform_quantizer(bits: list[int], place: int) -> None:
    width = bits[place % len(bits)]
    x = np.random.default_rng(width).normal(0, 0.5, 50)
    found = mixed(tf.constant(x), next_to(tf.constant(float(width), tf.float64), bits), bits)
    np.testing.assert_array_equal(found, quantized(x, width))


@quick
@given(bits=candidates, seed=st.integers(0, 10**6))
def test_it_is_continuous_and_piecewise_linear_in_the_width(bits: list[int], seed: int) -> None:
    generator = np.random.default_rng(seed)
    width = generator.uniform(bits[0], bits[-1])
    x = generator.normal(0, 0.5, 20)
    found = mixed(tf.constant(x), next_to(tf.constant(width, tf.float64), bits), bits)
    expected = [np.interp(width, bits, [quantized(v, b) for b in bits]) for v in x]
    np.testing.assert_allclose(found, expected, atol=1e-12)


@quick
@given(seed=st.integers(0, 10**6), at_candidate=st.booleans(), bits=candidates)
def test_the_slope_is_the_difference_of_the_quantizers_next_to_it(
    seed: int, at_candidate: bool, bits: list[int]
) -> None:
    generator = np.random.default_rng(seed)
    place = int(generator.integers(len(bits) - 1))
    below, above = bits[place], bits[place + 1]
    width = below if at_candidate else generator.uniform(below + 1e-3, above - 1e-3)
    x, upstream = generator.normal(0, 0.5, (2, 30))
    at = tf.constant(float(width), tf.float64)
    with tf.GradientTape() as tape:
        tape.watch(at)
        total = tf.reduce_sum(upstream * mixed(tf.constant(x), next_to(at, bits), bits))
    slope = np.sum(upstream * (quantized(x, above) - quantized(x, below))) / (above - below)
    np.testing.assert_allclose(tape.gradient(total, at), slope, atol=1e-10)


@quick
@given(bits=candidates, seed=st.integers(0, 10**6))
def test_the_width_of_a_choice_is_the_mean_of_its_candidates(bits: list[int], seed: int) -> None:
    logits = np.random.default_rng(seed).normal(0, 2, len(bits))
    shares = ops.convert_to_numpy(probabilities(tf.constant(logits), bits, "fractional"))
    assert shares.sum() == pytest.approx(1, abs=1e-12)
    assert shares @ bits == pytest.approx(softmax(logits) @ bits, abs=1e-12)
    assert np.count_nonzero(np.abs(shares) > 1e-12) <= 2
    nearest = scores(logits, bits, "fractional")
    width = shares @ bits
    assert bits[int(np.argmax(nearest))] == min(bits, key=lambda b: abs(b - width))
    np.testing.assert_array_equal(scores(logits, bits, "softmax"), logits)


@pytest.mark.parametrize("relaxation", ["softmax", "fractional"])
def test_one_hot_logits_choose_exactly(relaxation: str) -> None:
    quantizer = LearnedStepQuantizer((2, 4, 8), narrow=True, relaxation=relaxation)
    for place in range(3):
        logits = np.where(np.arange(3) == place, 1e4, 0).astype(np.float32)
        found = ops.convert_to_numpy(quantizer.probabilities(ops.convert_to_tensor(logits)))
        np.testing.assert_array_equal(found, np.arange(3) == place)
    assert LearnedStepQuantizer.from_config(quantizer.get_config()).relaxation == relaxation


def test_a_width_that_starts_on_a_candidate_can_leave_it() -> None:
    logits = tf.zeros(3)
    with tf.GradientTape() as tape:
        tape.watch(logits)
        shares = probabilities(logits, (2, 4, 6), "fractional")  # the mean is 4
        total = shares[2]
    assert np.all(np.abs(tape.gradient(total, logits).numpy()[[0, 2]]) > 0)
