"""One training step, taken apart: two passes, what they share, and what they leave behind."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
from keras import ops

from tfmpq.quantizers.wrapper import _perturbations
from tfmpq.training import sharpness, step
from tfmpq.training.optimizer import QuantizationOptimizer
from tfmpq.training.sharpness import RadiusSchedule
from tfmpq.training.step import QuantizedTraining, SharpnessOptions

RHO = 0.05
BITS = (2, 4, 8)


def short(path: str) -> str:
    """Names of the model's own state without the model's name, which Keras numbers."""
    return path.split("/")[-1] if path.startswith("quantized_training") else path


def asga(rho: float = RHO, alpha: float = 1e-3, kind: str = "fixed", **options: Any) -> SharpnessOptions:
    return SharpnessOptions(RadiusSchedule(kind, rho_max=rho), alpha, **options)


class Spy:
    """Records what passes through the ascent, and the loss of every pass."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, change: Callable[[Any], Any] | None = None) -> None:
        self.ascents: list[Any] = []
        self.gradients: list[list[np.ndarray]] = []
        self.passes: list[tuple[list[Any], list[Any], Any]] = []
        ascent, loss, gradient = sharpness.ascent, QuantizedTraining._loss, step.batch_value_and_gradient

        def watched_ascent(*arguments: Any) -> Any:
            found = ascent(*arguments)
            self.ascents.append(change(found) if change else found)
            return self.ascents[-1]

        def watched_loss(model: Any, trainable: Any, perturbations: Any, *rest: Any) -> Any:
            found = loss(model, trainable, perturbations, *rest)
            self.passes.append((list(trainable), list(perturbations), found))
            return found

        def watched_gradient(function: Any, inputs: Any) -> Any:
            found = gradient(function, inputs)
            self.gradients.append([np.asarray(g) for g in found[1]])
            return found

        monkeypatch.setattr(sharpness, "ascent", watched_ascent)
        monkeypatch.setattr(QuantizedTraining, "_loss", watched_loss)
        monkeypatch.setattr(step, "batch_value_and_gradient", watched_gradient)


def without_step(ascent: sharpness.Ascent) -> sharpness.Ascent:
    return ascent._replace(deltas=[ops.zeros_like(d) for d in ascent.deltas])


@pytest.mark.parametrize("perturb", ["quantized", "latent"])
def test_without_a_perturbation_the_step_takes_the_ordinary_gradient(
    trainer, monkeypatch, perturb: str
) -> None:
    """Bitwise, dropout included: the second pass sees the mask of the first."""
    plain, plain_state, plain_metrics = trainer(dropout=0.5).update()
    Spy(monkeypatch, without_step)
    gradients, state, metrics = trainer(asga(perturb=perturb), dropout=0.5).update()
    assert metrics["loss"] == metrics["perturbed_loss"] == plain_metrics["loss"]
    assert metrics["gradient_cosine"] == pytest.approx(1, abs=1e-6)
    for path, gradient in plain.items():
        np.testing.assert_array_equal(gradients[path], gradient, path)
    for path, value in plain_state.items():
        if "seed" not in path:
            np.testing.assert_array_equal(state[path], value, path)


def test_small_radii_come_close_to_the_ordinary_gradient(trainer) -> None:
    plain, _, _ = trainer().update()
    gradients, _, _ = trainer(asga(rho=1e-6, alpha=0.0)).update()
    for path, gradient in plain.items():
        np.testing.assert_allclose(gradients[path], gradient, atol=2e-3 * np.abs(gradient).max() + 1e-6)


@pytest.mark.parametrize("perturb", ["quantized", "latent"])
@pytest.mark.parametrize("alpha", [0.0, 1e-3])
def test_the_length_of_the_perturbation_is_rho_less_alpha_times_the_norm(
    trainer, monkeypatch, perturb: str, alpha: float
) -> None:
    spy = Spy(monkeypatch)
    _, _, metrics = trainer(asga(alpha=alpha, perturb=perturb)).update()
    length = np.sqrt(sum(np.sum(np.square(d, dtype=np.float64)) for d in spy.ascents[0].deltas))
    assert length == pytest.approx(abs(RHO - alpha * metrics["gradient_norm"]), rel=1e-5)
    assert metrics["rho"] == pytest.approx(RHO)
    assert metrics["alpha_guarded"] == 0.0


def test_the_perturbation_moves_kernels_norms_and_biases_but_no_quantizers(trainer, monkeypatch) -> None:
    spy = Spy(monkeypatch)
    made = trainer(asga())
    made.update()
    paths = [v.path for v in made.model.trainable_variables]
    (before, zeros, _), (after, deltas, _) = spy.passes
    moved = {
        p for p, a, b in zip(paths, before, after, strict=True) if np.any(np.asarray(a) != np.asarray(b))
    }
    affine = {p for p in paths if p.endswith(("gamma", "beta", "bias"))}
    assert moved <= affine
    assert {p.rsplit("/", 1)[1] for p in moved} == {"gamma", "beta", "bias"}
    assert len(zeros) == len(deltas) == 5
    assert all(not np.any(z) for z in zeros)
    assert all(np.any(d) for d in deltas)


def test_the_quantized_kernel_is_perturbed_and_the_latent_gradient_is_gated(trainer, monkeypatch) -> None:
    """Epsilon lies between the two kernels; the latent gradient is the gated one of the kernel in use."""
    seen: dict[str, list[np.ndarray]] = {}
    call = keras.layers.Conv2D.call

    def record(layer: Any, inputs: Any) -> Any:
        seen.setdefault(layer.name, []).append(np.asarray(ops.convert_to_tensor(layer.kernel)))
        return call(layer, inputs)

    monkeypatch.setattr(keras.layers.Conv2D, "call", record)
    spy = Spy(monkeypatch)
    made = trainer(asga())
    made.update()
    names = [w.name for w in made.model._wrappers]
    count = len(made.model.trainable_variables)
    index = {v.path: i for i, v in enumerate(made.model.trainable_variables)}
    for name in ("stem", "pw", "down"):
        position = names.index(name)
        first, second = seen[name][-2:]
        wrapper = made.wrapper(name)
        np.testing.assert_allclose(first, wrapper.quantized_kernel(), atol=1e-7)
        np.testing.assert_allclose(second - first, spy.ascents[0].deltas[position], atol=1e-6)
        p = np.asarray(ops.softmax(wrapper.weight_variables["bit_logits"].value))
        steps = np.exp(np.asarray(wrapper.weight_variables["log_step"]))
        ratio = np.asarray(wrapper.layer.kernel)[None] / steps
        limits = np.array([1, 7, 127]).reshape(-1, 1, 1, 1, 1)
        gate = np.einsum("b,bijkl->ijkl", p, np.abs(ratio) < limits)
        assert gate.min() < 1  # some weights are clipped
        for gradients in spy.gradients[:2]:
            np.testing.assert_allclose(
                gradients[index[wrapper.layer.kernel.path]],
                gradients[count + position] * gate,
                rtol=1e-4,
                atol=1e-7,
            )


def test_latent_perturbations_move_the_latent_kernel(trainer, monkeypatch) -> None:
    spy = Spy(monkeypatch)
    made = trainer(asga(perturb="latent"))
    made.update()
    paths = [v.path for v in made.model.trainable_variables]
    (before, none, _), (after, also_none, _) = spy.passes
    assert none == also_none == []
    for path, old, new in zip(paths, before, after, strict=True):
        if path.endswith("kernel"):
            assert np.any(np.asarray(old) != np.asarray(new)), path
        if path.endswith(("log_step", "bit_logits")):
            np.testing.assert_array_equal(old, new)


def test_batch_norm_statistics_are_those_of_one_forward_pass(trainer) -> None:
    made = trainer(asga())
    _, state, _ = made.update()
    made.made.quantized(made.made.images, training=True)  # one ordinary pass updates the variables
    compared = 0
    for variable in made.made.quantized.non_trainable_variables:
        if "moving" in variable.path:
            np.testing.assert_allclose(state[variable.path], variable.numpy(), rtol=1e-6, atol=1e-7)
            compared += 1
    assert compared == 4


def test_frozen_statistics_stay(trainer) -> None:
    made = trainer(asga())
    made.model.update_statistics = False
    _, state, _ = made.update()
    for variable in made.model.non_trainable_variables:
        if "moving" in variable.path:
            np.testing.assert_array_equal(state[variable.path], variable.numpy())


def test_two_passes_with_and_one_without_sharpness(trainer, monkeypatch) -> None:
    spy = Spy(monkeypatch)
    trainer(asga()).update()
    assert (len(spy.passes), len(spy.gradients)) == (2, 2)
    trainer().update()
    assert (len(spy.passes), len(spy.gradients)) == (3, 3)


def test_nothing_is_perturbed_after_a_failure_between_the_passes(trainer, monkeypatch) -> None:
    made = trainer(asga())
    before = [v.numpy() for v in made.model.variables]

    def fail(*_: Any) -> None:
        raise RuntimeError

    monkeypatch.setattr(sharpness, "surrogate_gap", fail)
    with pytest.raises(RuntimeError):
        made.update()
    assert _perturbations.get() == {}
    for variable, value in zip(made.model.variables, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value)


def test_dropout_masks_differ_from_step_to_step(trainer) -> None:
    made = trainer(asga(), dropout=0.5)
    _, state, first = made.update()
    for variable in made.model.non_trainable_variables:
        if "seed" in variable.path:
            assert np.any(variable.numpy() != state[variable.path])
            variable.assign(state[variable.path])
    assert made.update()[2]["loss"] != first["loss"]


def test_the_gradient_is_the_mean_of_both_passes(trainer, monkeypatch) -> None:
    spy = Spy(monkeypatch)
    made = trainer(asga())
    gradients, _, metrics = made.update()
    first, second = (g[: len(gradients)] for g in spy.gradients)
    for got, a, b in zip(gradients.values(), first, second, strict=True):
        np.testing.assert_allclose(got, (a + b) / 2, rtol=1e-6, atol=1e-9)
    count = len(first)
    correction = 0.0
    for a, b in zip(spy.gradients[0][count:], spy.gradients[1][count:], strict=True):
        correction += np.sum(a.astype(np.float64) * b)
    for path, a, b in zip(gradients, first, second, strict=True):
        if path.endswith(("gamma", "beta", "bias")):
            correction += np.sum(a.astype(np.float64) * b)
    gap = metrics["perturbed_loss"] - metrics["loss"] + 1e-3 * correction
    assert metrics["gap"] == pytest.approx(gap, abs=1e-5)


def test_the_radius_stays_within_its_bounds(trainer) -> None:
    made = trainer(SharpnessOptions(RadiusSchedule("direct", rho_max=0.1, rho_min=0.02)))
    for _ in range(4):
        _, state, metrics = made.update()
        assert 0.02 - 1e-8 <= metrics["rho"] <= 0.1 + 1e-8
        assert 0.02 - 1e-8 <= state["rho"] <= 0.1 + 1e-8
        for variable in made.model.non_trainable_variables:
            variable.assign(state[short(variable.path)])


def test_the_guard_is_reported(trainer) -> None:
    """alpha times the norm beyond half the radius would turn the ascent around."""
    assert trainer(asga(alpha=10.0)).update()[2]["alpha_guarded"] == 1.0


LIMITS = {"size": 0.3, "bops": 0.2}


def test_the_cost_gradient_has_its_closed_form_and_ignores_the_weights(trainer) -> None:
    """With no multiplier yet only the quadratic term acts: penalty * v * p_i (c_i - E c) / limit."""
    without, _, _ = trainer(asga()).update()
    made = trainer(asga(), limits={"weight-bits": 0.3})
    gradients, _, metrics = made.update()
    total = sum(int(np.prod(n.main.kernel.shape)) for n in made.made.network.weighted)
    expected_bits = 0.0
    for node in made.made.network.weighted:
        logits = made.wrapper(node.name).weight_variables["bit_logits"].numpy()
        p = np.exp(logits) / np.exp(logits).sum()
        expected_bits += p @ BITS * np.prod(node.main.kernel.shape) / total
    assert metrics["expected_bits"] == pytest.approx(expected_bits, rel=1e-5)
    assert metrics["expected_weight-bits"] == pytest.approx(expected_bits / 8, rel=1e-5)
    excess = expected_bits / 8 / 0.3 - 1
    for node in made.made.network.weighted:
        variable = made.wrapper(node.name).weight_variables["bit_logits"]
        p = np.exp(variable.numpy()) / np.exp(variable.numpy()).sum()
        slope = p * (BITS - p @ BITS) * np.prod(node.main.kernel.shape) / total / 8 / 0.3
        added = gradients[variable.path] - without[variable.path]
        np.testing.assert_allclose(added, 5.0 * excess * slope, rtol=1e-3, atol=1e-5)
    for path, gradient in without.items():
        if "logits" not in path.rsplit("/", 1)[1]:
            np.testing.assert_array_equal(gradients[path], gradient)


def test_multipliers_rise_while_over_budget_and_never_fall_below_zero(trainer) -> None:
    over = trainer(limits=LIMITS, rate=0.1)
    (multipliers,) = (v for v in over.model.non_trainable_variables if v.path.endswith("multipliers"))
    seen = [multipliers.numpy()]
    for _ in range(3):
        _, state, metrics = over.update()
        multipliers.assign(state["multipliers"])
        seen.append(multipliers.numpy())
    excess = [metrics[f"expected_{key}"] / limit - 1 for key, limit in LIMITS.items()]
    assert min(excess) > 0
    np.testing.assert_allclose(seen[-1] - seen[-2], 0.1 * np.array(excess), rtol=1e-4)
    assert np.all(np.diff(seen, axis=0) > 0)
    under = trainer(limits={"size": 1.0, "bops": 1.0}, rate=0.1)
    np.testing.assert_array_equal(under.update()[1]["multipliers"], [0, 0])


def test_distillation_changes_only_the_loss(trainer) -> None:
    plain, plain_state, plain_metrics = trainer().update()
    made = trainer(distillation=True, share=0.5)
    paths = [v.path for v in made.model.trainable_variables]
    assert paths == list(plain)  # the teacher's weights are not trained
    teacher = [v.numpy() for v in made.made.model.variables]
    gradients, state, metrics = made.update()
    for variable, value in zip(made.made.model.variables, teacher, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value)
    for path, value in plain_state.items():
        np.testing.assert_array_equal(state[path], value)
    assert metrics["accuracy"] == plain_metrics["accuracy"]
    assert any(np.any(gradients[path] != plain[path]) for path in plain)
    full, _, soft = trainer(distillation=True, share=1.0).update()
    half = 0.5 * plain_metrics["loss"] + 0.5 * soft["loss"]
    assert metrics["loss"] == pytest.approx(half, rel=1e-5)
    for path, gradient in gradients.items():
        np.testing.assert_allclose(gradient, (full[path] + plain[path]) / 2, rtol=1e-3, atol=1e-5)


def test_the_loss_and_its_gradient_are_those_of_keras(trainer) -> None:
    import tensorflow as tf

    made = trainer()
    gradients, _, metrics = made.update()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    variables = made.made.quantized.trainable_variables
    with tf.GradientTape() as tape:
        logits = made.made.quantized(made.made.images, training=True)
        value = loss(made.made.labels, logits)
    assert metrics["loss"] == pytest.approx(float(value), rel=1e-6)
    assert metrics["accuracy"] == np.mean(np.argmax(logits, -1) == made.made.labels)
    for variable, gradient in zip(variables, tape.gradient(value, [v.value for v in variables]), strict=True):
        np.testing.assert_allclose(gradients[variable.path], gradient, rtol=1e-4, atol=1e-6)


def test_a_compiled_step_with_rate_zero_leaves_every_weight_bitwise(trainer) -> None:
    made = trainer(asga(), limits=LIMITS, dropout=0.3)
    made.model.compile(optimizer=QuantizationOptimizer(0.0), jit_compile=False)
    images, labels = made.made.images, made.made.labels
    eager = made.update()[2]
    before = {v.path: v.numpy() for v in made.model.trainable_variables}
    history = made.model.fit(images, labels, batch_size=len(images), shuffle=False, verbose=0).history
    metrics = {name: values[0] for name, values in history.items()}
    for variable in made.model.trainable_variables:
        np.testing.assert_array_equal(variable.numpy(), before[variable.path])
    # What was traced is what was tested above, piece by piece.
    for name, value in eager.items():
        assert float(metrics[name]) == pytest.approx(value, rel=1e-3, abs=1e-5), name
    plain = made.made.quantized.predict(images, verbose=0)
    np.testing.assert_array_equal(made.model.predict(images, verbose=0), plain)  # inference never perturbs
