"""Which images a batch has and how each is changed: a pure function of seed, epoch and index."""

from __future__ import annotations

import math
from typing import Literal, get_args

import numpy as np

from tfmpq.data.augment import drawn_boxes, drawn_crops, margins
from tfmpq.errors import UsageError

Augmentation = Literal["none", "crop", "crop_flip", "imagenet"]
_ORDER, _AUGMENT = 1, 2
"""Streams of random numbers: which images, and how they are changed."""


class Plan:
    """The batches of a data set, without their pixels.

    Args:
        images: Number of images; at least one.
        batch_size: Images per batch.
        seed: Not negative.
        augment: How images are changed.
        steps_per_epoch: Batches per epoch; None for one pass over the images.
        shuffle: Whether to draw an order anew for each pass; otherwise that of the data.
        drop_remainder: Whether to leave out the last, smaller batch of a pass.

    Attributes:
        steps_per_pass: Batches in which every image comes once.
        steps_per_epoch: Batches per epoch.
        drop_remainder: Whether all batches have as many images.

    Raises:
        UsageError: An argument is out of range.
    """

    def __init__(
        self,
        images: int,
        batch_size: int,
        *,
        seed: int = 0,
        augment: Augmentation = "none",
        steps_per_epoch: int | None = None,
        shuffle: bool = True,
        drop_remainder: bool = True,
    ) -> None:
        _check(images, batch_size, seed, augment, steps_per_epoch, drop_remainder)
        self.batch_size, self.seed, self.augment, self.shuffle = batch_size, seed, augment, shuffle
        whole = images / batch_size
        self.steps_per_pass = math.floor(whole) if drop_remainder else math.ceil(whole)
        self.steps_per_epoch = steps_per_epoch or self.steps_per_pass
        self.drop_remainder = drop_remainder
        self._images = images
        self._order: tuple[int, np.ndarray] = (-1, np.arange(images) if not shuffle else np.arange(0))

    def chosen(self, step: int) -> np.ndarray:
        """Numbers of the images of a batch, int64 (N,); step is epoch * steps_per_epoch + index."""
        number, place = divmod(step, self.steps_per_pass)
        known, order = self._order
        if self.shuffle and known != number:
            order = np.random.default_rng((self.seed, number, _ORDER)).permutation(self._images)
            self._order = (number, order)
        return order[place * self.batch_size : (place + 1) * self.batch_size]

    def crops(self, step: int, size: tuple[int, int]) -> np.ndarray:
        """Offsets and mirroring of the images of a batch: int32 (N, 3), see `augment.drawn_crops`.

        Args:
            step: Number of the batch.
            size: (height, width) of the images.
        """
        count = len(self.chosen(step))
        if self.augment in ("crop", "crop_flip"):
            return drawn_crops(self._generator(step), count, size, flip=self.augment == "crop_flip")
        return np.tile(np.array([*margins(*size), 0], np.int32), (count, 1))

    def boxes(self, step: int) -> np.ndarray:
        """Random resized crops of the images of a batch: float64 (N, 5), see `augment.drawn_boxes`."""
        return drawn_boxes(self._generator(step), len(self.chosen(step)))

    def _generator(self, step: int) -> np.random.Generator:
        epoch, index = divmod(step, self.steps_per_epoch)
        return np.random.default_rng((self.seed, epoch, _AUGMENT, index))


def _check(
    images: int,
    batch_size: int,
    seed: int,
    augment: str,
    steps_per_epoch: int | None,
    drop_remainder: bool,
) -> None:
    if not images:
        raise UsageError(
            "Batches need images. Received: an empty part of the data set. Use data that has it."
        )
    if batch_size < 1 or seed < 0 or (steps_per_epoch is not None and steps_per_epoch < 1):
        raise UsageError(
            "Batch size and steps per epoch must be at least 1 and the seed at least 0. Received: "
            f"batch_size={batch_size}, steps_per_epoch={steps_per_epoch}, seed={seed}. Correct them."
        )
    if drop_remainder and batch_size > images:
        raise UsageError(
            f"A batch must not be larger than the data. Received: batch_size={batch_size} for {images} "
            "images. Choose a smaller batch."
        )
    if augment not in get_args(Augmentation):
        raise UsageError(
            f"An augmentation is one of {', '.join(get_args(Augmentation))}. Received: {augment}. Choose one."
        )
