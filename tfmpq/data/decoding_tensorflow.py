"""Decoding by tf.data: JPEG in TensorFlow, other formats by Pillow within the same pipeline."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfmpq.data.augment import MIRRORED_BELOW, crop_box
from tfmpq.data.decoding import Order, Pixels, by_pillow
from tfmpq.data.images import fitted
from tfmpq.data.indexing import processors
from tfmpq.data.places import Places

_READERS = 16
"""Files that are read at once; disks far away answer many questions together."""
_READ_AHEAD, _DECODED_AHEAD = 2, 2
"""Batches."""
_REDUCTIONS = (1, 2, 4, 8)
"""By how much a JPEG can be reduced while it is decoded."""
_ACCURATE = "INTEGER_ACCURATE"


class TensorflowExecutor:
    """See `decoding.Executor`.

    A random part of a JPEG is cut out at whole pixels while the image is decoded, reduced by the decoder if
    it is at least twice as large as the result, and resized bilinearly. A JPEG that is fitted is resized with
    antialiasing, and so is everything of other formats.

    Args:
        pixels: What becomes of an image.
    """

    def __init__(self, pixels: Pixels) -> None:
        if keras.backend.backend() != "tensorflow":
            _leave_accelerators_alone()
        self._pixels, self._size, self._channels = pixels, pixels.size, pixels.channels
        self._single = tf.function(self._image, autograph=False)
        self._pool = ThreadPoolExecutor(_READERS)
        self._first = 0
        self._batches: Any = None
        self._wanted: tuple[Places, Order, int, int] | None = None

    def stream(
        self, places: Places, order: Order, batch_size: int, steps: range, images: int
    ) -> Iterator[np.ndarray]:
        """Batches in order, as `decoding.Executor` says; one stream at a time."""
        self._first = steps.start
        wanted = (places, order, batch_size, len(steps))
        if self._wanted != wanted:
            self._wanted, self._batches = wanted, self._dataset(*wanted)
        return self._batches.as_numpy_iterator()

    def _dataset(self, places: Places, order: Order, batch_size: int, steps: int) -> Any:
        """So many batches from `self._first` on; to trace it takes longer than a batch."""

        def read(step: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            chosen, boxes = order(self._first + int(step))
            parts = self._pool.map(
                lambda part: [places.read(i) for i in part], np.array_split(chosen, _READERS)
            )
            contents = np.empty(len(chosen), object)
            contents[:] = [content for part in parts for content in part]
            return contents, boxes

        def batch(step: Any) -> Any:
            contents, boxes = tf.numpy_function(read, [step], (tf.string, tf.float64))
            return tf.ensure_shape(contents, (None,)), tf.ensure_shape(boxes, (None, 5))

        options = tf.data.Options()
        options.deterministic = True
        options.threading.private_threadpool_size = processors()
        options.threading.max_intra_op_parallelism = 1
        with tf.device("CPU"):
            return (
                tf.data.Dataset.range(steps)
                .map(batch, num_parallel_calls=_READ_AHEAD)
                .unbatch()
                .map(self._image, num_parallel_calls=processors())
                .batch(batch_size)
                .prefetch(_DECODED_AHEAD)
                .with_options(options)
            )

    def one(self, content: bytes, box: np.ndarray) -> np.ndarray:
        """Pixels of one image, as `decoding.Executor` says."""
        with tf.device("CPU"):
            return self._single(tf.constant(content), tf.constant(box)).numpy()

    def _image(self, content: Any, box: Any) -> Any:
        image = tf.cond(
            tf.io.is_jpeg(content), lambda: self._jpeg(content, box), lambda: self._other(content, box)
        )
        return tf.ensure_shape(image, (*self._pixels.size, self._pixels.channels))

    def _jpeg(self, content: Any, box: Any) -> Any:
        # Whether an image is grey is only looked at where colours would be an error.
        channels = 3 if self._channels == 3 else 0
        if not self._pixels.cropped:
            image = tf.io.decode_jpeg(content, channels=channels, dct_method=_ACCURATE)
            return self._fitted(self._checked(image))
        sides = tf.cast(tf.io.extract_jpeg_shape(content)[:2], tf.float64)
        left, top, width, height = crop_box(sides[0], sides[1], box, tf.math)
        extent = tf.stack([height, width])
        excess = tf.reduce_min(extent / self._size)
        choice = tf.reduce_sum(tf.cast(excess >= _REDUCTIONS[1:], tf.int32))
        reduction = tf.gather(tf.constant(_REDUCTIONS, tf.float64), choice)
        window = _window(sides, tf.stack([top, left]), extent, reduction)

        def part(reduction: int) -> Any:
            return tf.image.decode_and_crop_jpeg(
                content, window, channels=channels, ratio=reduction, dct_method=_ACCURATE
            )

        image = self._checked(tf.switch_case(choice, [lambda by=by: part(by) for by in _REDUCTIONS]))
        resized = tf.raw_ops.ResizeBilinear(images=image[None], size=self._size, half_pixel_centers=True)
        pixels = _rounded(resized[0])
        return tf.cond(box[4] < MIRRORED_BELOW, lambda: tf.reverse(pixels, [1]), lambda: pixels)

    def _other(self, content: Any, box: Any) -> Any:
        def decoded(content: bytes, box: np.ndarray) -> np.ndarray:
            return np.ascontiguousarray(by_pillow(content, box, self._pixels))

        return tf.numpy_function(decoded, [content, box], tf.uint8)

    def _checked(self, image: Any) -> Any:
        return tf.ensure_shape(image, (None, None, self._channels))

    def _fitted(self, image: Any) -> Any:
        shape = tf.shape(image)[:2]
        sides = tf.cast(shape, tf.float64)
        scaled, corner = fitted((sides[0], sides[1]), self._size, tf.math)

        def changed() -> Any:
            values = tf.raw_ops.ScaleAndTranslate(
                images=image[None],
                size=self._size,
                scale=tf.cast(tf.stack([tf.cast(s, tf.float64) for s in scaled]) / sides, tf.float32),
                translation=-tf.stack([tf.cast(place, tf.float32) for place in corner]),
                kernel_type="triangle",
                antialias=True,
            )
            return _rounded(values[0])

        return tf.cond(tf.reduce_all(tf.equal(shape, self._size)), lambda: image, changed)


def _window(sides: Any, corner: Any, extent: Any, reduction: Any) -> Any:
    """Whole pixels of a reduced image that are nearest to a part of the image.

    Args:
        sides: float64 (height, width) of the image.
        corner: float64 (top, left) of the part.
        extent: float64 (height, width) of the part.
        reduction: By how much the image is reduced.

    Returns:
        int32 (first row, first column, rows, columns).
    """
    bounds = tf.math.ceil(sides / reduction)
    first = tf.minimum(tf.round(corner / reduction), bounds - 1)
    last = tf.clip_by_value(tf.round((corner + extent) / reduction), first + 1, bounds)
    return tf.cast(tf.concat([first, last - first], 0), tf.int32)


def _rounded(values: Any) -> Any:
    """Nearest whole numbers; means of pixels are 0 to 255."""
    return tf.cast(values + 0.5, tf.uint8)


def _leave_accelerators_alone() -> None:
    """Keep TensorFlow from taking the memory of devices that another backend computes on."""
    try:
        tf.config.set_visible_devices([], "GPU")
    except RuntimeError:
        return  # it is in use here already, and sees what it sees
