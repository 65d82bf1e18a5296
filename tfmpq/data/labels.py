"""Labels in their two forms: classes, int64 (N,), and numbers, float32 (N, ...), such as values and maps."""

from __future__ import annotations

from typing import Any

import numpy as np

from tfmpq.errors import UsageError

_SURE = 0.5
"""Share of a row of shares that one class has in soft labels; rows without such a class are numbers."""


def as_labels(given: Any, source: str) -> np.ndarray:
    """Labels as they are kept.

    Classes are whole numbers from 0 on, (N,) or (N, 1), or rows of which one number stands for the class:
    (N, classes) with a single one and zeros, or with shares of which one is above a half. Everything else is
    numbers: real values, several labels at a time, maps, images.

    Args:
        given: Array.
        source: Where they come from, for messages.

    Raises:
        UsageError: They are no numbers, not finite, or negative whole numbers, which may mark missing labels.
    """
    labels = np.asarray(given)
    if labels.dtype.name == "bfloat16":
        labels = labels.astype(np.float32)
    if labels.ndim == 0 or labels.dtype.kind not in "uifb":
        raise UsageError(
            "Labels are whole numbers (N,), rows of classes (N, classes), or numbers (N, ...). Received: "
            f"{labels.dtype} of shape {labels.shape} in {source}. Convert them, or leave them out: "
            "calibration needs none."
        )
    if labels.dtype.kind == "f" and not np.isfinite(labels).all():
        raise UsageError(
            f"Labels are finite numbers. Received: NaN or infinity in {source}. Leave these images out."
        )
    if labels.shape in ((labels.size,), (labels.size, 1)):
        flat = labels.reshape(-1)
        if flat.dtype.kind in "iu" and flat.size and flat.min() < 0:
            raise UsageError(
                f"Labels are 0 to classes - 1. Received: {int(flat.min())} in {source}. Correct the labels; "
                "values that may be negative are floats."
            )
        whole = flat.dtype.kind != "f" or bool((flat >= 0).all() and (flat == np.round(flat)).all())
        return flat.astype(np.int64 if whole else np.float32)
    if labels.ndim == 2 and _rows_of_classes(labels):
        return labels.argmax(axis=1).astype(np.int64)
    return labels.astype(np.float32)


def _rows_of_classes(labels: np.ndarray) -> bool:
    """Whether every row is zeros and a single one, or shares of one of which one is sure."""
    rows = labels.astype(np.float64)
    return bool(
        (rows >= 0).all() and np.allclose(rows.sum(1), 1.0, atol=1e-3) and (rows.max(1) > _SURE).all()
    )


def same_form(train: np.ndarray, test: np.ndarray, source: str) -> tuple[np.ndarray, np.ndarray]:
    """Labels of two parts in one form: numbers that happen to be whole in one of them are numbers in both.

    Raises:
        UsageError: They have other shapes.
    """
    if train.dtype.kind == test.dtype.kind:
        pair = train, test
    else:
        pair = train.astype(np.float32), test.astype(np.float32)
    if len(train) and len(test) and train.shape[1:] != test.shape[1:]:
        raise UsageError(
            "Labels of both parts have one shape. Received: "
            f"{train.shape[1:]} and {test.shape[1:]} in {source}. Correct them."
        )
    return pair
