"""Frozen networks of random integers, small, with every kind of layer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from tfmpq.graph.frozen import FrozenLayer, FrozenModel, FrozenWeights, TensorGrid


def grid(scale: float, bits: int = 8, signed: bool = True) -> TensorGrid:
    return TensorGrid(float(np.float32(scale)), bits, signed)


@dataclass
class Builder:
    """Appends layers; scales are such that outputs spread over their grids."""

    bits: int
    seed: int = 0
    layers: list[FrozenLayer] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)

    def add(self, name: str, kind: Any, inputs: tuple[str, ...], output: TensorGrid, **options: Any) -> str:
        activation = options.pop("activation", "linear")
        weights = options.pop("weights", None)
        self.layers.append(FrozenLayer(name, kind, inputs, output, activation, weights, options))
        return name

    def weighted(
        self, name: str, kind: Any, source: str, shape: tuple[int, ...], output: TensorGrid, **options: Any
    ) -> str:
        limit = 2 ** (self.bits - 1) - 1
        integers = self.rng.integers(-limit, limit + 1, shape).astype(np.int8)
        channels = shape[2] * shape[3] if kind == "depthwise_conv2d" else shape[-1]
        step = self.grid_of(source).scale
        spread = np.sqrt(integers.size / channels) * 50 * limit * 0.6 * step
        levels = 2 ** (output.bits - 1)
        scales = (0.4 * levels * output.scale / spread * self.rng.uniform(0.6, 1.5, channels)).astype(
            np.float32
        )
        bias = self.rng.normal(0, 0.1 * levels, channels) * output.scale / (step * scales)
        weights = FrozenWeights(integers, scales, np.round(bias).astype(np.int32), self.bits)
        if kind != "dense":
            options = {"strides": (1, 1), "padding": "same", "dilation": (1, 1)} | options
        return self.add(name, kind, (source,), output, weights=weights, **options)

    def grid_of(self, name: str) -> TensorGrid:
        return next(layer.grid for layer in self.layers if layer.name == name)

    def model(self, shape: tuple[int, int, int]) -> FrozenModel:
        return FrozenModel("toy", shape, tuple(self.layers), {"preprocessing": "unit", "classes": 10})


def every_layer(bits: int, activation_bits: int = 8) -> FrozenModel:
    """A network of 16x16x3 images with every layer kind, stride, padding and grouping."""
    net = Builder(bits)
    few, signed_few = grid(0.031, activation_bits, False), grid(0.043, activation_bits)
    net.add("image", "input", (), grid(0.0173))
    net.weighted("conv", "conv2d", "image", (3, 3, 3, 8), few, activation="relu")
    net.add("pad", "zero_padding", ("conv",), few, paddings=((1, 1), (1, 1), (0, 0)))
    net.weighted("strided", "conv2d", "pad", (3, 3, 8, 8), signed_few, strides=(2, 2), padding="valid")
    net.weighted(
        "depthwise", "depthwise_conv2d", "strided", (3, 3, 8, 1), grid(0.0233, 8, False), activation="relu6"
    )
    net.weighted("pointwise", "conv2d", "depthwise", (1, 1, 8, 8), grid(0.057, activation_bits))
    net.add("sum", "add", ("strided", "pointwise"), grid(0.061, 8, False), activation="relu")
    net.add(
        "max", "max_pooling2d", ("sum",), net.grid_of("sum"), pool_size=(3, 3), strides=(2, 2), padding="same"
    )
    net.weighted("projection", "conv2d", "sum", (1, 1, 8, 16), grid(0.0477), strides=(2, 2))
    net.add(
        "subsample",
        "max_pooling2d",
        ("sum",),
        net.grid_of("sum"),
        pool_size=(1, 1),
        strides=(2, 2),
        padding="valid",
    )
    net.add("channels", "zero_padding", ("subsample",), net.grid_of("sum"), paddings=((0, 0), (0, 0), (4, 4)))
    net.add("shortcut", "add", ("projection", "channels"), grid(0.083))
    net.add(
        "mean",
        "average_pooling2d",
        ("max",),
        net.grid_of("sum"),
        pool_size=(2, 2),
        strides=(1, 1),
        padding="valid",
    )
    net.weighted("grouped", "conv2d", "mean", (3, 3, 4, 16), grid(0.05), groups=2)
    net.weighted(
        "multiplied", "depthwise_conv2d", "grouped", (3, 3, 16, 2), grid(0.021, 8, False), activation="relu"
    )
    net.weighted("dilated", "conv2d", "multiplied", (3, 3, 32, 16), grid(0.0371), dilation=(2, 2))
    net.add("global", "global_average_pooling2d", ("shortcut",), grid(0.0231, activation_bits), keepdims=True)
    net.add("global2", "global_average_pooling2d", ("dilated",), grid(0.0131), keepdims=False)
    net.add("flat", "reshape", ("global",), net.grid_of("global"), shape=(16,))
    net.add("both", "add", ("flat", "global2"), grid(0.0411))
    net.weighted("hidden", "dense", "both", (16, 12), grid(0.0291, 8, False), activation="relu")
    net.weighted("logits", "dense", "hidden", (12, 10), grid(0.091))
    net.add("unchanged", "reshape", ("logits",), net.grid_of("logits"), shape=(10,))
    return net.model((16, 16, 3))


def small(bits: int = 4) -> FrozenModel:
    """Four layers with weights."""
    net = Builder(bits)
    net.add("image", "input", (), grid(0.0173))
    net.weighted(
        "conv", "conv2d", "image", (3, 3, 3, 8), grid(0.031, 8, False), activation="relu", strides=(2, 2)
    )
    net.weighted(
        "depthwise", "depthwise_conv2d", "conv", (3, 3, 8, 1), grid(0.0233, 8, False), activation="relu"
    )
    net.weighted("pointwise", "conv2d", "depthwise", (1, 1, 8, 8), grid(0.057))
    net.add("global", "global_average_pooling2d", ("pointwise",), grid(0.0131), keepdims=False)
    net.weighted("logits", "dense", "global", (8, 4), grid(0.091))
    return net.model((8, 8, 3))


def unfoldable(bits: int = 4) -> FrozenModel:
    """Strides, dilation, both paddings, an explicit border, an input whose code of zero is not 0, a clamp."""
    net = Builder(bits)
    few = grid(0.031, 5, False)
    net.add("image", "input", (), grid(0.0173))
    net.weighted("stem", "conv2d", "image", (3, 3, 3, 16), few, activation="relu")
    net.add("pad", "zero_padding", ("stem",), few, paddings=((1, 0), (1, 0), (0, 0)))
    net.weighted("down", "conv2d", "pad", (3, 3, 16, 32), grid(0.05), strides=(2, 2), padding="valid")
    net.weighted("wide", "conv2d", "down", (1, 5, 32, 32), grid(0.04, 6), activation="relu")
    net.weighted("dilated", "conv2d", "wide", (3, 3, 32, 32), grid(0.05), dilation=(2, 2))
    net.weighted("projection", "conv2d", "dilated", (1, 1, 32, 64), grid(0.06), strides=(2, 2))
    net.add("global", "global_average_pooling2d", ("projection",), grid(0.0231), keepdims=False)
    net.weighted("logits", "dense", "global", (64, 10), grid(0.091))
    return net.model((16, 16, 3))


@pytest.fixture(scope="session")
def make_unfoldable() -> Callable[..., FrozenModel]:
    return unfoldable


@pytest.fixture(scope="session")
def builder() -> Callable[[int], Builder]:
    return Builder


@pytest.fixture(scope="session")
def make_every_layer() -> Callable[..., FrozenModel]:
    return every_layer


@pytest.fixture(scope="session")
def make_small() -> Callable[..., FrozenModel]:
    return small


@pytest.fixture(scope="session")
def make_grid() -> Callable[..., TensorGrid]:
    return grid


@pytest.fixture(scope="session")
def images() -> np.ndarray:
    return np.random.default_rng(1).normal(0, 1, (3, 16, 16, 3)).astype(np.float32)
