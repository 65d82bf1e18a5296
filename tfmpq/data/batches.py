"""Deterministic batches for training and measuring."""

from __future__ import annotations

import math
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Literal, get_args

import keras
import numpy as np

from tfmpq.data.augment import crop, drawn_crops, margins, random_resized_crop
from tfmpq.data.dataset import Split
from tfmpq.data.images import resize_for
from tfmpq.data.on_device import Compiler, DeviceImages, fits
from tfmpq.data.preprocess import affine, preprocess
from tfmpq.errors import UsageError

Augmentation = Literal["none", "crop", "crop_flip", "imagenet"]
_ORDER, _AUGMENT = 1, 2
"""Streams of random numbers: which images, and how they are changed."""


class ImageBatches(keras.utils.PyDataset):
    """Batches of preprocessed images; batch i of epoch e depends on nothing but (seed, e, i).

    Batches go through the whole split, in an order drawn anew for each pass, before an image comes again;
    epochs of `steps_per_epoch` batches may end and begin within a pass. Batches are prepared while the model
    computes, on the TensorFlow backend by a thread of `model.fit`, on JAX by one of their own; or on the
    device (`hold_on_device`).

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
        _check(split, batch_size, seed, augment, steps_per_epoch, drop_remainder)
        affine(preprocessing)
        self.split = split
        self.batch_size = batch_size
        self.image_shape = image_shape
        self.preprocessing = preprocessing
        self.seed = seed
        self.augment = augment
        self.shuffle = shuffle
        whole = len(split) / batch_size
        self.steps_per_pass = math.floor(whole) if drop_remainder else math.ceil(whole)
        self.steps_per_epoch = steps_per_epoch or self.steps_per_pass
        self.epoch = 0
        self._begun = self._finished = False
        self._order: tuple[int, np.ndarray] = (-1, np.arange(len(split)))
        self._thread = ThreadPoolExecutor(1) if keras.backend.backend() == "jax" else None
        self._ahead: dict[tuple[int, int], Future[tuple[Any, np.ndarray]]] = {}
        self._device: DeviceImages | None = None

    def __len__(self) -> int:
        return self.steps_per_epoch

    def __getitem__(self, index: int) -> tuple[Any, np.ndarray]:
        """Batch of the current epoch: float32 (N, H, W, C) images and int32 (N,) labels.

        After `hold_on_device` the images are a tensor there, or on TensorFlow the recipe for them.
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

    def hold_on_device(self, compiled: Compiler) -> DeviceImages | None:
        """Keep the images in the memory of the device from now on, and crop, mirror and scale them there.

        Batches stay bit for bit what they are.

        Args:
            compiled: Compiles a function of tensors, as the backend does it.

        Returns:
            What makes images from recipes, for a training step that gets these; None if nothing changes:
            the images are not in memory, have another size, or are too many.
        """
        array, channels = self._ready_images, self.image_shape[2]
        if self._device is None and array is not None and array.dtype == np.uint8 and fits(array, channels):
            self._device = DeviceImages(_with_channels(array, channels), self.preprocessing, compiled)
        return self._device

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
        chosen, generator = self._drawn(epoch, index)
        images = self._images(chosen, generator)
        return preprocess(images, self.preprocessing), self._labels(chosen)

    def _delivered(self, epoch: int, index: int) -> tuple[Any, np.ndarray]:
        if self._device is None:
            return self.batch(epoch, index)
        recipe, labels = self.recipe(epoch, index)
        # TensorFlow's `fit` brings whatever it gets through the memory of the host.
        return recipe if self._thread is None else self._device(recipe), labels

    def recipe(self, epoch: int, index: int) -> tuple[np.ndarray, np.ndarray]:
        """What `DeviceImages` makes a batch of: int32 (N, 4); and int32 (N,) labels."""
        chosen, generator = self._drawn(epoch, index)
        crops = self._crops(len(chosen), generator)
        return np.concatenate([chosen[:, None], crops], axis=1).astype(np.int32), self._labels(chosen)

    def _drawn(self, epoch: int, index: int) -> tuple[np.ndarray, np.random.Generator]:
        """Numbers of the images of a batch, and the source of randomness for changing them."""
        generator = np.random.default_rng((self.seed, epoch, _AUGMENT, index))
        return self._chosen(epoch * self.steps_per_epoch + index), generator

    def _labels(self, chosen: np.ndarray) -> np.ndarray:
        return self.split.labels[chosen].astype(np.int32)

    def _crops(self, count: int, generator: np.random.Generator) -> np.ndarray:
        size = (self.image_shape[0], self.image_shape[1])
        if self.augment == "none":
            return np.tile(np.array([*margins(*size), 0], np.int32), (count, 1))
        return drawn_crops(generator, count, size, flip=self.augment == "crop_flip")

    def _chosen(self, step: int) -> np.ndarray:
        number, place = divmod(step, self.steps_per_pass)
        known, order = self._order
        if self.shuffle and known != number:
            order = np.random.default_rng((self.seed, number, _ORDER)).permutation(len(self.split))
            self._order = (number, order)
        return order[place * self.batch_size : (place + 1) * self.batch_size]

    def _images(self, chosen: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        size = (self.image_shape[0], self.image_shape[1])
        array = self._ready_images
        if self.augment == "imagenet":
            parts = [random_resized_crop(image, size, generator) for image in self.split.images(chosen)]
            return _with_channels(parts, self.image_shape[2])
        if array is not None:
            images = _with_channels(array[chosen], self.image_shape[2])
        else:
            resized = [resize_for(image, size) for image in self.split.images(chosen)]
            images = _with_channels(resized, self.image_shape[2])
        if self.augment == "none":
            return images
        return crop(images, self._crops(len(images), generator))

    @property
    def _ready_images(self) -> np.ndarray | None:
        """The images of the split, where they are in memory and are not resized: (M, H, W, C)."""
        array = self.split.array
        resized = self.augment == "imagenet" or array is None or array.shape[1:3] != self.image_shape[:2]
        return None if resized else array


def _check(
    split: Split,
    batch_size: int,
    seed: int,
    augment: str,
    steps_per_epoch: int | None,
    drop_remainder: bool,
) -> None:
    if not len(split):
        raise UsageError(
            "Batches need images. Received: an empty part of the data set. Use data that has it."
        )
    if batch_size < 1 or seed < 0 or (steps_per_epoch is not None and steps_per_epoch < 1):
        raise UsageError(
            "Batch size and steps per epoch must be at least 1 and the seed at least 0. Received: "
            f"batch_size={batch_size}, steps_per_epoch={steps_per_epoch}, seed={seed}. Correct them."
        )
    if drop_remainder and batch_size > len(split):
        raise UsageError(
            f"A batch must not be larger than the data. Received: batch_size={batch_size} for {len(split)} "
            "images. Choose a smaller batch."
        )
    if augment not in get_args(Augmentation):
        raise UsageError(
            f"An augmentation is one of {', '.join(get_args(Augmentation))}. Received: {augment}. Choose one."
        )


def _with_channels(images: np.ndarray | list[np.ndarray], channels: int) -> np.ndarray:
    if isinstance(images, list):
        # Some files of a data set may be grey and others not.
        return np.stack([_with_channels(image, channels) for image in images])
    if images.shape[-1] == channels:
        return images
    if images.shape[-1] != 1:
        raise UsageError(
            "Only grey images can be given another number of channels. Received: images with "
            f"{images.shape[-1]} channels for a model with {channels}. Choose other data or another model."
        )
    return np.repeat(images, channels, axis=-1)
