"""A fixed random sample of a data set: what calibrates, and what files are compared on.

The first images of a data set are often of one class: folders are read class by class.
"""

from __future__ import annotations

import numpy as np

from tfmpq.data import Split
from tfmpq.data.batches import read
from tfmpq.data.preprocess import preprocess

SEED = 0


def drawn(split: Split, count: int) -> np.ndarray:
    """Numbers of at most `count` images, int (N,): the same in every call, in random order."""
    return np.random.default_rng(SEED).permutation(len(split))[:count]


def sample(
    split: Split, count: int, shape: tuple[int, int, int], preprocessing: str
) -> tuple[np.ndarray, np.ndarray]:
    """A fixed random sample, preprocessed and not augmented.

    Args:
        split: Images and labels.
        count: Number of images; all of a smaller split.
        shape: (height, width, channels) that the images are brought to.
        preprocessing: Name of the preprocessing.

    Returns:
        float32 (N, height, width, channels) and labels, int32 (N,).
    """
    images, labels = read(split, drawn(split, count), shape)
    return preprocess(images, preprocessing), labels
