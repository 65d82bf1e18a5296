"""What a data object gives, batch by batch: images as uint8 or float32, and labels."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import keras
import numpy as np

from tfmpq.errors import UsageError

Part = tuple[np.ndarray, np.ndarray | None]
"""Images (N, ...) and labels (N, ...) as they were given, if there are any."""

_TAKEN = (
    "Data are (x, y), x alone, a tf.data.Dataset, a keras.utils.PyDataset, an iterable of batches, or a word "
    "such as digits, cifar10, npz:PATH or folder:DIR."
)


def kind_of(data: Any) -> str:
    """What an object is, in a word."""
    if _is_tf_data(data):
        return "tf.data"
    if isinstance(data, keras.utils.PyDataset):
        return "PyDataset"
    return "arrays" if _is_array(data) or _is_pair(data) else "batches"


def batch_of(data: Any) -> Part | None:
    """The images and labels of `(x, y)` or `x`; None of what gives batches.

    Raises:
        UsageError: It is no data at all.
    """
    if _is_pair(data):
        return _converted((data[0], np.asarray(data[1])))
    if _is_array(data):
        return _converted((data,))
    if isinstance(data, tuple) and len(data) == 3 and all(map(_is_array, data)) and len(data[2].shape) < 3:
        return _converted(data)  # with sample weights, which is refused
    if isinstance(data, bytes | Mapping | keras.Model) or not (
        isinstance(data, Iterable) or hasattr(data, "__getitem__")
    ):
        raise UsageError(f"{_TAKEN} Received: {type(data).__name__}. Give one of these.")
    return None


def elements(data: Any, rank: int, seed: int | None) -> Iterator[Part]:
    """The batches of an object.

    Args:
        data: A `tf.data.Dataset`, `PyDataset` or iterable.
        rank: Dimensions of a batch of images; a `tf.data.Dataset` of one less is not batched.
        seed: Of a random order of batches, where they can be asked for by number; None for theirs.

    Raises:
        UsageError: It has no end, or an element is no image or batch.
    """
    if _is_tf_data(data):
        yield from _tf_data(data, rank)
    elif isinstance(data, keras.utils.PyDataset):
        yield from _py_dataset(data, seed)
    else:
        found = False
        for element in data:
            found = True
            yield _converted(element)
        if not found:
            raise UsageError(
                f"Data hold images. Received: {type(data).__name__} that gives nothing. Give a new one: what "
                "was iterated over once may be used up."
            )


def _tf_data(data: Any, rank: int) -> Iterator[Part]:
    if int(data.cardinality()) == -1:
        raise UsageError(
            "Data have an end. Received: a tf.data.Dataset that repeats for ever. Leave repeat() out."
        )
    spec = data.element_spec
    first = spec[0] if isinstance(spec, tuple) else spec
    shape = getattr(first, "shape", None)
    known = None if shape is None else shape.rank
    if known == rank - 1:
        data = data.batch(64)
    yield from map(_converted, data.as_numpy_iterator())


def _py_dataset(data: keras.utils.PyDataset, seed: int | None) -> Iterator[Part]:
    count = data.num_batches
    if count is None:
        raise UsageError(
            f"Data have an end. Received: a {type(data).__name__} without a length. Give it __len__."
        )
    order = np.arange(count) if seed is None else np.random.default_rng(seed).permutation(count)
    for index in order:
        yield _converted(data[int(index)])


def _converted(element: Any) -> Part:
    """One batch; images stay uint8 or become float32."""
    parts = tuple(element) if isinstance(element, tuple | list) else (element,)
    if len(parts) not in (1, 2) or not all(_is_array(part) for part in parts):
        held = ", ".join(_described(part) for part in parts[:4])
        advice = "Leave sample weights out." if len(parts) == 3 else "Map each to (images, labels)."
        raise UsageError(f"A batch is images, or images and labels. Received: ({held}). {advice}")
    images = np.asarray(parts[0])
    if images.dtype.kind not in "uifb" and images.dtype.name != "bfloat16":
        raise UsageError(f"Images are numbers. Received: an array of {images.dtype}. Decode them first.")
    if images.dtype != np.uint8:
        images = images.astype(np.float32)
    return images, np.asarray(parts[1]) if len(parts) == 2 else None


def _is_array(data: Any) -> bool:
    return hasattr(data, "shape") and hasattr(data, "dtype") and hasattr(data, "__getitem__")


def _is_pair(data: Any) -> bool:
    """Whether it is images and labels: a tuple of as many, or a list of which the second has fewer axes.

    A list of two arrays with as many axes is two batches of images.
    """
    if not isinstance(data, tuple | list) or len(data) != 2 or not _is_array(data[0]):
        return False
    second = data[1] if _is_array(data[1]) else np.asarray(data[1]) if isinstance(data[1], list) else None
    if second is None or len(data[0].shape) < 2:
        return False
    fewer = len(second.shape) < len(data[0].shape)
    return fewer or (isinstance(data, tuple) and second.shape[:1] == data[0].shape[:1])


def _is_tf_data(data: Any) -> bool:
    tensorflow = sys.modules.get("tensorflow")
    return tensorflow is not None and isinstance(data, tensorflow.data.Dataset)


def _described(part: Any) -> str:
    return f"{part.dtype} {tuple(part.shape)}" if _is_array(part) else type(part).__name__
