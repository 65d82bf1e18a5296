"""What a network is trained for, against the formulas in float64."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from scipy.special import expit, log_expit, log_softmax, softmax

from tfmpq.tasks.objective import CLASSES, one_against_rest, values, yes_or_no
from tfmpq.training.float_training import FloatTraining
from tfmpq.training.landscape import Landscape
from tfmpq.training.step import Distillation, QuantizedTraining

GENERATOR = np.random.default_rng(5)
LOGITS = GENERATOR.normal(0, 3, (50, 7)).astype("float32")
OTHERS = GENERATOR.normal(0, 3, (50, 7)).astype("float32")
LABELS = GENERATOR.integers(0, 7, 50)


def test_the_loss_of_classes_is_the_mean_negative_log_probability_of_the_label() -> None:
    expected = -np.mean(log_softmax(LOGITS.astype(np.float64), axis=-1)[np.arange(50), LABELS])
    assert float(CLASSES.loss(LABELS, LOGITS)) == pytest.approx(expected, rel=1e-5)


def test_imitation_is_the_cross_entropy_to_the_teachers_probabilities() -> None:
    teacher = softmax(OTHERS.astype(np.float64), axis=-1)
    expected = -np.mean(np.sum(teacher * log_softmax(LOGITS.astype(np.float64), axis=-1), axis=-1))
    found = CLASSES.imitation(CLASSES.soft_targets(OTHERS), LOGITS)
    assert float(found) == pytest.approx(expected, rel=1e-5)


def test_imitation_is_least_where_both_say_the_same_and_there_it_is_the_divergence_from_it() -> None:
    """Cross-entropy is entropy and divergence: the difference of two imitations is a divergence."""
    own = float(CLASSES.imitation(CLASSES.soft_targets(OTHERS), OTHERS))
    other = float(CLASSES.imitation(CLASSES.soft_targets(OTHERS), LOGITS))
    assert CLASSES.divergence(OTHERS, OTHERS) == 0.0
    assert CLASSES.divergence(OTHERS, LOGITS) == pytest.approx(other - own, rel=1e-5)


def test_the_score_of_classes_is_the_share_of_labels_with_the_largest_logit() -> None:
    assert float(CLASSES.score(LABELS, LOGITS)) == pytest.approx(np.mean(LOGITS.argmax(-1) == LABELS))


@pytest.fixture(scope="module")
def trainings() -> tuple[keras.Model, keras.Model]:
    keras.utils.set_random_seed(0)
    image = keras.Input((4, 4, 1))
    outputs = keras.layers.Dense(3)(keras.layers.Flatten()(image))
    plain, quantized = FloatTraining(image, outputs), QuantizedTraining(image, outputs)
    quantized.configure(distillation=Distillation(plain, 0.25))
    for model in (plain, quantized):
        model.compile(optimizer=keras.optimizers.SGD(0.0))
    return plain, quantized


def test_every_training_and_the_loss_around_a_model_have_the_objectives_loss(
    trainings: tuple[keras.Model, keras.Model],
) -> None:
    plain, quantized = trainings
    images = GENERATOR.normal(size=(16, 4, 4, 1)).astype("float32")
    labels = GENERATOR.integers(0, 3, 16)
    logits = np.asarray(plain(images))
    loss = float(CLASSES.loss(labels, logits))
    soft = float(CLASSES.imitation(CLASSES.soft_targets(logits), logits))
    for model, expected in ((plain, loss), (quantized, 0.75 * loss + 0.25 * soft)):
        logs = model.fit(images, labels, batch_size=16, verbose=0).history
        assert logs["loss"][0] == pytest.approx(expected, rel=1e-5)
        assert logs["accuracy"][0] == pytest.approx(float(CLASSES.score(labels, logits)))
    around = Landscape(plain, images, labels)
    assert around.loss(np.zeros(around.size)) == pytest.approx(loss, rel=1e-5)


YES_NO = GENERATOR.integers(0, 2, (50, 7))


def in_logits(outputs: np.ndarray, probabilities: bool) -> np.ndarray:
    return expit(outputs) if probabilities else outputs


@pytest.mark.parametrize("probabilities", [False, True])
def test_answers_of_yes_or_no_have_the_cross_entropy_of_each(probabilities: bool) -> None:
    objective = yes_or_no("several labels", probabilities)
    logits = np.clip(LOGITS, -5, 5).astype(np.float64)
    expected = -np.mean(YES_NO * log_expit(logits) + (1 - YES_NO) * log_expit(-logits))
    outputs = in_logits(logits, probabilities).astype("float32")
    assert float(objective.loss(YES_NO, outputs)) == pytest.approx(expected, rel=1e-4)
    assert float(objective.score(YES_NO, outputs)) == pytest.approx(np.mean((logits > 0) == YES_NO))
    one = one_against_rest(probabilities)
    assert float(one.loss(LABELS, outputs)) == pytest.approx(
        float(objective.loss(np.eye(7)[LABELS], outputs)), rel=1e-6
    )
    assert float(one.score(LABELS, outputs)) == np.mean(LOGITS.argmax(1) == LABELS).astype("float32")


@pytest.mark.parametrize("probabilities", [False, True])
def test_the_divergence_of_yes_or_no_is_the_difference_of_two_imitations(probabilities: bool) -> None:
    objective = yes_or_no("several labels", probabilities)
    own, other = (in_logits(np.clip(x, -4, 4), probabilities) for x in (OTHERS, LOGITS))
    targets = objective.soft_targets(own)
    found = float(objective.imitation(targets, other)) - float(objective.imitation(targets, own))
    assert objective.divergence(own, own) == 0.0
    assert objective.divergence(own, other) == pytest.approx(found, rel=1e-4)


@pytest.mark.parametrize("unit", [1e-6, 1.0, 1e6])
def test_the_loss_of_values_has_no_unit_and_its_score_is_r_squared(unit: float) -> None:
    labels = (LOGITS * unit).astype("float32")
    outputs = ((LOGITS + 0.3 * OTHERS) * unit).astype("float32")
    variance = float(np.mean(np.var(labels.astype(np.float64), axis=0)))
    objective = values(variance)
    expected = np.mean((0.3 * OTHERS.astype(np.float64)) ** 2) / np.mean(np.var(LOGITS, axis=0))
    assert float(objective.loss(labels, outputs)) == pytest.approx(expected, rel=1e-3)
    assert float(objective.score(labels, outputs)) == pytest.approx(1 - expected, rel=1e-3)
    assert objective.divergence(labels, outputs) == pytest.approx(expected, rel=1e-3)
    assert objective.unit == pytest.approx(np.sqrt(variance))


def test_the_course_of_a_training_does_not_depend_on_the_unit_of_the_labels() -> None:
    """Powers of two, so that both courses are the same to the last bit."""
    images = GENERATOR.normal(size=(32, 4, 4, 1)).astype("float32")
    labels = images.mean((1, 2)) + 0.5 * images[:, 0, 0]
    found = []
    for unit in (1.0, 2.0**-12):
        keras.utils.set_random_seed(0)
        image = keras.Input((4, 4, 1))
        x = keras.layers.Dense(5, activation="relu", name="hidden")(keras.layers.Flatten()(image))
        x = keras.layers.Reshape((1, 1))(keras.layers.Dense(1, name="last")(x))
        model = FloatTraining(image, keras.layers.Flatten()(x))
        last = model.get_layer("last")
        last.set_weights([weight * unit for weight in last.get_weights()])
        model.objective = values(float(np.var(labels)) * unit**2)
        model.compile(keras.optimizers.SGD(0.05, momentum=0.9))
        model.fit(images, labels * unit, batch_size=8, epochs=3, shuffle=False, verbose=0)
        kernels = [np.asarray(model.get_layer(name).kernel) for name in ("hidden", "last")]
        found.append((kernels[0], kernels[1] / unit))
    for one, other in zip(*found, strict=True):
        np.testing.assert_array_equal(one, other)
