"""XNNPACK's dynamically quantized kernels give what the recomputation says, for rows of every sort."""

from __future__ import annotations

import numpy as np
import pytest

from tfmpq.deploy.conversion.dynamic_form import build_dynamic
from tfmpq.deploy.proof.dynamic_kernels import expected_weighted
from tfmpq.deploy.runtime.interpreter import tensor_values
from tfmpq.graph.dynamic import DynamicLayer, DynamicModel, DynamicWeights

INPUTS, OUTPUTS = 64, 24


def rows(generator: np.random.Generator, count: int) -> np.ndarray:
    """Rows of many sorts: normal, rectified, with outliers, of one sign, of one value, zeros, extremes."""
    x = generator.normal(size=(count, INPUTS)) * np.exp(generator.normal(size=(count, 1)))
    kind = generator.integers(0, 9, count)[:, None]
    x = np.where(kind == 1, x * (x > 0), x)
    x = np.where((kind == 2) & (generator.random(x.shape) < 0.02), 30 * x, x)
    x = np.where(kind == 3, np.abs(x) + 1, x)
    x = np.where(kind == 4, -np.abs(x), x)
    x = np.where(kind == 5, np.round(x * 20), x)
    x = np.where(kind == 6, x * 1e-30, x)
    x = np.where(kind == 7, x * 1e30, x)
    x[::97] = 0.0
    x[5::97] = 3.0
    return x.astype(np.float32)


def product(generator: np.random.Generator, bits: int, count: int) -> DynamicModel:
    """A network of one product of `count` rows."""
    most = 2 ** (bits - 1) - 1
    weights = DynamicWeights(
        generator.integers(-most, most + 1, (1, 1, INPUTS, OUTPUTS)).astype(np.int8),
        np.exp(generator.normal(size=OUTPUTS) - 4).astype(np.float32),
        generator.normal(size=OUTPUTS).astype(np.float32),
        bits,
        "FULLY_CONNECTED",
        {8: 8, 4: 4, 2: 2}[bits],
        "row",
    )
    attributes = {"strides": (1, 1), "padding": "valid", "dilation": (1, 1), "groups": 1}
    image = DynamicLayer("image", "input", (), (1, count, INPUTS))
    layer = DynamicLayer(
        "product", "conv2d", ("image",), (1, count, OUTPUTS), weights=weights, attributes=attributes
    )
    return DynamicModel("net", (1, count, INPUTS), (image, layer), {}, ("product",))


def outside(seed: int, bits: int, count: int) -> tuple[int, float]:
    """Elements beyond their bound, and the largest distance in units of it."""
    generator = np.random.default_rng(seed)
    network = product(generator, bits, count)
    x = rows(generator, count)[None, None]
    found = tensor_values(build_dynamic(network), None, x, "default")["product"].astype(np.float64)
    layer = network.layers[1]
    assert layer.weights is not None
    expected = expected_weighted(layer, layer.weights, x)
    gap = np.abs(found - expected.value) / expected.tolerance
    assert np.isfinite(found).all()
    return int((gap > 1).sum()), float(gap.max())


@pytest.mark.parametrize("bits", [8, 4, 2])
def test_products_of_rows_of_every_sort_are_within_their_bound(bits: int) -> None:
    assert outside(0, bits, 2000)[0] == 0


@pytest.mark.slow
@pytest.mark.parametrize("bits", [8, 4, 2])
def test_products_of_a_million_random_rows_are_within_their_bound(bits: int) -> None:
    for seed in range(34):
        beyond, worst = outside(seed, bits, 10_000)
        assert beyond == 0, (seed, worst)


def test_a_wrong_integer_is_beyond_the_bound() -> None:
    generator = np.random.default_rng(0)
    network = product(generator, 4, 50)
    x = rows(generator, 50)[None, None]
    found = tensor_values(build_dynamic(network), None, x, "default")["product"].astype(np.float64)
    layer = network.layers[1]
    assert layer.weights is not None
    layer.weights.integers[0, 0, 3, 5] ^= 1
    expected = expected_weighted(layer, layer.weights, x)
    beyond = np.abs(found - expected.value) > expected.tolerance
    assert beyond[..., 5].mean() > 0.5
    assert not beyond[..., :5].any()
