"""Labels are classes or numbers, by what they hold and never by a batch of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tfmpq.data.labels import as_labels
from tfmpq.data.objects import open_data, open_test
from tfmpq.data.sources import load_dataset
from tfmpq.errors import UsageError

CLASSES = np.arange(12) % 4
IMAGES = np.random.default_rng(0).uniform(0, 1, (12, 4, 4, 3)).astype(np.float32)
SEVERAL = (np.arange(36).reshape(12, 3) % 5 < 3).astype(np.uint8)
VALUES = np.linspace(-3, 7, 12)
MAPS = IMAGES[..., :1] * 2


@pytest.mark.parametrize(
    "given",
    [
        CLASSES,
        CLASSES.astype(np.uint8)[:, None],
        CLASSES.astype(np.float32),
        np.eye(4)[CLASSES],
        np.eye(4)[CLASSES] * 0.9 + 0.025,
    ],
    ids=["numbers", "a column", "floats", "one-hot", "smoothed"],
)
def test_classes_are_whole_numbers_however_they_are_written(given: np.ndarray) -> None:
    found = as_labels(given, "here")
    assert found.dtype == np.int64
    np.testing.assert_array_equal(found, CLASSES)


@pytest.mark.parametrize(
    "given",
    [VALUES, VALUES[:, None], VALUES - VALUES % 1, SEVERAL, np.full((12, 4), 0.25), MAPS],
    ids=["values", "a column", "negative whole", "several labels", "shares", "maps"],
)
def test_all_else_stays_as_it_is(given: np.ndarray) -> None:
    found = as_labels(given, "here")
    assert found.dtype == np.float32
    assert found.shape == (given.shape if given.shape != (12, 1) else (12,))
    np.testing.assert_array_equal(found.ravel(), given.astype(np.float32).ravel())


def test_labels_are_judged_together_and_not_by_batch() -> None:
    """The first batches of these rows look one-hot, and whole numbers like classes."""
    rows = np.concatenate([np.eye(3)[[0, 1, 2, 1]], SEVERAL[:8]])
    values = np.concatenate([np.arange(4.0), VALUES[:8]])
    for labels in (rows, values):
        batches = [(IMAGES[i : i + 4], labels[i : i + 4]) for i in (0, 4, 8)]
        for data in (open_test(batches), open_data(batches[:2], batches[2:])):
            assert data.numeric
            assert data.labelled
            assert data.classes == 0
            assert data.test.labels.dtype == np.float32


def test_two_images_of_one_shape_are_input_and_label() -> None:
    found = open_data((IMAGES, MAPS))
    assert found.train.labels.shape == (9, 4, 4, 1)
    assert open_data((IMAGES, MAPS)).fingerprint == found.fingerprint
    assert open_data((IMAGES, MAPS * 2)).fingerprint != found.fingerprint
    assert not open_test([IMAGES, IMAGES]).labelled


def test_vectors_are_data_too() -> None:
    found = open_test((IMAGES.reshape(12, -1), CLASSES))
    assert found.test.array is not None
    assert found.test.array.shape == (12, 1, 1, 48)


def test_files_hold_numbers_as_well(tmp_path: Path) -> None:
    np.savez(tmp_path / "v1.2_train.npz", x=IMAGES, y=np.arange(12.0))
    np.savez(tmp_path / "v1.2_test.npz", x=IMAGES[:5], y=VALUES[:5])
    found = load_dataset(f"npz:{tmp_path / 'v1.2'}")
    assert found.numeric
    assert found.train.labels.dtype == np.float32
    np.testing.assert_allclose(found.test.labels, VALUES[:5], rtol=1e-6)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (np.array(["cat", "dog"]), "Labels are whole numbers"),
        (np.array([0.5, np.nan]), "Labels are finite"),
        (np.array([1, -1]), "-1 in here"),
        (np.array(3), "shape"),
    ],
)
def test_labels_that_mean_nothing_are_refused(given: np.ndarray, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        as_labels(given, "here")


def test_parts_with_labels_of_other_shapes_are_refused() -> None:
    with pytest.raises(UsageError, match=r"\(2,\) and \(3,\)"):
        open_data((IMAGES, MAPS[:, 0, :2, 0]), (IMAGES, MAPS[:, 0, :3, 0]))
