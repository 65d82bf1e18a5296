"""A preprocessing that was not asked for is said, and held against labelled images."""

from __future__ import annotations

from dataclasses import replace

import keras
import numpy as np
import pytest
from keras import layers

from tfmpq.data import Split
from tfmpq.data.dataset import Dataset
from tfmpq.errors import UsageError
from tfmpq.models.preprocessing import Expected
from tfmpq.models.registry import LoadedModel
from tfmpq.progress import SilentReporter
from tfmpq.tasks.preprocessing_choice import candidate_scores, check_choice

CLASSES = 4
LABELS = np.arange(400) % CLASSES
PIXELS = np.random.default_rng(0).integers(60, 120, (400, 4, 4, 3))
PIXELS[np.arange(400), LABELS, :, :] += 100
SPLIT = Split(LABELS, PIXELS.astype(np.uint8))
DATA = Dataset("rows", CLASSES, None, SPLIT, SPLIT, "0")


class Told(SilentReporter):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def log(self, text: str) -> None:
        self.lines.append(text)


def knows(largest: float, *, blind: bool = False) -> LoadedModel:
    """Tells which row is bright, if pixels become numbers from 0 to `largest`; else it sees nothing."""
    image = keras.Input((4, 4, 3))
    floor, width = 120 / 255 * largest, 135 / 255 * largest
    # Outside of the upper half of the range all rows are alike.
    clipped = layers.ReLU(0.0 if blind else 1.0)(layers.Rescaling(1 / width, -floor / width)(image))
    rows = layers.AveragePooling1D(12, data_format="channels_first")(layers.Reshape((4, 12))(clipped))
    model = keras.Model(image, layers.Flatten()(rows))
    said = Expected("unit", "guess", "unit is taken. Give --preprocess to say it.")
    return LoadedModel(model, "mine", "unit", CLASSES, expectation=said)


def check(loaded: LoadedModel, dataset: Dataset | None = DATA, learns: bool = False) -> None:
    reporter = Told()
    check_choice(loaded, dataset, reporter, learns=learns)
    assert reporter.lines == ["mine: unit is taken. Give --preprocess to say it."]


def test_a_choice_that_fits_is_taken_and_said() -> None:
    assert candidate_scores(knows(1), SPLIT, CLASSES)["unit"] == 1.0
    check(knows(1))


def test_a_candidate_that_is_clearly_better_is_an_error_with_all_scores() -> None:
    with pytest.raises(UsageError, match=r"none 100\.0%, unit 2\d\.\d%, tf .*preprocess none"):
        check(knows(255))
    with pytest.raises(UsageError, match="preprocess none"):
        check(knows(255), learns=True)


def test_a_network_that_scores_near_chance_is_an_error_where_it_need_not_learn() -> None:
    with pytest.raises(UsageError, match=r"always the same class: 2\d\.\d%"):
        check(knows(1, blind=True))
    check(knows(1, blind=True), learns=True)


def test_networks_that_learned_nothing_and_built_in_ones_are_left_alone() -> None:
    check(knows(255), dataset=None)
    check_choice(replace(knows(255), expectation=None), DATA, Told(), learns=False)


def test_few_images_say_nothing() -> None:
    few = replace(DATA, test=SPLIT.take(np.arange(20)))
    check(knows(255), dataset=few)
