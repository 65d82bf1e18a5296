"""Random crops and flips of training images."""

from __future__ import annotations

import math

import numpy as np

from tfmpq.data.images import resample

_PAD = 8
"""A crop moves by up to one part in eight: 4 pixels of 32, the usual amount for CIFAR-10."""

_AREA = (0.25, 1.0)
"""Share of the area that a random resized crop keeps. Published trainings over 90 epochs start at 0.08; the
fine-tunings meant here are short, and the smaller the crops the longer it takes to settle."""

_RATIO = (3 / 4, 4 / 3)


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


def random_resized_crop(
    image: np.ndarray, size: tuple[int, int], generator: np.random.Generator
) -> np.ndarray:
    """Cut a random part of random area and aspect, resize it, and mirror it every other time.

    Args:
        image: uint8 (H, W, C).
        size: (height, width) of the result.
        generator: Source of randomness.

    Returns:
        uint8 (height, width, C).
    """
    height, width = image.shape[:2]
    area = height * width * generator.uniform(*_AREA)
    ratio = math.exp(generator.uniform(*np.log(_RATIO)))
    part_width, part_height = min(width, math.sqrt(area * ratio)), min(height, math.sqrt(area / ratio))
    left, top = generator.uniform(0, width - part_width), generator.uniform(0, height - part_height)
    part = resample(image, size, (left, top, left + part_width, top + part_height))
    return part[:, ::-1] if generator.random() < 0.5 else part
