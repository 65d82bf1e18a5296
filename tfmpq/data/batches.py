"""Deterministic batches for training and measuring."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from threading import Lock
from typing import Any

import keras
import numpy as np

from tfmpq.data.augment import crop, random_resized_crop
from tfmpq.data.dataset import Split
from tfmpq.data.decoding import Pixels
from tfmpq.data.images import resize_for, with_channels
from tfmpq.data.on_device import Compiler, DeviceImages, DeviceScaling, fits
from tfmpq.data.plan import Augmentation, Plan
from tfmpq.data.preprocess import affine, preprocess
from tfmpq.data.reading import Reader
from tfmpq.errors import TfmpqError

__all__ = ["Augmentation", "ImageBatches", "read"]

_ENDLESS = 2**31
"""Batches; more than anybody trains with."""

_AT_ONCE = 64
"""Images that `read` decodes in one batch."""


class ImageBatches(keras.utils.PyDataset):
    """Batches of preprocessed images; batch i of epoch e depends on nothing but (seed, e, i).

    Batches go through the whole split, in an order drawn anew for each pass, before an image comes again;
    epochs of `steps_per_epoch` batches may end and begin within a pass. Batches are prepared while the model
    computes: compressed images by an executor (`decoding.Executor`) with threads of its own, others on the
    TensorFlow backend by a thread of `model.fit`, on JAX by one of this object; or on the device
    (`hold_on_device`).

    Where damaged images are left out (`Split.damaged`), the image before such a one stands in for it; if
    `drop_remainder` is false, a batch has fewer images instead.

    Args:
        split: The images.
        batch_size: Images per batch.
        image_shape: (height, width, channels) that the model takes. Grey images are repeated on 3 channels.
        preprocessing: Name of a preprocessing.
        seed: Not negative.
        augment: `none`; `crop` (shifts); `crop_flip` (shifts and mirroring); `imagenet` (random resized crop
            and mirroring).
        steps_per_epoch: Batches per epoch; one pass by default.
        shuffle: Whether to draw an order; otherwise that of the split.
        drop_remainder: Whether to leave out the last, smaller batch of a pass.

    Raises:
        UsageError: An argument is out of range, or the split is empty.
    """

    def __init__(
        self,
        split: Split,
        batch_size: int,
        *,
        image_shape: tuple[int, int, int],
        preprocessing: str,
        seed: int = 0,
        augment: Augmentation = "none",
        steps_per_epoch: int | None = None,
        shuffle: bool = True,
        drop_remainder: bool = True,
    ) -> None:
        super().__init__(workers=1, use_multiprocessing=False)
        affine(preprocessing)
        self.plan = Plan(
            len(split),
            batch_size,
            seed=seed,
            augment=augment,
            steps_per_epoch=steps_per_epoch,
            shuffle=shuffle,
            drop_remainder=drop_remainder,
        )
        self.split = split
        self.batch_size = batch_size
        self.image_shape = image_shape
        self.preprocessing = preprocessing
        self.seed = seed
        self.augment = augment
        self.steps_per_pass, self.steps_per_epoch = self.plan.steps_per_pass, self.plan.steps_per_epoch
        self.epoch = 0
        self._part = slice(None)
        self._begun = self._finished = False
        self._thread = ThreadPoolExecutor(1) if keras.backend.backend() == "jax" else None
        self._ahead: dict[tuple[int, int], Future[tuple[Any, np.ndarray]]] = {}
        self._device: DeviceImages | DeviceScaling | None = None
        self._reader: Reader | None = None
        self._lock = Lock()

    def __len__(self) -> int:
        return self.steps_per_epoch

    def __getitem__(self, index: int) -> tuple[Any, np.ndarray]:
        """Batch of the current epoch: float32 (N, H, W, C) images; labels, int32 (N,) or numbers (N, ...).

        After `hold_on_device` or `scale_on_device` the images are what these say.
        """
        if self._begun and index == len(self) - 1:
            self._finished = True
        if self._thread is None:
            return self._delivered(self.epoch, index)
        return self._prepared(self._thread, index)

    def _prepared(self, thread: ThreadPoolExecutor, index: int) -> tuple[Any, np.ndarray]:
        """A batch of the current epoch, while that after it is begun."""
        ready = self._ahead.pop((self.epoch, index), None)
        self._ahead.clear()
        batch = self._delivered(self.epoch, index) if ready is None else ready.result()
        if index + 1 < len(self):
            following = (self.epoch, index + 1)
            self._ahead[following] = thread.submit(self._delivered, *following)
        return batch

    @contextmanager
    def only(self, part: slice) -> Iterator[None]:
        """Make only this part of every batch meanwhile: that of one process of several."""
        self._begin_anew(part)
        try:
            yield
        finally:
            self._begin_anew(slice(None))

    def _begin_anew(self, part: slice) -> None:
        with self._lock:
            self._part, self._reader = part, None
        self._ahead.clear()

    def scale_on_device(self) -> DeviceScaling | None:
        """Deliver images that are decoded or resized as uint8 (N, H, W, C) from now on.

        Returns:
            What preprocesses them, for a training step that gets them; None if nothing changes: the images
            are in memory and have the size of the network already.
        """
        floats = self.split.array is not None and self.split.array.dtype != np.uint8
        if self._device is None and self._ready_images is None and not floats:
            self._device = DeviceScaling(self.preprocessing, self.image_shape)
        return self._device if isinstance(self._device, DeviceScaling) else None

    def hold_on_device(self, compiled: Compiler) -> DeviceImages | None:
        """Keep the images in the memory of the device from now on, and crop, mirror and scale them there.

        Batches stay bit for bit what they are. They bring recipes for images on TensorFlow, on JAX tensors of
        the device.

        Args:
            compiled: Compiles a function of tensors, as the backend does it.

        Returns:
            What makes images from recipes, for a training step that gets these; None if nothing changes:
            the images are not in memory, have another size, or are too many.
        """
        array, channels = self._ready_images, self.image_shape[2]
        if self._device is None and array is not None and fits(array, channels):
            self._device = DeviceImages(with_channels(array, channels), self.preprocessing, compiled)
        return self._device if isinstance(self._device, DeviceImages) else None

    def set_epoch(self, epoch: int) -> None:
        """Go to an epoch, for example to resume."""
        self.epoch = epoch

    def on_epoch_begin(self) -> None:
        """Note that an epoch begins; called by `model.fit`."""
        self._begun, self._finished = True, False

    def on_epoch_end(self) -> None:
        """Go to the next epoch; called by `model.fit`, once too often before the first epoch.

        Only an epoch that has begun and delivered its last batch counts, so that the first epoch of `fit` is
        that of `set_epoch`.
        """
        self.epoch += self._finished
        self._begun = self._finished = False

    def batch(self, epoch: int, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Batch of any epoch: float32 (N, H, W, C) images and int32 (N,) labels.

        Raises:
            TfmpqError: An image cannot be decoded.
        """
        images, labels = self.pixels(epoch, index)
        return preprocess(images, self.preprocessing), labels

    def pixels(self, epoch: int, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Batch of any epoch before it is preprocessed: uint8 (N, H, W, C) images and int32 (N,) labels.

        A user's own model inputs are float32.

        Raises:
            TfmpqError: An image cannot be decoded.
        """
        step = epoch * self.steps_per_epoch + index
        images, chosen = self._read(step) if self.split.encoded is not None else self._made(step)
        return images, self._labels(chosen)

    def _delivered(self, epoch: int, index: int) -> tuple[Any, np.ndarray]:
        if self._device is None:
            return self.batch(epoch, index)
        if isinstance(self._device, DeviceScaling):
            return self.pixels(epoch, index)
        recipe, labels = self.recipe(epoch, index)
        # TensorFlow's `fit` brings whatever it gets through the memory of the host.
        return recipe if self._thread is None else self._device(recipe), labels

    def recipe(self, epoch: int, index: int) -> tuple[np.ndarray, np.ndarray]:
        """What `DeviceImages` makes a batch of: int32 (N, 4); and int32 (N,) labels."""
        step = epoch * self.steps_per_epoch + index
        chosen = self.plan.chosen(step)[self._part]
        crops = self.plan.crops(step, self._size)[self._part]
        return np.concatenate([chosen[:, None], crops], axis=1).astype(np.int32), self._labels(chosen)

    def _labels(self, chosen: np.ndarray) -> np.ndarray:
        labels = self.split.labels[chosen]
        return labels if labels.dtype.kind == "f" else labels.astype(np.int32)

    @property
    def _size(self) -> tuple[int, int]:
        return self.image_shape[0], self.image_shape[1]

    def _made(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Images in memory: pixels and numbers of a batch."""
        chosen, array, channels = self.plan.chosen(step)[self._part], self._ready_images, self.image_shape[2]
        if array is not None:
            images = with_channels(array[chosen], channels)
        elif self.augment == "imagenet":
            boxes = zip(self.split.images(chosen), self.plan.boxes(step)[self._part], strict=True)
            parts = [random_resized_crop(image, self._size, box) for image, box in boxes]
            return with_channels(np.stack(parts), channels), chosen
        else:
            resized = np.stack([resize_for(image, self._size) for image in self.split.images(chosen)])
            images = with_channels(resized, channels)
        return self._shifted(images, step, slice(None)), chosen

    def _read(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Compressed images: pixels and numbers of a batch."""
        with self._lock:
            if self._reader is None:
                pixels = Pixels(self._size, self.image_shape[2], self.augment == "imagenet")
                count = len(range(self.batch_size)[self._part])
                order = partial(self._order, self._part)
                self._reader = Reader(self.split, pixels, order, count, self._run)
            images, intact = self._reader.read(step)
        chosen = self.plan.chosen(step)[self._part]
        if len(intact) == len(chosen):
            return self._shifted(images, step, slice(None)), chosen
        if not len(intact):
            raise TfmpqError(
                f"A batch needs whole images. Received: batch {step}, which has damaged ones only. Check the "
                "data."
            )
        if not self.plan.drop_remainder:
            return self._shifted(images, step, intact), chosen[intact]
        # A training step wants as many as ever: the image before it stands in for a damaged one.
        before = np.maximum(np.searchsorted(intact, np.arange(len(chosen)), side="right") - 1, 0)
        return self._shifted(images[before], step, slice(None)), chosen[intact[before]]

    def _shifted(self, images: np.ndarray, step: int, places: np.ndarray | slice) -> np.ndarray:
        """Images of these places of a batch, shifted and mirrored if that is the augmentation."""
        if self.augment not in ("crop", "crop_flip"):
            return images
        return crop(images, self.plan.crops(step, self._size)[self._part][places])

    def _order(self, part: slice, step: int) -> tuple[np.ndarray, np.ndarray]:
        """What a `decoding.Executor` asks for, which may go on for a while when the part has changed."""
        return self.plan.chosen(step)[part], self.plan.boxes(step)[part]

    def _run(self, step: int) -> tuple[range, int]:
        """Batches to read from this one on, equally large but for the last, and the images in them."""
        count = len(range(self.batch_size)[self._part])
        if self.plan.drop_remainder:
            return range(step, step + _ENDLESS), count * _ENDLESS
        number, place = divmod(step, self.steps_per_pass)
        return range(step, (number + 1) * self.steps_per_pass), len(self.split) - place * count

    @property
    def _ready_images(self) -> np.ndarray | None:
        """The images of the split, where they are in memory and are not resized: (M, H, W, C)."""
        array = self.split.array
        resized = self.augment == "imagenet" or array is None or array.shape[1:3] != self.image_shape[:2]
        return None if resized else array


def read(
    split: Split, indices: np.ndarray, image_shape: tuple[int, int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Images of a split by number, not augmented.

    Args:
        split: The images.
        indices: int (N,), in any order.
        image_shape: (height, width, channels) that they get.

    Returns:
        uint8 (N, height, width, channels) and labels, int32 (N,); fewer where damaged images are left out.

    Raises:
        UsageError: There are no indices, or the images do not fit.
        TfmpqError: An image is damaged.
    """
    batches = ImageBatches(
        split.take(np.asarray(indices)),
        min(_AT_ONCE, max(1, len(indices))),
        image_shape=image_shape,
        preprocessing="none",
        shuffle=False,
        drop_remainder=False,
    )
    parts = [batches.pixels(0, index) for index in range(len(batches))]
    images, labels = (np.concatenate(values) for values in zip(*parts, strict=True))
    return images, labels
