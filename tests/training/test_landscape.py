"""Gaps, gradients, Hessian products and the top eigenvalue around a quantized network."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from keras import layers

from tfmpq.quantizers.choices import quantize_wrappers
from tfmpq.quantizers.wrapper import QuantizeWrapper
from tfmpq.training.landscape import MOST_ITERATIONS, Landscape, top_eigenvalue


def symmetric(eigenvalues: list[float], seed: int) -> np.ndarray:
    """A matrix with these eigenvalues and random eigenvectors."""
    size = len(eigenvalues)
    basis, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(size, size)))
    return basis @ np.diag(eigenvalues) @ basis.T


@pytest.mark.parametrize("seed", range(8))
def test_the_top_eigenvalue_of_a_quadratic_is_found(seed: int) -> None:
    generator = np.random.default_rng(seed)
    top = 10.0 ** generator.uniform(-6, 6)
    matrix = top * symmetric([1.0, *generator.uniform(-0.8, 0.8, 40)], seed)
    found = top_eigenvalue(lambda v: matrix @ v, len(matrix))
    assert found.value == pytest.approx(top, rel=2e-3)


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=8), st.integers(0, 9))
@example([0.0, -1.0, 0.0], 0)
def test_no_eigenvalue_is_overestimated(eigenvalues: list[float], seed: int) -> None:
    matrix = symmetric(eigenvalues, seed)
    found = top_eigenvalue(lambda v: matrix @ v, len(matrix))
    assert found.value <= max(eigenvalues) + 1e-9 * max(map(abs, eigenvalues)) + 1e-12


@pytest.mark.parametrize(
    ("eigenvalues", "top"), [([-5.0, 2.0, 0.5, 0.0], 2.0), ([-3.0, -2.0, -1.0], -1.0), ([0.0, 0.0], 0.0)]
)
def test_the_largest_one_is_meant_even_if_others_have_a_larger_magnitude(
    eigenvalues: list[float], top: float
) -> None:
    matrix = symmetric(eigenvalues, 1)
    found = top_eigenvalue(lambda v: matrix @ v, len(matrix))
    assert found.value == pytest.approx(top, abs=0.02)


def test_the_residual_and_the_iterations_are_told() -> None:
    quick = top_eigenvalue(lambda v: np.diag([4.0, 1.0, 1.0]) @ v, 3)
    assert quick.residual < 0.02
    assert quick.iterations < 20
    close = top_eigenvalue(lambda v: np.linspace(0.99, 1.0, 500) * v, 500)
    assert close.value == pytest.approx(0.995, abs=0.006)
    assert close.iterations <= MOST_ITERATIONS


def tiny() -> keras.Model:
    image = keras.Input((3, 3, 2), name="image")
    x = layers.Conv2D(3, 2, use_bias=False, name="conv")(image)
    x = layers.ReLU(name="relu")(layers.BatchNormalization(name="bn")(x))
    x = layers.GlobalAveragePooling2D(name="gap")(x)
    return keras.Model(image, layers.Dense(3, name="logits")(x))


@pytest.fixture(scope="module")
def landscape(searchable: Callable[..., Any]) -> tuple[Any, Landscape]:
    made = searchable((4,), (8,), build=tiny, seed=7)
    for wrapper in quantize_wrappers(made.quantized):
        if wrapper.output_quantizer is not None:
            # Steps are fitted so that the largest value lies on the edge of the range, where no slope is.
            step = wrapper.output_variables["log_step"]
            step.assign(step - 0.05)
    labels = np.arange(len(made.images)) % 3
    return made, Landscape(made.quantized, made.images, labels.astype(np.int32))


def float64_loss(made: Any, rounded: bool) -> Callable[[np.ndarray], float]:
    """The same loss, written out in NumPy: of the rounded network, or with rounding errors held as at 0.

    The perturbation's parts: conv kernel, dense kernel, gamma, beta, bias.
    """
    model = made.quantized
    wrapper: dict[str, QuantizeWrapper] = {w.name: w for w in model.layers if isinstance(w, QuantizeWrapper)}
    conv, dense = (np.asarray(wrapper[name].quantized_kernel(), np.float64) for name in ("conv", "logits"))
    bn = model.get_layer("bn")
    gamma, beta, mean, variance = (np.asarray(v, np.float64) for v in bn.get_weights())
    bias = np.asarray(wrapper["logits"].layer.bias, np.float64)
    labels, errors = np.arange(len(made.images)) % 3, {}
    images = np.asarray(model.layers[1](made.images), np.float64)  # on its grid
    patches = np.stack([images[:, i : i + 2, j : j + 2] for i in range(2) for j in range(2)], 1)

    def quantize(name: str, x: np.ndarray, fixed: bool) -> np.ndarray:
        step = np.exp(np.float64(np.asarray(wrapper[name].output_variables["log_step"])[0]))
        (grid,) = wrapper[name].output_quantizer.levels
        clipped = np.clip(x, grid.low * step, grid.high * step)
        if not fixed:
            errors[name] = np.round(clipped / step) * step - clipped
        return clipped + errors[name]

    def loss(point: np.ndarray, fixed: bool = not rounded) -> float:
        sizes = np.cumsum([conv.size, dense.size, gamma.size, beta.size])
        d_conv, d_dense, d_gamma, d_beta, d_bias = np.split(point, sizes)
        x = np.einsum("npijc,ijco->npo", patches, conv + d_conv.reshape(conv.shape))
        x = (x - mean) / np.sqrt(variance + bn.epsilon) * (gamma + d_gamma) + beta + d_beta
        x = quantize("relu", np.maximum(x, 0), fixed).mean(axis=1)
        x = quantize("gap", x, fixed) if "gap" in wrapper else x
        x = quantize("logits", x @ (dense + d_dense.reshape(dense.shape)) + bias + d_bias, fixed)
        return float(np.mean(np.log(np.exp(x).sum(1)) - x[np.arange(len(x)), labels]))

    loss(np.zeros(conv.size + dense.size + gamma.size + beta.size + bias.size), fixed=False)
    return loss


def numeric_hessian(function: Callable[[np.ndarray], float], size: int, h: float = 1e-4) -> np.ndarray:
    found = np.empty((size, size))
    steps = np.eye(size) * h
    for i in range(size):
        for j in range(i + 1):
            a, b = steps[i], steps[j]
            found[i, j] = found[j, i] = (
                function(a + b) - function(a - b) - function(b - a) + function(-a - b)
            ) / (4 * h * h)
    return found


def test_loss_and_gaps_are_those_of_the_rounded_network(landscape) -> None:
    made, ours = landscape
    theirs = float64_loss(made, rounded=True)
    assert ours.size == 24 + 9 + 3 + 3 + 3
    generator = np.random.default_rng(0)
    for radius in (0.0, 0.01, 0.1):
        point = generator.normal(size=ours.size)
        point *= radius / np.linalg.norm(point)
        assert ours.loss(point) == pytest.approx(theirs(point), abs=2e-5)
    assert ours.loss_and_gradient(np.zeros(ours.size))[0] == pytest.approx(ours.loss(np.zeros(ours.size)))


def test_the_gradient_is_that_of_the_straight_through_loss(landscape) -> None:
    made, ours = landscape
    theirs = float64_loss(made, rounded=False)
    _, gradient = ours.loss_and_gradient(np.zeros(ours.size))
    steps = np.eye(ours.size) * 1e-5
    numeric = [(theirs(step) - theirs(-step)) / 2e-5 for step in steps]
    np.testing.assert_allclose(gradient, numeric, atol=1e-5)


@pytest.mark.slow
def test_the_dense_hessian_is_that_of_the_straight_through_loss(landscape) -> None:
    made, ours = landscape
    dense = np.stack([ours.hessian_product(unit) for unit in np.eye(ours.size)])
    scale = np.abs(dense).max()
    np.testing.assert_allclose(dense, dense.T, atol=1e-5 * scale)
    numeric = numeric_hessian(float64_loss(made, rounded=False), ours.size)
    np.testing.assert_allclose(dense, numeric, atol=1e-3 * scale)
    top = np.linalg.eigvalsh(numeric)[-1]
    found = top_eigenvalue(ours.hessian_product, ours.size)
    assert found.value == pytest.approx(top, rel=5e-3)


def test_batches_make_no_difference(landscape, monkeypatch: pytest.MonkeyPatch) -> None:
    made, whole = landscape
    monkeypatch.setattr("tfmpq.training.landscape.BATCH", 5)  # 16 images: three whole batches and a rest
    labels = (np.arange(len(made.images)) % 3).astype(np.int32)
    parts = Landscape(made.quantized, made.images, labels)
    assert len(parts._batches) == 4
    vector = np.random.default_rng(1).normal(size=whole.size)
    np.testing.assert_allclose(parts.hessian_product(vector), whole.hessian_product(vector), atol=1e-5)
    for one, other in zip(
        parts.loss_and_gradient(0.01 * vector), whole.loss_and_gradient(0.01 * vector), strict=True
    ):
        np.testing.assert_allclose(one, other, atol=1e-6)
