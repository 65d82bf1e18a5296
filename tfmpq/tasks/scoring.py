"""Scores: top-1 and top-5 where labels are classes, else what the objective says."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import keras
import numpy as np

from tfmpq.data import ImageBatches, Split
from tfmpq.progress import Reporter, SilentReporter
from tfmpq.tasks.model_outputs import outputs_of
from tfmpq.tasks.objective import CLASSES, Objective
from tfmpq.tasks.outputs import Output
from tfmpq.tasks.sampling import drawn
from tfmpq.tasks.score_names import ACCURACY

BATCH = 64

Predictor = Callable[[np.ndarray], Sequence[np.ndarray]]
"""Maps float32 images (N, height, width, channels) to an array (N, ...) for each output."""


@dataclass(frozen=True, slots=True)
class Score:
    """How well a network does over some images.

    Attributes:
        value: Mean over the images, at most 1; of classes, the share of right answers.
        top5: Of classes, the share of labels among the five largest numbers.
        count: Number of images.
        name: What `value` is; see `tfmpq.tasks.score_names`.
    """

    value: float
    top5: float | None
    count: int
    name: str = ACCURACY

    @property
    def top1(self) -> float | None:
        """Share of right answers, 0 to 1; None where labels are no classes."""
        return self.value if self.name == ACCURACY else None


@dataclass(frozen=True, slots=True)
class OutputScore:
    """How well one output of a network does.

    Attributes:
        name: Name of the output.
        top1: Share of images whose label has its largest number, 0 to 1; None if it was not scored.
        top5: Share whose label is among its five largest.
        left_out: Why it was not scored; None if it was.
    """

    name: str
    top1: float | None
    top5: float | None
    left_out: str | None


@dataclass(frozen=True, slots=True)
class Scores:
    """How well the outputs of a network do.

    Attributes:
        first: Score of the first output that was scored; None if none was.
        outputs: All outputs, in the order of the network.
    """

    first: Score | None
    outputs: tuple[OutputScore, ...]


def score_model(
    model: keras.Model,
    split: Split,
    preprocessing: str,
    limit: int | None = None,
    reporter: Reporter | None = None,
    objective: Objective = CLASSES,
) -> Score:
    """Run a network with one output over a split.

    Args:
        model: Maps float32 images (N, height, width, channels) to outputs (N, ...).
        split: Images and labels; at least one.
        preprocessing: Name of the preprocessing.
        limit: Only so many images, a fixed random sample.
        reporter: Told about progress.
        objective: What scores; one for the labels of this split.
    """
    height, width, channels = model.input_shape[1:]
    shape = (height, width, channels)
    run = predictor(model)
    if not objective.of_classes:
        return score_values(
            lambda images: run(images)[0], [split], shape, preprocessing, objective, limit, reporter
        )
    (output,) = outputs_of(model)
    return _scores(
        lambda images: [class_scores(output, run(images)[0])],
        1, [split], shape, preprocessing, limit, reporter,
    )[0]  # fmt: skip


def score_values(
    predict: Callable[[np.ndarray], np.ndarray],
    splits: Sequence[Split],
    image_shape: tuple[int, int, int],
    preprocessing: str,
    objective: Objective,
    limit: int | None = None,
    reporter: Reporter | None = None,
) -> Score:
    """Run a network over splits whose labels are no classes.

    Args:
        predict: The network: images to its one output.
        splits: Images and labels; one image at least.
        image_shape: (height, width, channels) that it takes.
        preprocessing: Name of the preprocessing.
        objective: What scores.
        limit: Only so many images, of all splits together; a fixed random sample.
        reporter: Told about progress.
    """
    total, seen = 0.0, 0
    for images, labels, tell in _batches(splits, image_shape, preprocessing, limit, reporter):
        answers = np.asarray(predict(images), np.float32)
        total += float(objective.score(labels, answers)) * len(labels)
        seen += len(labels)
        tell({"score": total / seen})
    return Score(total / seen, None, seen, objective.score_name)


def score_outputs(
    predict: Predictor,
    outputs: Sequence[Output],
    classes: int,
    splits: Sequence[Split],
    image_shape: tuple[int, int, int],
    preprocessing: str,
    limit: int | None = None,
    reporter: Reporter | None = None,
) -> Scores:
    """Run a network over splits, and score those of its outputs that can be classifiers.

    Args:
        predict: The network.
        outputs: What it gives, in order.
        classes: Classes of the data.
        splits: Images and labels.
        image_shape: (height, width, channels) that it takes.
        preprocessing: Name of the preprocessing.
        limit: Only so many images, of all splits together; a fixed random sample.
        reporter: Told about progress, with the top-1 of the first output that is scored.
    """
    obstacles = [output.obstacle(classes) for output in outputs]
    scored = [index for index, obstacle in enumerate(obstacles) if obstacle is None]

    def answers(images: np.ndarray) -> list[np.ndarray]:
        found = predict(images)
        return [class_scores(outputs[index], found[index]) for index in scored]

    found = []
    if scored:
        found = _scores(answers, len(scored), splits, image_shape, preprocessing, limit, reporter)
    reached = dict(zip(scored, found, strict=False))  # without images nothing is found
    return Scores(
        found[0] if found else None,
        tuple(
            OutputScore(output.name, reached[index].top1, reached[index].top5, None)
            if index in reached
            else OutputScore(output.name, None, None, obstacles[index] or "no images")
            for index, output in enumerate(outputs)
        ),
    )


def class_scores(output: Output, answer: np.ndarray) -> np.ndarray:
    """A row of numbers, one a class; of a single number the first class gets what it is held against."""
    if not output.binary:
        return np.asarray(answer).reshape(len(answer), -1)
    number = np.asarray(answer).reshape(len(answer), 1)
    return np.concatenate([np.full_like(number, output.cut), number], axis=1)


def predictor(model: keras.Model) -> Predictor:
    """What runs a Keras model: a batch of images to all of its outputs, in its order."""
    return lambda images: keras.tree.flatten(model.predict_on_batch(images))


def _scores(
    predict: Predictor,
    classifiers: int,
    splits: Sequence[Split],
    image_shape: tuple[int, int, int],
    preprocessing: str,
    limit: int | None,
    reporter: Reporter | None,
) -> list[Score]:
    """A score for each classifier; none without images."""
    right, seen = np.zeros((classifiers, 2), np.int64), 0
    for images, labels, tell in _batches(splits, image_shape, preprocessing, limit, reporter):
        right += np.array([_hits(logits, labels) for logits in predict(images)])
        seen += len(labels)
        tell({"top1": float(right[0, 0] / seen)})
    return [Score(first / seen, fifth / seen, seen) for first, fifth in right.tolist() if seen]


def _batches(
    splits: Sequence[Split],
    image_shape: tuple[int, int, int],
    preprocessing: str,
    limit: int | None,
    reporter: Reporter | None,
) -> Iterator[tuple[np.ndarray, np.ndarray, Callable[[dict[str, float]], None]]]:
    """Preprocessed images, their labels, and a function that is told the score so far."""
    reporter = reporter or SilentReporter()
    seen = 0
    for split in splits:
        end = seen + len(split) if limit is None else min(seen + len(split), limit)
        if end == seen:
            continue
        if end - seen < len(split):
            split = split.take(drawn(split, end - seen))
        reporter.start("evaluate", end - seen)
        batches = ImageBatches(
            split,
            BATCH,
            image_shape=image_shape,
            preprocessing=preprocessing,
            shuffle=False,
            drop_remainder=False,
        )
        for index in range(-(-(end - seen) // BATCH)):
            images, labels = batches[index]
            images, labels = images[: end - seen], np.asarray(labels[: end - seen])
            yield np.asarray(images, np.float32), labels, partial(reporter.advance, len(labels))
            seen += len(labels)
        reporter.finish()


def _hits(logits: np.ndarray, labels: np.ndarray) -> tuple[int, int]:
    """On how many images the label has the largest number, and one of the five largest."""
    rows = np.asarray(logits).reshape(len(labels), -1)
    # Ties (common on an 8-bit grid) go to the lower class, as argmax does.
    hits = np.argsort(-rows, axis=1, kind="stable")[:, :5] == labels[:, None]
    return int(hits[:, 0].sum()), int(hits.any(1).sum())
