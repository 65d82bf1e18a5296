"""What a network is trained for follows from its output and the labels."""

from __future__ import annotations

import numpy as np
import pytest

from tfmpq.errors import UsageError
from tfmpq.tasks.kinds import objective_for
from tfmpq.tasks.outputs import PROBABILITY, Output

CLASSES = np.arange(12) % 4
TWO = np.arange(12) % 2
FLOATS = np.random.default_rng(0).normal(size=(12, 4)).astype(np.float32)
YES_NO = (FLOATS > 0).astype(np.float32)
MAPS = np.random.default_rng(1).uniform(size=(12, 5, 5, 1)).astype(np.float32)


@pytest.mark.parametrize(
    ("shape", "sigmoid", "labels", "classes", "kind"),
    [
        ((4,), False, CLASSES, 4, "classes"),
        ((9,), False, CLASSES, 4, "classes"),
        ((4,), True, CLASSES, 4, "one against the rest"),
        ((1,), False, TWO, 2, "binary"),
        ((1,), True, TWO, 2, "binary"),
        ((1,), False, CLASSES, 4, "values"),
        ((4,), True, YES_NO, 0, "several labels"),
        ((4,), False, YES_NO, 0, "several labels"),
        ((4,), False, FLOATS, 0, "values"),
        ((1, 1, 4), False, FLOATS, 0, "values"),
        ((4,), True, FLOATS**2 / 100, 0, "values"),
        ((5, 5, 1), False, MAPS, 0, "values"),
        ((5, 5, 1), False, MAPS[..., 0], 0, "values"),
        ((5, 5, 1), True, np.round(MAPS), 0, "several labels"),
        ((5, 5, 1), False, np.round(MAPS), 0, "values"),
    ],
)
def test_the_kind_of_a_task(
    shape: tuple[int, ...], sigmoid: bool, labels: np.ndarray, classes: int, kind: str
) -> None:
    output = Output("last", shape, PROBABILITY if sigmoid else 0.0)
    assert objective_for(output, labels, classes).name == kind


def test_answers_of_a_network_with_a_sigmoid_are_probabilities_to_imitate() -> None:
    soft = np.random.default_rng(2).uniform(size=(12, 4)).astype(np.float32)
    assert objective_for(Output("last", (4,), PROBABILITY), soft, 0, answers=True).name == "several labels"
    assert objective_for(Output("last", (4,)), np.round(soft), 0, answers=True).name == "values"


@pytest.mark.parametrize(
    ("shape", "labels", "classes", "words"),
    [
        ((3,), CLASSES, 4, "3 numbers for 4 classes"),
        ((5, 5, 4), CLASSES, 4, "no row of numbers"),
        ((3,), FLOATS, 0, r"\(4,\) for output last of \(3,\)"),
        ((4,), np.ones((12, 4), np.float32) * 0.3, 0, "same label for all images"),
    ],
)
def test_labels_that_do_not_fit_are_refused(
    shape: tuple[int, ...], labels: np.ndarray, classes: int, words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        objective_for(Output("last", shape), labels, classes)
