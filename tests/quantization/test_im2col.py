"""Kernels as matrices: their products with what they read are what the layers of Keras compute."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from keras import layers

from tfmpq.errors import TfmpqError
from tfmpq.graph.fusion import analyse
from tfmpq.graph.lowering import lower
from tfmpq.graph.network import Node
from tfmpq.quantization.im2col import as_kernel, as_matrices, group_count, input_matrices

sides = st.integers(1, 4)
paddings = st.sampled_from(["same", "valid"])

Made = tuple[type[keras.layers.Layer], dict[str, Any]]
"""Class of a layer and its arguments."""


@st.composite
def convolutions(draw: st.DrawFn) -> Made:
    """A Conv2D with groups or a DepthwiseConv2D with a multiplier; strides or dilation, as Keras has it."""
    stride, dilation = draw(st.sampled_from([(1, 1), (2, 1), (3, 1), (1, 2), (1, 3)]))
    options = {"strides": stride, "dilation_rate": dilation}
    options |= {"kernel_size": (draw(sides), draw(sides)), "padding": draw(paddings)}
    if draw(st.booleans()):
        return layers.DepthwiseConv2D, options | {"depth_multiplier": draw(st.integers(1, 3))}
    groups = draw(st.sampled_from([1, 2, 3, 6]))
    return layers.Conv2D, options | {"filters": groups * draw(st.integers(1, 3)), "groups": groups}


@st.composite
def transposed(draw: st.DrawFn) -> Made:
    return layers.Conv2DTranspose, {
        "filters": draw(st.integers(1, 4)),
        "kernel_size": (draw(sides), draw(sides)),
        "strides": (draw(st.integers(1, 3)), draw(st.integers(1, 3))),
        "padding": draw(paddings),
    }


every_kind = st.one_of(convolutions(), transposed())


def node_of(made: Made, height: int, width: int, channels: int) -> tuple[keras.Model, Node]:
    """A model of one layer, with random weights, and its node."""
    kind, options = made
    layer = kind(**options, use_bias=False, dtype="float64")
    image = keras.Input((height, width, channels), dtype="float64")
    try:
        model = keras.Model(image, layer(image))
        network = analyse(model)
    except (TfmpqError, ValueError):  # no runtime has it, or the image is smaller than the kernel
        assume(False)
    layer.set_weights([np.random.default_rng(0).normal(size=layer.kernel.shape)])
    return model, network.node(layer.name)


def every_position(shape: tuple[int, ...]) -> tuple[np.ndarray, ...]:
    return np.unravel_index(np.arange(np.prod(shape)), shape)


def product(node: Node, x: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The layer's output (images, height, width, channels), by its matrices."""
    kernel = as_matrices(np.asarray(node.main.kernel), node)
    found = input_matrices(node, x, every_position(shape[:3])) @ kernel
    return found.transpose(1, 0, 2).reshape(shape)


@settings(max_examples=60)
@given(every_kind, st.integers(1, 8), st.integers(1, 8), st.integers(0, 10**6))
def test_matrices_times_kernel_is_the_layer(made: Made, height: int, width: int, seed: int) -> None:
    model, node = node_of(made, height, width, 6)
    x = np.random.default_rng(seed).normal(size=(2, height, width, 6))
    wanted = np.asarray(model(x))
    np.testing.assert_allclose(product(node, x, wanted.shape), wanted, atol=1e-12)


@settings(max_examples=20)
@given(every_kind, st.integers(0, 10**6))
def test_some_positions_are_those_of_all(made: Made, seed: int) -> None:
    _, node = node_of(made, 7, 5, 6)
    generator = np.random.default_rng(seed)
    x = generator.normal(size=(3, 7, 5, 6))
    every = every_position((3, *node.output_shape[:2]))
    picks = generator.permutation(len(every[0]))[:4]
    some = input_matrices(node, x, tuple(index[picks] for index in every))
    np.testing.assert_array_equal(some, input_matrices(node, x, every)[:, picks])


@settings(max_examples=20)
@given(every_kind)
def test_kernels_go_there_and_back(made: Made) -> None:
    _, node = node_of(made, 9, 9, 6)
    kernel = np.asarray(node.main.kernel)
    matrices = as_matrices(kernel, node)
    assert len(matrices) == group_count(node)
    assert matrices.shape[0] * matrices.shape[2] == node.output_shape[-1]
    np.testing.assert_array_equal(as_kernel(matrices, node), kernel)


def test_a_transposed_convolution_by_hand() -> None:
    """Stride 2, kernel 3, `same`: of 5 places the last is cut off; taps alternate."""
    options = {"filters": 1, "kernel_size": (1, 3), "strides": (1, 2), "padding": "same"}
    _, node = node_of((layers.Conv2DTranspose, options), 1, 2, 1)
    x = np.array([5.0, 7.0]).reshape(1, 1, 2, 1)
    found = input_matrices(node, x, every_position((1, 1, 4)))
    np.testing.assert_array_equal(found, [[[5, 0, 0], [0, 5, 0], [7, 0, 5], [0, 7, 0]]])


@pytest.mark.parametrize(
    "layer",
    [
        lambda: layers.Conv1D(6, 4, groups=3, strides=2, padding="same", use_bias=False, name="one"),
        lambda: layers.DepthwiseConv1D(3, depth_multiplier=2, strides=2, use_bias=False, name="one"),
        lambda: layers.Conv1DTranspose(4, 3, strides=2, padding="same", use_bias=False, name="one"),
    ],
)
def test_layers_of_sequences_are_those_of_images(layer: Any) -> None:
    sequence = keras.Input((9, 6))
    model = keras.Model(sequence, layer()(sequence))
    (node,) = analyse(lower(model)).weighted
    x = np.random.default_rng(0).normal(size=(2, 9, 6)).astype("float32")
    wanted = np.asarray(model(x))
    found = product(node, x[:, None], (2, *node.output_shape))
    np.testing.assert_allclose(found.reshape(wanted.shape), wanted, atol=1e-5)
