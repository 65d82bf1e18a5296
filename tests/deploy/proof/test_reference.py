"""The float64 recomputation against TensorFlow's own float64 operators."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tfmpq.deploy.proof.reference import expected_value, steps_off
from tfmpq.graph.frozen import FrozenModel


def value_of(net: Any, name: str, codes: np.ndarray) -> np.ndarray:
    frozen: FrozenModel = net.model((9, 11, 6))
    layer = frozen.layer(name)
    value = expected_value(frozen, layer, [codes])
    return (value - layer.grid.zero_point) * float(np.float32(layer.grid.scale))


@pytest.fixture
def codes() -> np.ndarray:
    return np.random.default_rng(3).integers(-128, 128, (1, 9, 11, 6)).astype(np.int8)


@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize(("stride", "dilation", "groups"), [(1, 1, 1), (2, 1, 1), (1, 2, 1), (3, 1, 3)])
def test_conv2d(builder, make_grid, codes, padding, stride, dilation, groups) -> None:
    net = builder(5)
    net.add("image", "input", (), make_grid(0.02))
    options = {
        "strides": (stride, stride),
        "padding": padding,
        "dilation": (dilation, dilation),
        "groups": groups,
    }
    net.weighted("conv", "conv2d", "image", (3, 2, 6 // groups, 9), make_grid(9.0), **options)
    weights = net.layers[-1].weights
    kernel = weights.integers * weights.scales.astype(np.float64)
    image = codes.astype(np.float64) * float(np.float32(0.02))
    truth = tf.nn.conv2d(image, kernel, stride, padding.upper(), dilations=dilation).numpy()
    truth += weights.bias * float(np.float32(0.02)) * weights.scales.astype(np.float64)
    truth = np.clip(truth, -128 * 9.0, 127 * 9.0)
    np.testing.assert_allclose(value_of(net, "conv", codes), truth, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("multiplier", [1, 2])
def test_depthwise_conv2d(builder, make_grid, codes, padding, multiplier) -> None:
    net = builder(5)
    net.add("image", "input", (), make_grid(0.02, 8, False))
    options = {"strides": (2, 2), "padding": padding, "activation": "relu6"}
    net.weighted(
        "conv", "depthwise_conv2d", "image", (3, 3, 6, multiplier), make_grid(9.0, 8, False), **options
    )
    weights = net.layers[-1].weights
    scales = weights.scales.astype(np.float64)
    kernel = weights.integers * scales.reshape(6, multiplier)
    image = (codes.astype(np.float64) + 128) * float(np.float32(0.02))
    truth = tf.nn.depthwise_conv2d(image, kernel, (1, 2, 2, 1), padding.upper()).numpy()
    truth = np.clip(truth + weights.bias * float(np.float32(0.02)) * scales, 0, 6)
    np.testing.assert_allclose(value_of(net, "conv", codes), truth, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("padding", ["same", "valid"])
def test_pooling(builder, make_grid, codes, padding) -> None:
    net = builder(5)
    grid = make_grid(0.02, 8, False)
    net.add("image", "input", (), grid)
    net.add("max", "max_pooling2d", ("image",), grid, pool_size=(3, 2), strides=(2, 2), padding=padding)
    image = (codes.astype(np.float64) + 128) * float(np.float32(0.02))
    truth = tf.nn.max_pool2d(image, (3, 2), 2, padding.upper()).numpy()
    np.testing.assert_allclose(value_of(net, "max", codes), truth, rtol=1e-6)  # computed in float32


def test_average_pooling(builder, make_grid, codes) -> None:
    net = builder(5)
    net.add("image", "input", (), make_grid(0.02))
    net.add(
        "mean",
        "average_pooling2d",
        ("image",),
        make_grid(0.02),
        pool_size=(2, 3),
        strides=(1, 2),
        padding="valid",
    )
    truth = tf.nn.avg_pool2d(
        codes.astype(np.float64) * float(np.float32(0.02)), (2, 3), (1, 2), "VALID"
    ).numpy()
    np.testing.assert_allclose(value_of(net, "mean", codes), truth, rtol=1e-12, atol=1e-14)


def test_padding_adds_real_zeros(builder, make_grid, codes) -> None:
    net = builder(5)
    grid = make_grid(0.02, 4, False)
    net.add("image", "input", (), grid)
    net.add("pad", "zero_padding", ("image",), grid, paddings=((1, 0), (0, 2), (3, 1)))
    padded = value_of(net, "pad", np.clip(codes, 112, 127))
    assert padded.shape == (1, 10, 13, 10)
    assert (padded[:, 0] == 0).all()
    assert (padded[..., :3] == 0).all()
    assert (padded[:, :, 11:] == 0).all()


def test_both_neighbours_of_a_tie_are_right() -> None:
    expected = np.array([2.5, 2.5, 2.5, 2.4, 2.4, -1.0, 2.4999, 2.499])
    codes = np.array([2, 3, 4, 2, 3, 1, 3, 3], np.int8)
    assert steps_off(expected, codes, 2.0**-12).tolist() == [0, 0, 1, 0, 1, 2, 0, 1]
