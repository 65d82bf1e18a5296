"""Batches of compressed images, read ahead by whichever executor is installed, and what becomes of damage."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.util import find_spec

import numpy as np

from tfmpq.data.damaged import damaged_image
from tfmpq.data.dataset import Split
from tfmpq.data.decoding import Executor, Order, Pixels
from tfmpq.data.images import decode_image, with_channels
from tfmpq.errors import TfmpqError, UsageError

_EXECUTORS = {
    "tensorflow": ("tfmpq.data.decoding_tensorflow", "TensorflowExecutor"),
    "grain": ("tfmpq.data.decoding_grain", "GrainExecutor"),
}
"""Package that has to be installed: module and class, the preferred one first."""


def executor(pixels: Pixels) -> Executor:
    """What decodes here: tf.data where TensorFlow is installed, else Grain.

    Raises:
        TfmpqError: Neither is installed.
    """
    for package, (module, name) in _EXECUTORS.items():
        if find_spec(package):
            return getattr(import_module(module), name)(pixels)
    raise TfmpqError(
        "Compressed images are decoded by TensorFlow or by Grain. Received: an environment without either. "
        "Install one of them, for example with pip install grain."
    )


class Reader:
    """Reads batches of a split's compressed images, those that follow one another ahead of time.

    Args:
        split: The images, which are compressed.
        pixels: What becomes of them.
        order: What the batches have.
        batch_size: Images in a batch.
        run: Maps the number of a batch to numbers of it and of the batches that follow without a break, and
            to their number of images.
    """

    def __init__(
        self,
        split: Split,
        pixels: Pixels,
        order: Order,
        batch_size: int,
        run: Callable[[int], tuple[range, int]],
    ) -> None:
        assert split.encoded is not None  # noqa: S101 narrowed for the type checker; the caller has looked
        self._split, self._places, self._pixels = split, split.encoded, pixels
        self._order, self._batch_size, self._run = order, batch_size, run
        self._executor = executor(pixels)
        self._stream: Iterator[np.ndarray] | None = None
        self._next = -1

    def read(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Pixels of a batch, uint8 (N, height, width, channels), and the places in it that these N had.

        Raises:
            TfmpqError: An image is damaged, and damaged ones are not left out.
            UsageError: An image is not grey and the network's are.
        """
        if self._stream is None or step != self._next:
            self._stream = None  # before another one takes its room
            self._stream = self._executor.stream(
                self._places, self._order, self._batch_size, *self._run(step)
            )
        try:
            images = next(self._stream)
        except Exception:
            self._stream = None
            return self._one_by_one(step)
        self._next = step + 1
        return images, np.arange(len(images))

    def _one_by_one(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """A batch in which something is wrong."""
        found, intact = [], []
        for place, (index, box) in enumerate(zip(*self._order(step), strict=True)):
            try:
                found.append(self._executor.one(self._places.read(index), box))
                intact.append(place)
            except Exception as error:
                self._judge(index, error)
        empty = np.zeros((0, *self._pixels.size, self._pixels.channels), np.uint8)
        return np.stack(found) if found else empty, np.array(intact, np.int64)

    def _judge(self, index: int, error: Exception) -> None:
        """Raise what is wrong with an image, or note that it is left out."""
        try:
            with_channels(decode_image(self._places.read(index)), self._pixels.channels)
        except UsageError:
            raise
        except Exception as plain:  # Pillow's words are shorter than TensorFlow's
            error = plain
        if self._split.damaged is None:
            raise damaged_image(self._places.name(index), error) from error
        self._split.damaged.note(self._places.name(index))
