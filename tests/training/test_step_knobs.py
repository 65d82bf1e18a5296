"""The knobs of the training step: other updates, other norms, a second gradient now and then."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from keras import layers, ops

from tfmpq.training import sharpness, step
from tfmpq.training.optimizer import QuantizationOptimizer
from tfmpq.training.sharpness import RadiusSchedule
from tfmpq.training.step import QuantizedTraining, SharpnessOptions

RHO, CLASSES = 0.05, 4


def options(**knobs: Any) -> SharpnessOptions:
    return SharpnessOptions(RadiusSchedule("fixed", rho_max=RHO), **knobs)


class Recorded:
    """The gradients of every pass, and the ascents."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.gradients: list[list[np.ndarray]] = []
        self.ascents: list[tuple[tuple[Any, ...], sharpness.Ascent]] = []
        gradient, ascent = step.batch_value_and_gradient, sharpness.ascent

        def watched(function: Any, inputs: Any) -> Any:
            found = gradient(function, inputs)
            self.gradients.append([np.asarray(g) for g in found[1]])
            return found

        def watched_ascent(*arguments: Any) -> Any:
            found = ascent(*arguments)
            self.ascents.append((arguments, found))
            return found

        monkeypatch.setattr(step, "batch_value_and_gradient", watched)
        monkeypatch.setattr(sharpness, "ascent", watched_ascent)


def norm(parts: Any) -> float:
    return float(np.sqrt(sum(np.sum(np.square(np.asarray(p, np.float64))) for p in parts)))


def test_sam_descends_the_second_gradient_only(trainer, monkeypatch) -> None:
    recorded = Recorded(monkeypatch)
    gradients, _, _ = trainer(options(alpha=0.0, update="second")).update()
    for got, wanted in zip(gradients.values(), recorded.gradients[1], strict=False):
        np.testing.assert_array_equal(got, wanted)


def test_gsam_takes_the_orthogonal_part_from_the_weights_and_leaves_the_choices(trainer, monkeypatch) -> None:
    recorded = Recorded(monkeypatch)
    gradients, _, _ = trainer(options(alpha=0.4, update="gap-guided")).update()
    first, second = recorded.gradients
    names = list(gradients)
    weights = [i for i, n in enumerate(names) if n.endswith(("kernel", "gamma", "beta", "bias"))]
    inner = sum(np.vdot(first[i].astype(np.float64), second[i]) for i in weights)
    share = inner / norm(second[i] for i in weights) ** 2
    moved = 0.0
    for i, name in enumerate(names):
        wanted = second[i]
        if i in weights:
            wanted = second[i] - 0.4 * (first[i] - share * second[i])
            moved += np.vdot(gradients[name].astype(np.float64), second[i])
        np.testing.assert_allclose(gradients[name], wanted, rtol=1e-4, atol=1e-6)
    assert moved == pytest.approx(norm(second[i] for i in weights) ** 2, rel=1e-4)
    assert [float(a) for a in recorded.ascents[0][1].alphas] == [0.0]  # SAM's radius


def test_adaptive_perturbs_in_proportion_to_the_quantized_weights(trainer, monkeypatch) -> None:
    recorded = Recorded(monkeypatch)
    made = trainer(options(adaptive=True))
    made.update()
    (gradients, *_), found = recorded.ascents[0]
    kernels = made.model._wrappers
    scales = [np.abs(np.asarray(w.quantized_kernel())) + 0.01 for w in kernels]
    for wrapper, scale, gradient, delta in zip(kernels, scales, gradients, found.deltas, strict=False):
        direction = scale**2 * np.asarray(gradient)
        cosine = np.vdot(direction, delta) / (np.linalg.norm(direction) * np.linalg.norm(delta))
        assert cosine == pytest.approx(1, abs=1e-5), wrapper.name
    assert float(found.norm) != pytest.approx(norm(gradients), rel=0.1)


def test_latent_weights_can_be_perturbed_in_proportion_too(trainer, monkeypatch) -> None:
    recorded = Recorded(monkeypatch)
    made = trainer(options(adaptive=True, perturb="latent"))
    made.update()
    (_, _, _, scales, _), _ = recorded.ascents[0]
    paths = [made.model.trainable_variables[i].path for i in made.model.ball.latent]
    by_path = {v.path: v.numpy() for v in made.model.trainable_variables}
    for path, scale in zip(paths, scales, strict=True):
        added = path.endswith(("beta", "bias"))
        wanted = np.ones_like(by_path[path]) if added else np.abs(by_path[path]) + 0.01
        np.testing.assert_allclose(scale, wanted, rtol=1e-6)


def test_with_a_norm_a_layer_every_layer_moves_as_far(trainer, monkeypatch) -> None:
    recorded = Recorded(monkeypatch)
    trainer(options(alpha=0.0, norm="layer")).update()
    (*_, groups), found = recorded.ascents[0]
    assert sorted(i for members in groups for i in members) == list(range(len(found.deltas)))
    lengths = [norm(found.deltas[i] for i in members) for members in groups]
    np.testing.assert_allclose(lengths, RHO / np.sqrt(len(groups)), rtol=1e-4)
    assert norm(found.deltas) == pytest.approx(RHO, rel=1e-4)


def advance(made: Any) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """One step without an update of the weights; the state is kept."""
    trainable, state = made.tensors()
    images, labels = ops.convert_to_tensor(made.made.images), ops.convert_to_tensor(made.made.labels)
    gradients, new, metrics = made.model.compute_update(trainable, state, images, labels)
    for variable, value in zip(made.model.non_trainable_variables, new, strict=True):
        variable.assign(value)
    names = [v.path for v in made.model.trainable_variables]
    return (
        {n: np.asarray(g) for n, g in zip(names, gradients, strict=True)},
        {name: float(value) for name, value in metrics.items()},
    )


def test_the_second_gradient_is_taken_every_few_steps(trainer, monkeypatch) -> None:
    """1 + 1/k passes on average; in between the metrics are those of the last one."""
    every, _, always = trainer(options()).update()
    recorded = Recorded(monkeypatch)
    made = trainer(options(second_gradient_every=3))
    steps = [advance(made) for _ in range(6)]
    assert [m["second_gradient"] for _, m in steps] == [1, 0, 0, 1, 0, 0]
    assert len(recorded.gradients) == 6 + 2
    first = steps[0]
    for name, gradient in first[0].items():
        np.testing.assert_array_equal(gradient, every[name])
    for name, value in always.items():
        assert first[1][name] == value
    for _, metrics in steps[1:3]:
        assert {k: metrics[k] for k in ("gap", "rho", "gradient_cosine")} == {
            k: first[1][k] for k in ("gap", "rho", "gradient_cosine")
        }


def test_what_is_reused_is_closer_to_what_would_be_taken_than_nothing(trainer) -> None:
    """At the same weights, so that only the part along g is lost."""
    taken, _, _ = trainer(options(alpha=0.0, update="second")).update()
    plain, _, _ = trainer().update()
    made = trainer(options(alpha=0.0, update="second", second_gradient_every=2))
    advance(made)
    reused, _ = advance(made)

    def cosine(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> float:
        names = [n for n in one if n.endswith("kernel")]
        product = sum(float(np.vdot(one[n], other[n])) for n in names)
        return product / (norm(one[n] for n in names) * norm(other[n] for n in names))

    assert cosine(reused, taken) > cosine(plain, taken) + 0.1


def two_layers() -> keras.Model:
    image = keras.Input((8, 8, 3), name="image")
    x = layers.ReLU(name="relu")(layers.Conv2D(4, 3, strides=2, name="stem")(image))
    x = layers.Dropout(0.2, seed=1)(layers.GlobalAveragePooling2D(name="gap")(x))
    return keras.Model(image, layers.Dense(CLASSES, name="logits")(x))


def test_compiled_steps_are_those_of_eager_ones(trainer) -> None:
    knobs = {"second_gradient_every": 2, "adaptive": True, "norm": "layer", "update": "gap-guided"}
    eager = trainer(options(**knobs), limits={"size": 0.5}, build=two_layers)
    wanted = [advance(eager)[1] for _ in range(3)]
    made = trainer(options(**knobs), limits={"size": 0.5}, build=two_layers)
    made.model.compile(optimizer=QuantizationOptimizer(0.0), jit_compile=False)
    images, labels = made.made.images, made.made.labels
    got = [
        made.model.fit(images, labels, batch_size=len(images), shuffle=False, verbose=0).history
        for _ in range(3)
    ]
    for metrics, history in zip(wanted, got, strict=True):
        for name, value in metrics.items():
            # With a rate of zero, Adam's and SGD's updates leave everything; multipliers still rise.
            assert float(history[name][0]) == pytest.approx(value, rel=2e-3, abs=1e-4), name


def test_what_is_expected_is_always_reported(trainer) -> None:
    _, _, metrics = trainer(options(), limits={"size": 0.5}).update()
    assert {"expected_size", "expected_bops", "expected_weight-bits", "expected_bits"} <= set(metrics)
    assert 0 < metrics["entropy"] < np.log(3)
    assert metrics["rho_at_cap"] == 1.0


def test_a_radius_below_the_cap_is_reported(trainer) -> None:
    made = trainer(SharpnessOptions(RadiusSchedule("direct", rho_max=10.0, rho_min=0.02)))
    assert [advance(made)[1]["rho_at_cap"] for _ in range(3)] == [1.0, 0.0, 0.0]


def test_the_memory_of_second_gradients_is_part_of_a_checkpoint(trainer) -> None:
    made = trainer(options(second_gradient_every=2))
    names = [v.path.split("/")[-1] for v in made.model.non_trainable_variables]
    assert {"steps_since_second", "second_metrics", "rejection_0"} <= set(names)
    assert isinstance(made.model, QuantizedTraining)
