"""The wrapper computes what its inner layer would on quantized tensors, and is saved exactly."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops

from tfmpq.quantizers.config import MixedPrecisionQuantizeConfig
from tfmpq.quantizers.wrapper import QuantizeWrapper, inner, perturbed_kernels


def wrapped(layer: keras.layers.Layer, shape: tuple[int, ...], **config) -> QuantizeWrapper:
    keras.utils.set_random_seed(1)
    wrapper = QuantizeWrapper(layer, MixedPrecisionQuantizeConfig(**config))
    wrapper.build((None, *shape))
    for variables, quantizer in (
        (wrapper.weight_variables, wrapper.weight_quantizer),
        (wrapper.output_variables, wrapper.output_quantizer),
    ):
        if quantizer is not None:
            steps = np.random.default_rng(2).uniform(-4, -2, variables["log_step"].shape)
            variables["log_step"].assign(steps)
            if "bit_logits" in variables:
                variables["bit_logits"].assign(np.linspace(-1, 1, len(quantizer.bits)))
    return wrapper


def on_grid(x: np.ndarray, step: np.ndarray, low: int, high: int) -> np.ndarray:
    return np.clip(np.rint(x / step), low, high) * step


def x_of(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype("float32")


@pytest.mark.parametrize(
    ("layer", "shape", "operator"),
    [
        (
            layers.Conv2D(4, 3, strides=2, padding="same", bias_initializer="normal", name="conv"),
            (6, 6, 3),
            lambda x, k: tf.nn.conv2d(x, k, 2, "SAME"),
        ),
        (
            layers.DepthwiseConv2D(3, bias_initializer="normal", name="dw"),
            (6, 6, 3),
            lambda x, k: tf.nn.depthwise_conv2d(x, k, (1, 1, 1, 1), "VALID"),
        ),
        (layers.Dense(5, bias_initializer="normal", name="dense"), (7,), tf.matmul),
    ],
)
def test_the_kernel_is_the_mixture_of_its_candidates(layer, shape, operator) -> None:
    wrapper = wrapped(layer, shape, weight_bits=(2, 4))
    steps = np.exp(wrapper.weight_variables["log_step"].numpy())
    p = np.exp([-1.0, 1.0]) / np.exp([-1.0, 1.0]).sum()
    kernel = layer.kernel.numpy()
    mixture = p[0] * on_grid(kernel, steps[0], -1, 1) + p[1] * on_grid(kernel, steps[1], -7, 7)
    np.testing.assert_allclose(wrapper.quantized_kernel(), mixture, atol=1e-6)
    x = x_of(2, *shape)
    expected = operator(x, mixture.astype("float32")) + layer.bias.numpy()
    np.testing.assert_allclose(wrapper(x), expected, atol=1e-5)
    np.testing.assert_array_equal(layer.kernel.numpy(), kernel)
    assert wrapper.name == layer.name
    assert inner(wrapper) is layer
    assert inner(layer) is layer


def test_outputs_are_quantized_after_the_activation() -> None:
    wrapper = wrapped(layers.ReLU(name="relu"), (5,), output_bits=(3,), output_signed=False)
    step = np.exp(wrapper.output_variables["log_step"].numpy())[0]
    x = x_of(4, 5)
    np.testing.assert_allclose(wrapper(x), on_grid(np.maximum(x, 0), step, 0, 7), rtol=1e-6)


def test_batch_norm_inside_the_wrapper_keeps_its_statistics() -> None:
    plain = layers.BatchNormalization(name="bn")
    wrapper = wrapped(layers.BatchNormalization(name="bn"), (5,), output_bits=(8,))
    x = x_of(16, 5)
    plain(x, training=True)
    wrapper(x, training=True)
    np.testing.assert_array_equal(wrapper.layer.moving_mean, plain.moving_mean)
    np.testing.assert_array_equal(wrapper.layer.moving_variance, plain.moving_variance)


def test_gradients_reach_kernel_bias_steps_and_logits() -> None:
    wrapper = wrapped(layers.Conv2D(4, 3, name="c"), (6, 6, 3), weight_bits=(2, 8), output_bits=(4, 8))
    with tf.GradientTape() as tape:
        total = ops.sum(ops.square(wrapper(x_of(2, 6, 6, 3))))
    assert len(wrapper.trainable_variables) == 6
    gradients = tape.gradient(total, [v.value for v in wrapper.trainable_variables])
    assert all(g is not None and np.any(g != 0) for g in gradients)


def test_perturbations_act_after_quantization_and_end_with_their_context() -> None:
    wrapper = wrapped(layers.Dense(5, name="dense"), (7,), weight_bits=(2, 4))
    x, delta = x_of(2, 7), x_of(7, 5)
    plain = wrapper(x).numpy()
    with perturbed_kernels({"dense": delta}):
        np.testing.assert_allclose(wrapper(x) - plain, x @ delta, atol=1e-5)
        with perturbed_kernels({"another": delta}):
            np.testing.assert_array_equal(wrapper(x), plain)
        np.testing.assert_allclose(wrapper(x) - plain, x @ delta, atol=1e-5)
    np.testing.assert_array_equal(wrapper(x), plain)

    with pytest.raises(RuntimeError), perturbed_kernels({"dense": delta}):
        raise RuntimeError
    np.testing.assert_array_equal(wrapper(x), plain)


def test_without_a_weight_quantizer_there_is_no_quantized_kernel() -> None:
    with pytest.raises(ValueError, match="Only layers with a weight quantizer"):
        wrapped(layers.ReLU(name="relu"), (5,), output_bits=(8,)).quantized_kernel()


def test_config_round_trip() -> None:
    wrapper = wrapped(layers.Conv2D(4, 3, name="c"), (6, 6, 3), weight_bits=(2, 8), output_bits=(4,))
    copy = QuantizeWrapper.from_config(wrapper.get_config())
    copy.build((None, 6, 6, 3))
    assert [v.shape for v in copy.weights] == [v.shape for v in wrapper.weights]
    assert copy.get_config() == wrapper.get_config()
