"""Calibration and comparison take a fixed random sample of a data set."""

from __future__ import annotations

import numpy as np

from tfmpq.data import Split
from tfmpq.tasks.sampling import drawn, sample

COUNT, CLASSES = 1000, 10
LABELS = np.arange(COUNT) // (COUNT // CLASSES)
SORTED = Split(LABELS, np.broadcast_to(LABELS.astype(np.uint8)[:, None, None, None], (COUNT, 4, 4, 1)))


def test_a_sample_of_sorted_images_holds_all_classes_in_their_shares() -> None:
    counts = np.bincount(SORTED.take(drawn(SORTED, 256)).labels, minlength=CLASSES)
    assert counts.sum() == 256
    assert counts.min() > 12  # expected 25.6, with a standard deviation of 4.1


def test_images_and_labels_stay_together_and_the_sample_is_the_same_always() -> None:
    first, again = (SORTED.take(drawn(SORTED, 64)) for _ in range(2))
    assert first.array is not None
    np.testing.assert_array_equal(first.array[:, 0, 0, 0], first.labels)
    np.testing.assert_array_equal(first.labels, again.labels)


def test_a_smaller_sample_begins_a_larger_one() -> None:
    np.testing.assert_array_equal(
        SORTED.take(drawn(SORTED, 256)).labels, SORTED.take(drawn(SORTED, 900)).labels[:256]
    )


def test_all_images_of_a_small_split_are_taken_once() -> None:
    images, labels = sample(SORTED, 5000, (4, 4, 1), "none")
    assert images.shape == (COUNT, 4, 4, 1)
    np.testing.assert_array_equal(images[:, 0, 0, 0], labels)
    np.testing.assert_array_equal(np.sort(images[:, 0, 0, 0]), LABELS)
