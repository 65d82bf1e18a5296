"""Images that lie in the memory of the device that trains on them: cropped, mirrored and scaled there.

A batch then crosses to the device as four integers an image. The pixels are looked up in a table of the
preprocessing's own results, so that batches are bit for bit those that the host makes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from keras import ops

from tfmpq.data.augment import margins
from tfmpq.data.preprocess import affine, preprocess, rows

MOST_BYTES = 2**30
"""Size from which on images stay in the memory of the host."""


Compiler = Callable[[Callable[..., Any]], Callable[..., Any]]


class DeviceImages:
    """Makes batches of images on the device.

    Args:
        images: uint8 (M, H, W, C).
        preprocessing: Name of a preprocessing.
        compiled: Compiles a function of tensors, as the backend does it.
    """

    def __init__(self, images: np.ndarray, preprocessing: str, compiled: Compiler) -> None:
        _, self._height, self._width, self._channels = images.shape
        self._reverse = affine(preprocessing).reverse
        self._pixels = ops.convert_to_tensor(images.reshape(-1, self._channels), dtype="uint8")
        levels = np.arange(256, dtype=np.uint8)[:, None, None]
        values = preprocess(np.repeat(levels, self._channels, axis=2), preprocessing)
        self._values = ops.convert_to_tensor(values.reshape(-1))
        self.make = compiled(self._make)

    def _make(self, pixels: Any, values: Any, recipe: Any) -> Any:
        height, width, channels = self._height, self._width, self._channels
        pad_y, pad_x = margins(height, width)
        number, top, left, mirrored = (recipe[:, i, None] for i in range(4))
        columns = ops.arange(width, dtype="int32")[None]
        rows = top - pad_y + ops.arange(height, dtype="int32")[None]
        columns = left - pad_x + ops.where(mirrored > 0, width - 1 - columns, columns)
        inside = ops.logical_and(
            ops.logical_and(rows >= 0, rows < height)[:, :, None],
            ops.logical_and(columns >= 0, columns < width)[:, None, :],
        )
        rows, columns = ops.clip(rows, 0, height - 1), ops.clip(columns, 0, width - 1)
        place = (number * height + rows)[:, :, None] * width + columns[:, None, :]
        found = ops.cast(ops.take(pixels, place, axis=0), "int32")
        if self._reverse:
            found = ops.flip(found, axis=-1)
        found = ops.where(inside[..., None], found, 0)
        return ops.take(values, found * channels + ops.arange(channels, dtype="int32"))

    def __call__(self, recipe: Any) -> Any:
        """Preprocessed images.

        Args:
            recipe: int32 (N, 4): number of the image, and what `augment.drawn_crops` draws.

        Returns:
            float32 (N, H, W, C).
        """
        return self.make(self._pixels, self._values, recipe)


class DeviceScaling:
    """Preprocesses images on the device, within a compiled step.

    Its numbers are those of `preprocess`, but for the last bit where the compiler joins a multiplication and
    an addition (XLA does).

    Args:
        preprocessing: Name of a preprocessing.
        image_shape: (height, width, channels).

    Raises:
        UsageError: The preprocessing is for another number of channels.
    """

    def __init__(self, preprocessing: str, image_shape: tuple[int, int, int]) -> None:
        self._shape, self._reverse = image_shape, affine(preprocessing).reverse
        # A row of pixels at a time: broadcasting along an axis as short as the channels is slow.
        self._scale, self._offset = rows(preprocessing, *image_shape[1:])

    def __call__(self, images: Any) -> Any:
        """Preprocessed images.

        Args:
            images: uint8 (N, height, width, channels).

        Returns:
            float32 (N, height, width, channels).
        """
        height, width, channels = self._shape
        if self._reverse:
            images = ops.flip(images, axis=-1)
        values = ops.cast(ops.reshape(images, (-1, height, width * channels)), "float32")
        return ops.reshape(values * self._scale + self._offset, (-1, height, width, channels))


def fits(images: np.ndarray, channels: int) -> bool:
    """Whether pixels that get so many channels are few enough for the device, which counts in 32 bits."""
    pixels = images.size // images.shape[-1]
    return images.dtype == np.uint8 and pixels * channels <= MOST_BYTES and pixels < 2**31
