"""Random crops and flips of training images."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tfmpq.data.images import resample

_PAD = 8
"""A crop moves by up to one part in eight: 4 pixels of 32, the usual amount for CIFAR-10."""

_AREA = (0.25, 1.0)
"""Share of the area that a random resized crop keeps. Published trainings over 90 epochs start at 0.08; the
fine-tunings meant here are short, and the smaller the crops the longer it takes to settle."""

_RATIO = (3 / 4, 4 / 3)

MIRRORED_BELOW = 0.5
"""Drawn numbers below this one mirror an image."""


def margins(height: int, width: int) -> tuple[int, int]:
    """Black pixels above and beside an image, over which a crop moves."""
    return height // _PAD, width // _PAD


def drawn_crops(
    generator: np.random.Generator, count: int, size: tuple[int, int], *, flip: bool
) -> np.ndarray:
    """A random offset for each of some images, and every other one to be mirrored.

    Args:
        generator: Source of randomness.
        count: Number of images.
        size: (height, width) of an image.
        flip: Whether to mirror; wrong for digits and letters.

    Returns:
        int32 (count, 3): first row and first column in the image with its margins, and 1 to mirror.
    """
    pad_y, pad_x = margins(*size)
    top = generator.integers(0, 2 * pad_y + 1, (count, 1))
    left = generator.integers(0, 2 * pad_x + 1, (count, 1))
    mirrored = generator.random((count, 1)) < 0.5 if flip else np.zeros((count, 1), bool)
    return np.concatenate([top, left, mirrored], axis=1).astype(np.int32)


def crop(images: np.ndarray, crops: np.ndarray) -> np.ndarray:
    """Shift images, with black at the edges, and mirror them.

    Args:
        images: uint8 (N, H, W, C).
        crops: int32 (N, 3), see `drawn_crops`.

    Returns:
        uint8 (N, H, W, C).
    """
    count, height, width, channels = images.shape
    pad_y, pad_x = margins(height, width)
    padded = np.zeros((count, height + 2 * pad_y, width + 2 * pad_x, channels), np.uint8)
    padded[:, pad_y : pad_y + height, pad_x : pad_x + width] = images
    top, left, mirrored = (crops[:, i, None] for i in range(3))
    columns = np.arange(width)
    columns = left + np.where(mirrored, columns[::-1], columns)
    rows = top + np.arange(height)
    return padded[np.arange(count)[:, None, None], rows[:, :, None], columns[:, None, :]]


def drawn_boxes(generator: np.random.Generator, count: int) -> np.ndarray:
    """What random resized crops of some images depend on.

    Args:
        generator: Source of randomness.
        count: Number of images.

    Returns:
        float64 (count, 5) of [0, 1): area, aspect, place across, place down, and mirrored if below 1/2.
    """
    return generator.random((count, 5))


def crop_box(height: Any, width: Any, drawn: Any, functions: Any = np) -> tuple[Any, Any, Any, Any]:
    """The part of an image that a random resized crop takes.

    Args:
        height: Of the image.
        width: Of the image.
        drawn: A row of `drawn_boxes`.
        functions: Has `exp`, `sqrt` and `minimum` for what the arguments are: NumPy or `tf.math`.

    Returns:
        Left, top, width and height, in pixels.
    """
    area = height * width * (_AREA[0] + (_AREA[1] - _AREA[0]) * drawn[0])
    low, high = (math.log(ratio) for ratio in _RATIO)
    ratio = functions.exp(low + (high - low) * drawn[1])
    part_width = functions.minimum(width, functions.sqrt(area * ratio))
    part_height = functions.minimum(height, functions.sqrt(area / ratio))
    return (width - part_width) * drawn[2], (height - part_height) * drawn[3], part_width, part_height


def random_resized_crop(image: np.ndarray, size: tuple[int, int], drawn: np.ndarray) -> np.ndarray:
    """Cut a random part of random area and aspect, resize it, and mirror it every other time.

    Args:
        image: uint8 (H, W, C).
        size: (height, width) of the result.
        drawn: A row of `drawn_boxes`.

    Returns:
        uint8 (height, width, C).
    """
    left, top, width, height = crop_box(float(image.shape[0]), float(image.shape[1]), drawn)
    part = resample(image, size, (left, top, left + width, top + height))
    return part[:, ::-1] if drawn[4] < MIRRORED_BELOW else part
