"""The optimizer against Keras' own SGD and Adam, one variable each."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from tfmpq.training.optimizer import QuantizationOptimizer

GRADIENTS = np.random.default_rng(0).normal(size=(6, 3)).astype("float32")
START = np.array([0.5, -1.0, 2.0], "float32")


def variable(name: str) -> keras.Variable:
    return keras.Variable(START, name=name)


def steps(optimizer: keras.optimizers.Optimizer, *variables: keras.Variable) -> list[np.ndarray]:
    for gradient in GRADIENTS:
        optimizer.apply([gradient] * len(variables), list(variables))
    return [v.numpy() for v in variables]


def test_weights_follow_nesterov_sgd_and_the_quantizers_adam() -> None:
    ours = QuantizationOptimizer(0.05, step_multiplier=0.1, logit_multiplier=3.0, weight_decay=None)
    kernel, log_step, logits = steps(
        ours, variable("kernel"), variable("weight_log_step"), variable("output_bit_logits")
    )
    (sgd,) = steps(keras.optimizers.SGD(0.05, momentum=0.9, nesterov=True), variable("kernel"))
    (slow,) = steps(keras.optimizers.Adam(0.005, epsilon=1e-12), variable("s"))
    (fast,) = steps(keras.optimizers.Adam(0.15, epsilon=1e-12), variable("l"))
    np.testing.assert_allclose(kernel, sgd, rtol=1e-6)
    np.testing.assert_allclose(log_step, slow, rtol=2e-5)
    np.testing.assert_allclose(logits, fast, rtol=2e-5)


@pytest.mark.parametrize("name", ["gamma", "beta", "bias", "value", "weight_log_step", "output_bit_logits"])
def test_only_kernels_decay(name: str) -> None:
    kernel, other = variable("kernel"), variable(name)
    optimizer = QuantizationOptimizer(0.1, weight_decay=0.5)
    optimizer.apply([np.zeros(3, "float32")] * 2, [kernel, other])
    np.testing.assert_allclose(kernel.numpy(), START * (1 - 0.1 * 0.5), rtol=1e-6)
    np.testing.assert_array_equal(other.numpy(), START)


def test_one_schedule_drives_all_rates() -> None:
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay([2], [0.1, 0.0])
    optimizer = QuantizationOptimizer(schedule, weight_decay=None)
    variables = [variable("kernel"), variable("log_step"), variable("bit_logits")]
    seen = []
    for gradient in GRADIENTS[:5]:
        optimizer.apply([gradient] * 3, variables)
        seen.append([v.numpy() for v in variables])
    assert not np.array_equal(seen[1], seen[2])
    np.testing.assert_array_equal(seen[3][1:], seen[4][1:])


def test_rate_zero_changes_nothing() -> None:
    variables = [variable(name) for name in ("kernel", "gamma", "log_step", "bit_logits")]
    for value in steps(QuantizationOptimizer(0.0), *variables):
        np.testing.assert_array_equal(value, START)


def test_config_round_trip() -> None:
    optimizer = QuantizationOptimizer(0.3, 0.2, 4.0, momentum=0.8, weight_decay=1e-3)
    copy = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    assert isinstance(copy, QuantizationOptimizer)
    assert copy.get_config() == optimizer.get_config()


def test_adamw_of_weights_is_that_of_keras_with_decay_of_kernels_alone() -> None:
    ours = QuantizationOptimizer(0.01, step_multiplier=0.5, weight_decay=0.1, weights="adamw")
    kernel, gamma, beta, log_step = steps(
        ours, variable("kernel"), variable("gamma"), variable("beta"), variable("weight_log_step")
    )
    (decayed,) = steps(keras.optimizers.AdamW(0.01, weight_decay=0.1, epsilon=1e-8), variable("kernel"))
    (plain,) = steps(keras.optimizers.Adam(0.01, epsilon=1e-8), variable("gamma"))
    (slow,) = steps(keras.optimizers.Adam(0.005, epsilon=1e-12), variable("s"))
    np.testing.assert_allclose(kernel, decayed, rtol=1e-6)
    np.testing.assert_allclose(gamma, plain, rtol=1e-6)
    np.testing.assert_allclose(beta, plain, rtol=1e-6)
    np.testing.assert_allclose(log_step, slow, rtol=2e-5)


def test_sgd_has_no_second_moments_of_weights() -> None:
    counts = {}
    for weights in ("sgd", "adamw"):
        optimizer = QuantizationOptimizer(weights=weights)
        optimizer.build([variable("kernel"), variable("gamma"), variable("weight_log_step")])
        counts[weights] = sum("second_moment" in v.path for v in optimizer.variables)
    assert counts == {"sgd": 1, "adamw": 3}
