"""Networks of every kind of task are searched, fine-tuned, exported, proved and scored."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

import tfmpq
from tfmpq.tasks.score_names import ACCURACY, EXPLAINED, LABEL_ACCURACY

COUNT, SHAPE = 240, (8, 8, 2)


@dataclass(frozen=True)
class Case:
    """A task that a small network has learned.

    Attributes:
        labels: Images to labels.
        score: Name of its score.
        sigmoid: Whether the network ends in one.
        pooled: Whether its output is one row of numbers for an image; else a map.
        logits: Labels to what the last layer is fitted to.
    """

    labels: Callable[[np.ndarray], Any]
    score: str = EXPLAINED
    sigmoid: bool = False
    pooled: bool = True
    logits: Callable[[np.ndarray], np.ndarray] = lambda labels: labels


def contrast(images: np.ndarray) -> np.ndarray:
    """One number for an image, about 0 with deviation 1."""
    found = images[..., 0].mean((1, 2)) - images[..., 1].mean((1, 2))
    return (found - found.mean()) / found.std()


def halves(images: np.ndarray) -> np.ndarray:
    """Three numbers for an image."""
    return np.stack([contrast(images[:, :4]), contrast(images[:, 4:]), contrast(images)], axis=1)


def sides(labels: np.ndarray) -> np.ndarray:
    """Logits of yes and no."""
    return 6.0 * (labels.reshape(COUNT, -1) > 0.5) - 3.0


CASES = {
    "binary, with a sigmoid": Case(
        lambda images: (contrast(images) > 0).astype(np.int64), ACCURACY, sigmoid=True, logits=sides
    ),
    "binary, logits": Case(
        lambda images: (contrast(images) > 0).astype(np.float32)[:, None], ACCURACY, logits=sides
    ),
    "several labels": Case(
        lambda images: (halves(images) > 0).astype(np.int64), LABEL_ACCURACY, sigmoid=True, logits=sides
    ),
    "classes, with sigmoids": Case(
        lambda images: np.digitize(contrast(images), [-0.5, 0.5]),
        ACCURACY,
        sigmoid=True,
        logits=lambda labels: 6.0 * np.eye(3)[labels] - 3.0,
    ),
    "a value in a large unit": Case(lambda images: contrast(images) * 1e-3 + 2e-3),
    "a vector in a small unit": Case(lambda images: halves(images) * 400),
    "a map": Case(lambda images: images[..., :1] - images[..., 1:], pooled=False),
    "an embedding, without labels": Case(lambda images: None, logits=lambda labels: labels),
}


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    generator = np.random.default_rng(3)
    level = generator.uniform(0, 1, (COUNT, 2, 1, 2)).repeat(4, 1)
    return np.clip(level + generator.normal(0, 0.2, (COUNT, *SHAPE)), 0, 1).astype(np.float32)


def network(case: Case, images: np.ndarray, labels: Any) -> keras.Model:
    """Smoothed images and a last layer of least squared error, with small weights."""
    keras.utils.set_random_seed(1)
    image = keras.Input(SHAPE)
    x = layers.Conv2D(6, 3, padding="same", name="stem")(image)
    norm = layers.BatchNormalization()
    stem, x = keras.Model(image, x), norm(x)
    x = layers.Conv2D(6, 3, padding="same", activation="relu", name="body")(layers.ReLU()(x))
    x = layers.Flatten()(layers.AveragePooling2D((4, 8))(x)) if case.pooled else x
    model = keras.Model(image, x)
    for name, same in (("stem", 2), ("body", 6)):
        kernel = np.random.default_rng(same).normal(0, 0.05, (3, 3, same, 6))
        kernel[:, :, np.arange(6) % same, np.arange(6)] += 1 / 9
        model.get_layer(name).set_weights([kernel, np.full(6, 0.05)])
    found = np.asarray(stem(images))
    mean, variance = found.mean((0, 1, 2)), found.var((0, 1, 2))
    norm.set_weights([np.sqrt(variance), mean, mean, variance])
    features = np.asarray(model(images, training=False))
    goal = halves(images) if labels is None else case.logits(labels)
    last = layers.Dense(1 if goal.ndim == 1 else goal.shape[-1]) if case.pooled else layers.Conv2D(1, 1)
    y = last(x)
    features = np.concatenate([features, np.ones((*features.shape[:-1], 1))], axis=-1)
    width = features.shape[-1]
    rows, goals = features.reshape(-1, width), goal.reshape(-1, y.shape[-1])
    moments = rows.T @ rows
    solved = np.linalg.solve(moments + 1e-3 * np.trace(moments) / width * np.eye(width), rows.T @ goals)
    last.set_weights([solved[:-1].reshape(last.kernel.shape), solved[-1]])
    return keras.Model(image, layers.Activation("sigmoid")(y) if case.sigmoid else y)


FAST = ("binary, with a sigmoid", "a value in a large unit")


@pytest.mark.parametrize(
    "name", [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in CASES]
)
def test_a_task_is_searched_fine_tuned_exported_and_scored(
    name: str, images: np.ndarray, tmp_path: Path
) -> None:
    case = CASES[name]
    labels = case.labels(images)
    data = images if labels is None else (images, labels)
    model = network(case, images, labels)
    quick = {"batch_size": 32, "progress": False}
    found = tfmpq.search(model, data, method="sensitivity", budget="size=0.7x", **quick)
    start = found.accuracy["policy_without_finetuning"] if labels is None else found.accuracy["float"]
    assert found.score_name == case.score
    tuned = tfmpq.finetune(found, data, epochs=5, **quick)
    assert (tuned.score_name, tuned.top1 is None) == (case.score, case.score != ACCURACY)
    assert tuned.score is not None
    assert 0.6 < start < tuned.score + 0.2
    made = tfmpq.export(tuned, out=tmp_path / "x.tflite", progress=False)
    assert made.verification.passed
    assert made.fidelity is not None
    assert (made.fidelity.outputs[0].snr_db or 0) > 20
    assert tfmpq.verify(made, against=tuned, progress=False).passed
    if labels is not None:
        scored = tfmpq.evaluate(made, data, progress=False)
        assert scored.score_name == case.score
        assert scored.score > tuned.score - 0.1
