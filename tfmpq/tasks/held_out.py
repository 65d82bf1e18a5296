"""Images that were held out, and which of them networks answer right: what decides between candidates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tfmpq.data import ImageBatches, Split
from tfmpq.progress import Reporter
from tfmpq.tasks.outputs import Output
from tfmpq.tasks.sampling import drawn
from tfmpq.tasks.scoring import BATCH, Predictor, class_scores, predictor
from tfmpq.tasks.task import Task


@dataclass(frozen=True, slots=True, eq=False)
class Scene:
    """The images, and where a network answers to them.

    Attributes:
        split: The images, in random order.
        image_shape: (height, width, channels) that networks take.
        preprocessing: Name of the preprocessing.
        index: Which output is scored.
        output: That output.
    """

    split: Split
    image_shape: tuple[int, int, int]
    preprocessing: str
    index: int
    output: Output


@dataclass(frozen=True, slots=True, eq=False)
class HeldOut:
    """Held-out images, and what is a right answer to them.

    Attributes:
        scene: The images.
        labelled: Whether answers are held against labels; else against the float network's own.
        classes: The right answer to each image, int64 (N,).
        right: Whether the float network gives it, bool (N,).
    """

    scene: Scene
    labelled: bool
    classes: np.ndarray
    right: np.ndarray

    @property
    def score_name(self) -> str:
        """What the share of right answers is called."""
        return "top-1" if self.labelled else "agreement with the float model"

    def answers_right(self, predict: Predictor, reporter: Reporter) -> np.ndarray:
        """Whether a network gives the right answer to each image, bool (N,)."""
        return self.classes == _answers(self.scene, predict, reporter)[0]


def hold_out(task: Task, outputs: Sequence[Output], limit: int, reporter: Reporter) -> HeldOut | None:
    """The test images of a task, at most `limit` of them; None if no output can be scored.

    Args:
        task: Float network and data.
        outputs: Its outputs, in order.
        limit: Most images.
        reporter: Told about progress.
    """
    if task.dataset.numeric:
        return None  # labels are no classes, and so no right or wrong answers
    count = task.dataset.classes
    index = next((i for i, output in enumerate(outputs) if _is_classifier(output, count)), None)
    if index is None:
        return None
    split = task.dataset.test
    split = split.take(drawn(split, min(limit, len(split))))
    scene = Scene(split, task.network.input_shape, task.preprocessing, index, outputs[index])
    answers, labels = _answers(scene, predictor(task.model), reporter)
    if count > 1:
        return HeldOut(scene, True, labels, labels == answers)
    return HeldOut(scene, False, answers, np.ones(len(answers), bool))


def _is_classifier(output: Output, classes: int) -> bool:
    """Whether the largest number is an answer; a single number without labels: if it is a probability."""
    if classes > 1:
        return output.obstacle(classes) is None
    return output.obstacle(2) is None and (not output.binary or output.cut != 0)


def _answers(scene: Scene, predict: Predictor, reporter: Reporter) -> tuple[np.ndarray, np.ndarray]:
    """Answers and labels, int64 (N,) each; of equally large numbers the lower class is the answer.

    Damaged images that are left out are left out every time, so that all answers are to the same images.
    """
    count = len(scene.split)
    batches = ImageBatches(
        scene.split,
        min(BATCH, count),
        image_shape=scene.image_shape,
        preprocessing=scene.preprocessing,
        shuffle=False,
        drop_remainder=False,
    )
    answers, known = [], []
    reporter.start("score", count)
    for index in range(batches.steps_per_pass):
        images, labels = batches[index]
        found = predict(np.asarray(images, np.float32))[scene.index]
        answers.append(class_scores(scene.output, found).argmax(1))
        known.append(np.asarray(labels))
        reporter.advance(len(labels))
    reporter.finish()
    return np.concatenate(answers).astype(np.int64), np.concatenate(known).astype(np.int64)
