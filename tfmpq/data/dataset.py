"""A data set in memory or on disk: labels at once, images when they are asked for."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from tfmpq.data.damaged import LeftOut, damaged_image
from tfmpq.data.images import decode_image
from tfmpq.data.places import Places
from tfmpq.errors import TfmpqError, UsageError
from tfmpq.progress import Reporter

_SAMPLED_IMAGES = 16
_TRAIN_SHARE = 0.8
_SPLIT_SEED = 0


@dataclass(frozen=True, slots=True, eq=False)
class Split:
    """Images with labels; either `array` or `encoded` holds the images.

    Attributes:
        labels: Classes, int64 (N,); or numbers, float32 (N, ...), such as values, several labels, maps.
        array: uint8 (N, H, W, C) of images that are in memory; float32 for a user's own model inputs.
        encoded: Places of N images that are decoded on demand.
        damaged: Takes note of damaged images, which are then left out; None if they are errors.
    """

    labels: np.ndarray
    array: np.ndarray | None = None
    encoded: Places | None = None
    damaged: LeftOut | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def images(self, indices: Iterable[int]) -> list[np.ndarray]:
        """Images by number as they are stored, each uint8 (H, W, C) with C of 1 or 3, or any for H of 1.

        Raises:
            TfmpqError: A compressed image cannot be decoded.
        """
        if self.encoded is None:
            return [self._stored[index] for index in indices]
        return [self._decoded(index) for index in indices]

    @property
    def _stored(self) -> np.ndarray:
        assert self.array is not None  # noqa: S101 narrowed for the type checker; a split has one of the two
        return self.array

    def _decoded(self, index: int) -> np.ndarray:
        assert self.encoded is not None  # noqa: S101 likewise
        try:
            return decode_image(self.encoded.read(index))
        except Exception as error:
            raise damaged_image(self.encoded.name(index), error) from error

    def take(self, indices: np.ndarray | slice) -> Split:
        """The split of only these images, in this order."""
        array = None if self.array is None else self.array[indices]
        encoded = None if self.encoded is None else self.encoded.take(indices)
        return Split(self.labels[indices], array, encoded, self.damaged)

    def update_hash(self, digest: hashlib._Hash) -> None:
        """Add number, labels and some of the images, as they are stored, to a hash."""
        digest.update(np.int64(len(self)).tobytes() + label_bytes(self.labels))
        for index in np.linspace(0, len(self) - 1, min(_SAMPLED_IMAGES, len(self))).astype(int):
            if self.encoded is None:
                digest.update(repr(self._stored[index].shape).encode() + self._stored[index].tobytes())
            else:
                digest.update(self._read(index))

    def _read(self, index: int) -> bytes:
        assert self.encoded is not None  # noqa: S101 likewise
        try:
            return self.encoded.read(index)
        except (OSError, ValueError) as error:
            raise damaged_image(self.encoded.name(index), error) from error


@dataclass(frozen=True, slots=True, eq=False)
class Dataset:
    """Images of a fixed number of classes, split for training and testing.

    Attributes:
        name: Short name, for reports.
        classes: Number of classes; all labels are below it. Replace it for a network with more outputs. 0
            where labels are numbers, or there are none.
        class_names: Names by label, if known.
        train: Images to learn from; may be empty if only test images were given.
        test: Images to measure on.
        fingerprint: Hash of name, labels and a sample of the images; the same wherever the files are.
        seen: Of a user's own arrays, which are model inputs as they are, the smallest and largest value; None
            for pixels, which a preprocessing scales.
        side: Height and width in pixels of the networks that compressed images are for; None for 224.
    """

    name: str
    classes: int
    class_names: tuple[str, ...] | None
    train: Split
    test: Split
    fingerprint: str
    seen: tuple[float, float] | None = None
    side: int | None = None

    @property
    def labelled(self) -> bool:
        """Whether the labels mean something; images alone have zeros and no classes."""
        return self.classes > 0 or self.numeric

    @property
    def numeric(self) -> bool:
        """Whether labels are numbers and no classes."""
        return self.test.labels.dtype.kind == "f"


def label_bytes(labels: np.ndarray) -> bytes:
    """Labels as they enter fingerprints; numbers with their shape."""
    if labels.dtype.kind != "f":
        return bytes(labels.astype("<i8").tobytes())
    return repr(labels.shape).encode() + bytes(labels.astype("<f4").tobytes())


def make_dataset(
    name: str,
    train: Split,
    test: Split,
    *,
    classes: int | None = None,
    class_names: Sequence[str] | None = None,
) -> Dataset:
    """Put a data set together and take its fingerprint.

    Args:
        name: Short name.
        train: Training images.
        test: Test images.
        classes: Number of classes, if it is not the largest label plus one or the number of names.
        class_names: Names by label.

    Raises:
        UsageError: There are no images.
        TfmpqError: A label is out of range.
    """
    labels = np.concatenate([train.labels, test.labels])
    numeric = labels.dtype.kind == "f"
    if not labels.size:
        raise UsageError(f"A data set needs images. Received: {name} without any. Check its files.")
    found = 0 if numeric else int(labels.max()) + 1
    classes = 0 if numeric else classes or (len(class_names) if class_names else found)
    if not numeric and (labels.min() < 0 or labels.max() >= classes):
        raise TfmpqError(
            f"Labels must be 0 to classes - 1. Received: {labels.min()} to {labels.max()} in {name} with "
            f"{classes} classes. Correct the labels."
        )
    digest = hashlib.sha256(name.encode())
    train.update_hash(digest)
    test.update_hash(digest)
    names = tuple(map(str, class_names)) if class_names else None
    return Dataset(name, classes, names, train, test, digest.hexdigest()[:16])


def split_in_two(name: str, split: Split, reporter: Reporter) -> tuple[Split, Split]:
    """Split images that come without a test part, 80 to 20 by a fixed permutation, and say so."""
    order = np.random.default_rng(_SPLIT_SEED).permutation(len(split))
    count = int(len(split) * _TRAIN_SHARE)
    reporter.log(
        f"{name} has no test part: {count} of its {len(split)} images are for training and "
        f"{len(split) - count} for testing (fixed permutation)."
    )
    return split.take(order[:count]), split.take(order[count:])
