"""A user's own data objects: arrays, `tf.data.Dataset`, `keras.utils.PyDataset`, batches; one record for all.

What they hold are the inputs of the model, as they are. Nothing is scaled, resized or mirrored.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np

from tfmpq.data.dataset import Dataset, Split, label_bytes, make_dataset, split_in_two
from tfmpq.data.elements import Part, batch_of, elements, kind_of
from tfmpq.data.growing import GrowingArray, reordered
from tfmpq.data.labels import as_labels, same_form
from tfmpq.data.sources import load_dataset
from tfmpq.errors import UsageError
from tfmpq.progress import Reporter, SilentReporter

SAMPLED_BYTES = 2**29
"""Bytes of images that are read for calibration, from data that are not in memory."""

_HASHED_BYTES, _HASHED_IMAGES = 2**28, 1024
_SEED = 0

Data = Any
"""`(x, y)`, `x`, a `tf.data.Dataset`, a `keras.utils.PyDataset`, an iterable of batches, or a word."""


def open_data(
    data: Data,
    validation: Data | None = None,
    *,
    data_dir: str | Path | None = None,
    rank: int = 4,
    sampled: bool = False,
    reporter: Reporter | None = None,
) -> Dataset:
    """The images and labels behind a word or an object.

    Args:
        data: What is learned from: a word as `tfmpq.data.load_dataset` takes it, or an object. A word has a
            test part of its own; of an object a fifth is held out where `validation` is None.
        validation: What is measured on.
        data_dir: Folder that is looked in first for words.
        rank: Dimensions of a batch of the model's inputs.
        sampled: Whether some random images are enough, so that large data are not read to the end.
        reporter: Told about reading and about splits.

    Raises:
        UsageError: It is none of these, or does not hold images of one shape.
        TfmpqError: Files behind a word are damaged.
    """
    reporter = reporter or SilentReporter()
    if isinstance(data, str):
        dataset = load_dataset(data, data_dir=data_dir, reporter=reporter)
        if validation is None:
            return dataset
        return _joined(dataset, open_test(validation, data_dir=data_dir, rank=rank, reporter=reporter), data)
    train, seen, labelled = _read(data, rank, sampled, reporter)
    kind = kind_of(data)
    if validation is None:
        train, test = split_in_two(kind, train, reporter)
        return _dataset(kind, train, test, seen, labelled)
    if isinstance(validation, str):
        raise UsageError(
            f"Validation data are given as the training data are. Received: {kind} and the word "
            f"{validation!r}, whose pixels would be scaled. Give the validation data as an object, too."
        )
    test, seen_there, labelled_there = _read(validation, rank, False, reporter)
    seen = (min(seen[0], seen_there[0]), max(seen[1], seen_there[1]))
    return _dataset(kind, train, test, seen, labelled and labelled_there)


def open_test(
    data: Data,
    *,
    data_dir: str | Path | None = None,
    rank: int = 4,
    reporter: Reporter | None = None,
) -> Dataset:
    """As `open_data`, with all images of an object as its test part: data to measure on."""
    if isinstance(data, str):
        return load_dataset(data, data_dir=data_dir, reporter=reporter)
    test, seen, labelled = _read(data, rank, False, reporter or SilentReporter())
    return _dataset(kind_of(data), test.take(np.arange(0)), test, seen, labelled)


def _joined(train: Dataset, test: Dataset, word: str) -> Dataset:
    """The train part of one data set with the test part of another."""
    if test.seen is not None:
        raise UsageError(
            f"Validation data are given as the training data are. Received: {word!r} and an object, whose "
            "values would not be scaled. Give both as words or both as objects."
        )
    if test.classes > train.classes:
        raise UsageError(
            f"Validation data have the classes of the training data. Received: {train.classes} classes of "
            f"{word} and {test.classes} of {test.name}. Choose data of the same classes."
        )
    return make_dataset(
        train.name, train.train, test.test, classes=train.classes, class_names=train.class_names
    )


def _dataset(kind: str, train: Split, test: Split, seen: tuple[float, float], labelled: bool) -> Dataset:
    """The record; its name says what kind of object it was and which."""
    both = same_form(train.labels, test.labels, kind)
    train, test = (replace(part, labels=labels) for part, labels in zip((train, test), both, strict=True))
    classes = None if labelled else 1
    made = make_dataset(kind, train, test, classes=classes)
    digest = hashlib.blake2b(digest_size=8)
    for split in (train, test):
        digest.update(np.int64(len(split)).tobytes() + label_bytes(split.labels))
        for image in _hashed(split):
            digest.update(repr((image.shape, image.dtype.str)).encode() + np.ascontiguousarray(image).data)
    fingerprint = digest.hexdigest()
    name = f"{kind}-{fingerprint[:8]}"
    return replace(
        made, name=name, fingerprint=fingerprint, seen=seen, classes=made.classes if labelled else 0
    )


def _hashed(split: Split) -> Iterator[np.ndarray]:
    """What of a split's images tells it from others: all of them, or many spread evenly of large data."""
    array = split.array
    if array is None or not len(array):
        return
    if array.nbytes <= _HASHED_BYTES:
        yield np.asarray(array)
        return
    for index in np.linspace(0, len(array) - 1, _HASHED_IMAGES).astype(int):
        yield np.asarray(array[index])


def _read(
    data: Data, rank: int, sampled: bool, reporter: Reporter
) -> tuple[Split, tuple[float, float], bool]:
    """Images with labels (zeros if there are none), the range of values, and whether there are labels."""
    found = batch_of(data)
    if found is not None:
        images, labels = found
    else:
        images, labels = _collected(elements(data, rank, _SEED if sampled else None), sampled, reporter)
        # The same data come in another order where a dataset shuffles.
        order = _order_of_content(images)
        images, labels = reordered(images, order), None if labels is None else labels[order]
    if labels is not None:
        labels = as_labels(labels, kind_of(data))
    images = _as_images(images, kind_of(data))
    seen = _range(images)
    if labels is not None and len(labels) != len(images):
        raise UsageError(
            f"Every image has a label. Received: {len(images)} images and {len(labels)} labels. Correct them."
        )
    whole = Split(np.zeros(len(images), np.int64) if labels is None else labels, images)
    return whole, seen, labels is not None


def _collected(
    parts: Iterable[Part], sampled: bool, reporter: Reporter
) -> tuple[np.ndarray, np.ndarray | None]:
    """Everything, or a first part of the memory that a sample may take."""
    images, labels, unlabelled = GrowingArray(), [], 0
    reporter.start("read data", 0)
    for batch, given in parts:
        images.append(batch)
        if given is None:
            unlabelled += 1
        else:
            labels.append(given)
        reporter.advance(len(batch))
        if sampled and images.nbytes >= SAMPLED_BYTES:
            break
    reporter.finish()
    if labels and unlabelled:
        raise UsageError(
            f"All batches have labels, or none. Received: {len(labels)} batches with labels and {unlabelled} "
            "without. Give labels to all of them."
        )
    return images.finished(), _joined_labels(labels) if labels else None


def _joined_labels(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Labels of all batches."""
    if len({part.shape[1:] for part in parts}) > 1:
        shapes = ", ".join(sorted({str(part.shape[1:]) for part in parts})[:4])
        raise UsageError(f"Labels of all batches have one shape. Received: {shapes}. Correct them.")
    return np.concatenate(parts)


def _order_of_content(images: np.ndarray) -> np.ndarray:
    digests = [hashlib.blake2b(np.ascontiguousarray(image).data, digest_size=8).digest() for image in images]
    return np.argsort(
        np.array([int.from_bytes(digest, "big") for digest in digests], np.uint64), kind="stable"
    )


def _as_images(array: np.ndarray, kind: str) -> np.ndarray:
    """(N, height, width, channels): grey images get their channel, a vector is one pixel."""
    if array.ndim == 2:
        array = array[:, None, None, :]
    if array.ndim == 3:
        array = array[..., None]
    if array.ndim != 4 or not len(array):
        raise UsageError(
            "Images are an array (N, height, width, channels), sequences one of (N, length, channels), "
            "vectors one of (N, length). "
            f"Received: {kind} of shape {array.shape}. Reshape it."
        )
    return array


def _range(images: np.ndarray) -> tuple[float, float]:
    low, high = float(images.min()), float(images.max())
    if not np.isfinite([low, high]).all():
        raise UsageError(
            "Images are finite numbers. Received: an array with NaN or infinity. Remove these images."
        )
    return low, high


def model_rank(model: Any) -> int:
    """Dimensions of a batch of a model's inputs, where a model object tells; else those of images."""
    inputs = model.inputs if isinstance(model, keras.Model) else None
    return len(inputs[0].shape) if inputs else 4
