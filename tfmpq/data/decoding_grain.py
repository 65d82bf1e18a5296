"""Decoding by Grain and Pillow, where TensorFlow is not installed."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import grain
import numpy as np

from tfmpq.data.decoding import Order, Pixels, by_pillow
from tfmpq.data.indexing import processors
from tfmpq.data.places import Places

_READERS = 8
"""Threads beside those that compute, which wait for the disk; Pillow lets go of the interpreter meanwhile."""


class GrainExecutor:
    """See `decoding.Executor`; everything is resized with antialiasing.

    Args:
        pixels: What becomes of an image.
    """

    def __init__(self, pixels: Pixels) -> None:
        self._pixels = pixels

    def stream(
        self, places: Places, order: Order, batch_size: int, steps: range, images: int
    ) -> Iterator[np.ndarray]:
        """Batches in order, as `decoding.Executor` says."""
        known = lru_cache(8)(order)

        def item(number: int) -> np.ndarray:
            step, place = divmod(number, batch_size)
            chosen, boxes = known(steps.start + step)
            return self.one(places.read(chosen[place]), boxes[place])

        threads = processors() + _READERS
        options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=max(threads, 2 * batch_size))
        data = grain.MapDataset.range(images).map(item).to_iter_dataset(options).batch(batch_size)
        yield from data

    def one(self, content: bytes, box: np.ndarray) -> np.ndarray:
        """Pixels of one image, as `decoding.Executor` says."""
        return by_pillow(content, box, self._pixels)
