"""Images of noise, for trying out how large and how fast a network becomes without any data."""

from __future__ import annotations

import numpy as np

from tfmpq.data.dataset import Dataset, Split, make_dataset

RANDOM = "random"
"""Name that stands for images of noise in the place of a data set."""

_COUNT, _PATCH = 256, 8


def random_dataset(shape: tuple[int, int, int]) -> Dataset:
    """256 images of noise without labels, the same for training and testing.

    Args:
        shape: (height, width, channels).
    """
    noise = Split(np.zeros(_COUNT, np.int64), random_images(_COUNT, shape))
    made = make_dataset(RANDOM, noise, noise, classes=1)
    return Dataset(RANDOM, 0, None, noise, noise, made.fingerprint)


def random_images(count: int, shape: tuple[int, int, int]) -> np.ndarray:
    """Images of noise in which neighbouring pixels are alike, so that deep layers see differences as well.

    Args:
        count: Number of images.
        shape: (height, width, channels).

    Returns:
        uint8 (count, height, width, channels), the same in every call.
    """
    generator = np.random.default_rng(0)
    height, width, channels = shape
    coarse = generator.integers(0, 256, (count, -(-height // _PATCH), -(-width // _PATCH), channels))
    patches = coarse.repeat(_PATCH, axis=1).repeat(_PATCH, axis=2)[:, :height, :width]
    fine = generator.integers(-40, 41, patches.shape)
    return np.clip(patches + fine, 0, 255).astype(np.uint8)
