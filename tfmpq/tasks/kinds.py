"""Which kind of task a network and labels are: the one place that decides it."""

from __future__ import annotations

import math

import numpy as np

from tfmpq.errors import UsageError
from tfmpq.tasks.objective import (
    BINARY,
    CLASSES,
    SEVERAL_LABELS,
    Objective,
    one_against_rest,
    values,
    yes_or_no,
)
from tfmpq.tasks.outputs import Output


def objective_for(output: Output, labels: np.ndarray, classes: int, answers: bool = False) -> Objective:
    """What a network with one output is trained for and scored by.

    - Classes and one number for each: one of several classes; behind sigmoids, each against the rest.
    - Two classes and a single number: binary. More classes and a single number are values.
    - Labels of 0 and 1 in the shape of the output, a vector or behind sigmoids: several labels at a time.
    - Other numbers in the shape of the output: values.

    Args:
        output: The output.
        labels: Classes, int (N,), or numbers, float (N, ...).
        classes: Number of classes; 0 of numbers.
        answers: Whether the labels are what the float network gives.

    Raises:
        UsageError: The two do not fit.
    """
    probabilities, size = output.probabilities, math.prod(output.shape)
    if labels.dtype.kind != "f":
        if size == 1 and classes > 2:
            return values(_variance(labels))
        if obstacle := output.obstacle(classes):
            raise UsageError(
                "A network needs one output per class of the data, or a single one for two classes. "
                f"Received: output {output.name} with {obstacle}. Choose a network with {classes} classes or "
                "other data."
            )
        if size == 1:
            return yes_or_no(BINARY, probabilities)
        return one_against_rest(probabilities) if probabilities else CLASSES
    if _without_ones(labels.shape[1:]) != _without_ones(output.shape):
        raise UsageError(
            "Labels that are numbers have the shape of the network's output. Received: "
            f"{labels.shape[1:]} for output {output.name} of {output.shape}. Change their shape, or the "
            "network."
        )
    name = BINARY if size == 1 else SEVERAL_LABELS
    yes_no = bool(np.isin(labels, (0.0, 1.0)).all())
    if probabilities and (yes_no or answers):
        return yes_or_no(name, probabilities)
    if yes_no and not answers and len(_without_ones(output.shape)) == 1:
        return yes_or_no(name, probabilities)
    return values(_variance(labels))


def _without_ones(shape: tuple[int, ...]) -> list[int]:
    return [size for size in shape if size != 1]


def _variance(labels: np.ndarray) -> float:
    """Variance over the images, mean over the elements.

    Raises:
        UsageError: All labels are the same.
    """
    found = float(np.mean(np.var(labels, axis=0, dtype=np.float64)))
    if len(labels) > 1 and not found > 0:
        raise UsageError(
            "Labels differ between images. Received: the same label for all images. Check the labels."
        )
    return found or 1.0
