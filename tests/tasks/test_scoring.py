"""Top-1 and top-5 of several outputs, against counting by hand."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfmpq.data import Split
from tfmpq.tasks.outputs import Output
from tfmpq.tasks.sampling import drawn
from tfmpq.tasks.scoring import OutputScore, Score, score_outputs

CLASSES = 7
OUTPUTS = (Output("map", (4, 4, 9)), Output("wide", (9,)), Output("few", (6,)), Output("pixel", (1, 1, 7)))


def split(first: int, count: int) -> Split:
    """Images whose pixel is their number, and labels."""
    numbers = np.arange(first, first + count)
    images = np.broadcast_to(numbers[:, None, None, None], (count, 4, 4, 1)).astype(np.uint8)
    return Split((numbers * 5) % CLASSES, np.ascontiguousarray(images))


def logits(number: int, output: Output) -> np.ndarray:
    """Small whole numbers, so that ties are common."""
    return np.random.default_rng([number, *output.shape]).integers(0, 5, output.shape).astype(np.float32)


def predict(images: np.ndarray) -> list[np.ndarray]:
    numbers = images[:, 0, 0, 0].astype(int)
    return [np.stack([logits(number, output) for number in numbers]) for output in OUTPUTS]


def by_hand(numbers: Sequence[int], output: Output) -> tuple[float, float]:
    """How often fewer than one, and than five, numbers come before that of the label."""
    ranks = []
    for number in numbers:
        row, label = logits(number, output).reshape(-1), number * 5 % CLASSES
        ranks.append(sum(value > row[label] for value in row) + sum(row[:label] == row[label]))
    return np.mean(np.array(ranks) < 1), np.mean(np.array(ranks) < 5)


@given(sizes=st.lists(st.integers(0, 90), max_size=2), limit=st.none() | st.integers(1, 150))
def test_every_output_that_can_be_a_classifier_is_scored(sizes: list[int], limit: int | None) -> None:
    splits = [split(100 * index, size) for index, size in enumerate(sizes)]
    numbers: list[int] = []
    for index, part in enumerate(splits):
        left = len(part) if limit is None else min(len(part), limit - len(numbers))
        chosen = drawn(part, left) if left < len(part) else range(left)
        numbers += [100 * index + int(number) for number in chosen]
    found = score_outputs(predict, OUTPUTS, CLASSES, splits, (4, 4, 1), "none", limit)
    assert [row.name for row in found.outputs] == [output.name for output in OUTPUTS]
    assert found.outputs[0].left_out == "shape (4, 4, 9), which is no row of numbers"
    assert found.outputs[2] == OutputScore("few", None, None, "6 numbers for 7 classes")
    if not numbers:
        assert found.first is None
        assert [found.outputs[index].left_out for index in (1, 3)] == ["no images", "no images"]
        return
    for index in (1, 3):
        row = found.outputs[index]
        assert (row.top1, row.top5) == pytest.approx(by_hand(numbers, OUTPUTS[index]))
        assert row.left_out is None
    assert found.first == Score(found.outputs[1].top1, found.outputs[1].top5, len(numbers))


def test_nothing_is_run_where_nothing_can_be_scored() -> None:
    def never(images: np.ndarray) -> list[np.ndarray]:
        raise AssertionError

    found = score_outputs(never, OUTPUTS[:1], CLASSES, [split(0, 3)], (4, 4, 1), "none")
    assert found.first is None
    assert len(found.outputs) == 1


@pytest.mark.parametrize("shape", [(), (2, 7), (7, 1, 7)])
def test_an_output_that_is_no_row_of_numbers_has_no_classes(shape: tuple[int, ...]) -> None:
    assert Output("x", shape).obstacle(7) == f"shape {shape}, which is no row of numbers"
    assert Output("x", (7,)).obstacle(7) is None


@pytest.mark.parametrize("cut", [0.0, 0.5])
def test_a_single_number_tells_two_classes_apart(cut: float) -> None:
    numbers = np.array([-1.0, 0.2, 0.7, 0.4, cut, 2.0], np.float32)
    labels = np.array([0, 1, 1, 0, 1, 0])
    split = Split(labels, np.zeros((6, 4, 4, 1), np.uint8))
    scores = score_outputs(
        lambda images: [numbers[: len(images), None]],
        [Output("one", (1,), cut)],
        2,
        [split],
        (4, 4, 1),
        "none",
    )
    assert scores.first is not None
    assert scores.first.top1 == np.mean((numbers > cut) == labels)
    assert scores.outputs[0].left_out is None
    assert Output("one", (1,)).obstacle(3) == "1 numbers for 3 classes"
