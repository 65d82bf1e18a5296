"""What a network is trained for, against the formulas in float64."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from scipy.special import log_softmax, softmax

from tfmpq.tasks.objective import CLASSES
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
