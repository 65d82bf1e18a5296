"""SAQ's three cases: properties 25 to 29 of the method's specification, and case 3 without a radius.

Networks are computed in float64, so that what has to be equal is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from keras import layers, ops

from tfmpq.quantizers.choices import quantize_wrappers
from tfmpq.quantizers.learned_step import fake_quantize, weight_levels
from tfmpq.training import sharpness, step
from tfmpq.training.optimizer import QuantizationOptimizer
from tfmpq.training.perturbation import Ball
from tfmpq.training.presets import of_fine_tuning
from tfmpq.training.step import QuantizedTraining, SharpnessOptions

BITS, RHO = 4, 0.05
CASES = (1, 2, 3)


def saq(case: int, rho: float = RHO, every: int = 1) -> SharpnessOptions:
    """The step of a case as a fine-tuning has it; the second is `sam`."""
    found = of_fine_tuning(
        "sam" if case == 2 else "saq",
        saq_case=None if case == 2 else case,
        rho=rho,
        adaptive=False,
        norm="global",
        second_gradient_every=every,
    )
    assert found is not None
    return found


def network() -> keras.Model:
    image = keras.Input((8, 8, 3), name="image")
    x = layers.Conv2D(4, 3, strides=2, use_bias=False, name="stem")(image)
    x = layers.ReLU(name="relu")(layers.BatchNormalization(name="bn")(x))
    x = layers.ReLU(name="relu2")(layers.Conv2D(5, 3, name="conv")(x))
    return keras.Model(image, layers.Dense(4, name="logits")(layers.GlobalAveragePooling2D(name="gap")(x)))


def kernels_alone() -> keras.Model:
    image = keras.Input((8, 8, 3), name="image")
    x = layers.ReLU(name="relu")(layers.Conv2D(4, 3, strides=2, use_bias=False, name="stem")(image))
    x = layers.GlobalAveragePooling2D(name="gap")(x)
    return keras.Model(image, layers.Dense(4, use_bias=False, name="logits")(x))


class Made:
    """A training model with a batch, and what passed through its step."""

    def __init__(self, model: QuantizedTraining, images: np.ndarray, labels: np.ndarray) -> None:
        self.model, self.images, self.labels = model, images, labels
        self.paths = [v.path for v in model.trainable_variables]

    @property
    def wrappers(self) -> list[Any]:
        return quantize_wrappers(self.model)

    def stretch(self, share: float) -> None:
        """Steps of weights for which the largest of each channel is so many times what is not clipped."""
        for wrapper in self.wrappers:
            if wrapper.weight_quantizer is not None:
                kernel, steps = wrapper.layer.kernel.numpy(), wrapper.weight_variables["log_step"]
                axes = tuple(i for i, size in enumerate(steps.shape[1:]) if size == 1)
                largest = np.abs(kernel).max(axis=axes, keepdims=True)[None]
                steps.assign(np.log(largest / weight_levels(BITS).high / share))

    def update(self) -> tuple[list[np.ndarray], dict[str, float]]:
        tensors = [
            [ops.convert_to_tensor(v.numpy()) for v in variables]
            for variables in (self.model.trainable_variables, self.model.non_trainable_variables)
        ]
        images, labels = ops.convert_to_tensor(self.images), ops.convert_to_tensor(self.labels)
        gradients, _, metrics = self.model.compute_update(*tensors, images, labels)
        return [np.asarray(g) for g in gradients], {k: float(v) for k, v in metrics.items()}


@pytest.fixture
def float64_layers() -> Iterator[None]:
    """Layers that are made while the test runs compute in double precision."""
    before = keras.config.floatx(), keras.config.dtype_policy()
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    yield
    keras.config.set_floatx(before[0])
    keras.config.set_dtype_policy(before[1])


@pytest.fixture
def made(searchable, float64_layers) -> Callable[..., Made]:
    def make(options: SharpnessOptions | None, build: Callable[[], keras.Model] = network) -> Made:
        found = searchable((BITS,), (8,), build=build)
        model = QuantizedTraining(found.quantized.inputs[0], found.quantized.outputs[0])
        model.configure(options)
        return Made(model, found.images.astype("float64"), found.labels)

    return make


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[Any]]:
    """The gradients of each pass and each ascent."""
    found: dict[str, list[Any]] = {"gradients": [], "ascents": []}
    gradient, ascent = step.batch_value_and_gradient, sharpness.ascent

    def watched(function: Any, inputs: Any) -> Any:
        result = gradient(function, inputs)
        found["gradients"].append([np.asarray(g) for g in result[1]])
        return result

    def watched_ascent(*arguments: Any) -> Any:
        result = ascent(*arguments)
        found["ascents"].append([np.asarray(d) for d in result.deltas])
        return result

    monkeypatch.setattr(step, "batch_value_and_gradient", watched)
    monkeypatch.setattr(sharpness, "ascent", watched_ascent)
    return found


def flat(parts: Any) -> np.ndarray:
    return np.concatenate([np.ravel(part) for part in parts])


def both_cases(made: Callable[..., Made], seen: dict[str, list[Any]], share: float) -> list[Any]:
    """Perturbation and gradient of the cases 1 and 3, with so large weights."""
    found = []
    for case in (1, 3):
        trained = made(saq(case))
        trained.stretch(share)
        gradients, _ = trained.update()
        found.append((flat(seen["ascents"][-1]), flat(gradients)))
    return found


def test_cases_one_and_three_are_one_where_nothing_is_clipped(made, seen) -> None:
    for one, three in zip(*both_cases(made, seen, share=0.99), strict=True):
        np.testing.assert_allclose(one, three, rtol=1e-12, atol=1e-14)


def test_cases_one_and_three_differ_where_weights_are_clipped(made, seen) -> None:
    (one, gradient), (three, other) = both_cases(made, seen, share=2.0)
    assert one @ three / (np.linalg.norm(one) * np.linalg.norm(three)) < 0.99
    assert np.linalg.norm(gradient - other) > 1e-3 * np.linalg.norm(other)


@pytest.mark.parametrize("case", CASES)
def test_the_whole_perturbation_is_as_long_as_the_radius(made, seen, case: int) -> None:
    made(saq(case)).update()
    assert np.linalg.norm(flat(seen["ascents"][0])) == pytest.approx(RHO, rel=1e-7)  # rho is a float32


@pytest.mark.parametrize("case", [1, 3])
def test_the_second_kernel_less_the_first_quantized_one_is_the_perturbation(
    made, seen, monkeypatch: pytest.MonkeyPatch, case: int
) -> None:
    kernels: dict[str, list[np.ndarray]] = {}
    call = keras.layers.Conv2D.call

    def record(layer: Any, inputs: Any) -> Any:
        kernels.setdefault(layer.name, []).append(np.asarray(ops.convert_to_tensor(layer.kernel)))
        return call(layer, inputs)

    monkeypatch.setattr(keras.layers.Conv2D, "call", record)
    trained = made(saq(case))
    trained.stretch(2.0)
    kernels.clear()
    trained.update()
    names = [w.name for w in trained.wrappers if w.weight_quantizer is not None]
    for name, (first, second) in kernels.items():
        wrapper = trained.model.get_layer(name)
        latent = ops.convert_to_tensor(wrapper.layer.kernel.numpy())
        quantized = wrapper.weight_quantizer(latent, training=False, weights=wrapper.weight_variables)
        np.testing.assert_array_equal(first, np.asarray(quantized))
        np.testing.assert_allclose(second - first, seen["ascents"][0][names.index(name)], atol=1e-15)


@pytest.mark.parametrize("case", [1, 3])
def test_the_latent_gradient_is_that_at_the_perturbed_kernel_and_zero_where_clipped(
    made, seen, case: int
) -> None:
    trained = made(saq(case))
    trained.stretch(2.0)
    gradients, _ = trained.update()
    second = seen["gradients"][1]
    weighted = [w for w in trained.wrappers if w.weight_quantizer is not None]
    for wrapper, at_quantized in zip(weighted, second[len(gradients) :], strict=True):
        ratio = wrapper.layer.kernel.numpy() / np.exp(wrapper.weight_variables["log_step"].numpy()[0])
        inside = np.abs(ratio) < weight_levels(BITS).high
        latent = gradients[trained.paths.index(wrapper.layer.kernel.path)]
        assert 0.05 < np.mean(~inside) < 0.95
        np.testing.assert_array_equal(latent[~inside], 0.0)
        np.testing.assert_array_equal(latent[inside], at_quantized[inside])


def test_latent_perturbations_within_their_cells_change_nothing(made) -> None:
    gauge = made(None, kernels_alone)
    room = np.inf
    for wrapper in gauge.wrappers:
        if wrapper.weight_quantizer is not None:
            size = np.exp(wrapper.weight_variables["log_step"].numpy()[0])
            ratio = wrapper.layer.kernel.numpy() / size
            room = min(room, np.min(np.abs(ratio - np.floor(ratio) - 0.5) * size))
    _, metrics = made(saq(2, rho=0.5 * room), kernels_alone).update()
    assert metrics["gap"] == 0.0
    assert metrics["perturbed_loss"] == metrics["loss"]
    _, farther = made(saq(2, rho=1.0), kernels_alone).update()
    assert farther["gap"] != 0.0


@given(st.sampled_from([2, 4, 8]), st.floats(0.01, 0.3), st.integers(0, 2**32 - 1))
def test_the_share_of_flipped_codes_is_the_mean_displacement_in_steps(
    bits: int, length: float, seed: int
) -> None:
    generator, levels, size, count = np.random.default_rng(seed), weight_levels(bits), 0.1, 100_000
    weights = generator.uniform(levels.low + 0.5, levels.high - 0.5, count) * size
    moves = generator.normal(0, length * size, count).clip(-0.5 * size, 0.5 * size)
    before, after = (
        np.asarray(fake_quantize(v.astype("float32"), np.float32([size]), None, [levels], [1.0]))
        for v in (weights, weights + moves)
    )
    expected = np.mean(np.abs(moves)) / size
    spread = np.sqrt(expected * (1 - expected) / count)
    # Steps beyond the last cell are clipped, so that none is drawn whose move could leave it.
    assert np.mean(before != after) == pytest.approx(expected, abs=6 * spread)


@pytest.mark.parametrize("case", CASES)
def test_a_layer_in_full_precision_is_in_the_ball_with_its_latent_kernel_once(made, seen, case: int) -> None:
    quantized = made(None)
    outputs = layers.Dense(4, name="head")(quantized.model.outputs[0])
    model = QuantizedTraining(quantized.model.inputs[0], outputs)
    model.configure(saq(case))
    trained = Made(model, quantized.images, quantized.labels)
    ball = Ball(model.trainable_variables, model._wrappers, saq(case).perturb)
    head = trained.paths.index("head/kernel")
    assert ball.latent.count(head) == 1
    assert "head" not in [w.name for w in ball.wrappers]
    in_ball = len(ball.wrappers) + len(ball.latent)
    assert in_ball == len([p for p in trained.paths if p.endswith(("kernel", "gamma", "beta", "bias"))])
    trained.update()
    (deltas,), first = seen["ascents"], seen["gradients"][0]
    assert len(deltas) == in_ball
    moved = deltas[len(ball.wrappers) + ball.latent.index(head)]
    np.testing.assert_allclose(moved / np.linalg.norm(moved), first[head] / np.linalg.norm(first[head]))


def with_dropout() -> keras.Model:
    image = keras.Input((8, 8, 3), name="image")
    x = layers.Conv2D(4, 3, strides=2, use_bias=False, name="stem")(image)
    x = layers.ReLU(name="relu")(layers.BatchNormalization(name="bn")(x))
    x = layers.Dropout(0.2, seed=1)(layers.GlobalAveragePooling2D(name="gap")(x))
    return keras.Model(image, layers.Dense(4, name="logits")(x))


def test_without_a_radius_the_third_case_trains_bitwise_as_plain_gradients_do(searchable) -> None:
    """Compiled, four steps, BatchNorm and dropout included."""
    ends = []
    for options in (None, saq(3)):
        found = searchable((BITS,), (8,), build=with_dropout, seed=2)
        model = QuantizedTraining(found.quantized.inputs[0], found.quantized.outputs[0])
        model.configure(options)
        if options is not None:
            model._state["rho"].assign(0.0)  # an option of 0 is refused
        model.compile(optimizer=QuantizationOptimizer(0.05), jit_compile=False)
        model.fit(found.images, found.labels, batch_size=8, epochs=2, shuffle=False, verbose=0)
        own = ("quantized_training", "seed_generator")  # names that Keras numbers
        ends.append({v.path: v.numpy() for v in model.variables if not v.path.startswith(own)})
    plain, without = ends
    assert list(plain) == list(without)
    for path, value in plain.items():
        np.testing.assert_array_equal(without[path], value, path)
