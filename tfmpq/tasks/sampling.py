"""A fixed random sample of a data set: what calibrates, and what files are compared on.

The first images of a data set are often of one class: folders are read class by class.
"""

from __future__ import annotations

import numpy as np

from tfmpq.data import ImageBatches, Split

SEED = 0


def sample(split: Split, count: int) -> Split:
    """At most `count` images of a split with their labels: the same in every call, in random order."""
    order = np.random.default_rng(SEED).permutation(len(split))[:count]
    return split.take(order)


def sample_images(split: Split, count: int, shape: tuple[int, int, int], preprocessing: str) -> np.ndarray:
    """Images of a fixed random sample, preprocessed.

    Args:
        split: Images.
        count: Their number; all of a smaller split.
        shape: (height, width, channels) that they are brought to.
        preprocessing: Name of the preprocessing.

    Returns:
        float32 (N, height, width, channels).
    """
    chosen = sample(split, count)
    batches = ImageBatches(chosen, len(chosen), image_shape=shape, preprocessing=preprocessing, shuffle=False)
    return np.asarray(batches[0][0], np.float32)
