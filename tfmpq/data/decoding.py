"""Compressed images to pixels of one size: what both executors, tf.data and Grain, are asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from tfmpq.data.augment import random_resized_crop
from tfmpq.data.images import decode_image, resize_for, with_channels
from tfmpq.data.places import Places

Order = Callable[[int], tuple[np.ndarray, np.ndarray]]
"""Maps the number of a batch to its images, int64 (N,), and their `augment.drawn_boxes`, float64 (N, 5)."""


@dataclass(frozen=True, slots=True)
class Pixels:
    """What becomes of an image.

    Attributes:
        size: (height, width) of the result.
        channels: Of the result; grey images are repeated on 3.
        cropped: Whether a random part is taken (`augment.random_resized_crop`), or the image is fitted to the
            size (`images.resize_for`).
    """

    size: tuple[int, int]
    channels: int
    cropped: bool


class Executor(Protocol):
    """Decodes, crops and resizes many images at once, each result a function of its image and box alone."""

    def stream(
        self, places: Places, order: Order, batch_size: int, steps: range, images: int
    ) -> Iterator[np.ndarray]:
        """Batches, uint8 (N, height, width, channels), prepared ahead in threads; ends the stream before it.

        Args:
            places: Where the images are.
            order: What the batches have.
            batch_size: Images in each of them but the last.
            steps: Numbers of the batches.
            images: How many there are in all of them.

        Raises:
            Exception: An image cannot be read or decoded; nobody knows which.
        """

    def one(self, content: bytes, box: np.ndarray) -> np.ndarray:
        """Pixels of one image, as in a batch.

        Raises:
            Exception: It cannot be decoded.
        """


def by_pillow(content: bytes, box: np.ndarray, pixels: Pixels) -> np.ndarray:
    """Pixels of one image, uint8 (height, width, channels): decoded and resized with antialiasing by Pillow.

    Raises:
        UsageError: It is not grey, and another number of channels is wanted.
        Exception: It cannot be decoded.
    """
    image = with_channels(decode_image(content), pixels.channels)
    if pixels.cropped:
        return random_resized_crop(image, pixels.size, box)
    return resize_for(image, pixels.size)
