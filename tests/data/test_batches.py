"""Batches are a pure function of seed, epoch and step, and Keras trains with them as they are."""

from __future__ import annotations

import io
from pathlib import Path

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tfmpq.data import ImageBatches, Split
from tfmpq.data.images import resize_for
from tfmpq.data.places import Paths, Places
from tfmpq.data.preprocess import preprocess
from tfmpq.errors import UsageError

IMAGES = np.random.default_rng(0).integers(0, 256, (50, 8, 8, 3), dtype=np.uint8)
SPLIT = Split(np.arange(50), IMAGES)
SHAPE = (8, 8, 3)


def batches(split: Split = SPLIT, size: int = 8, **options) -> ImageBatches:
    return ImageBatches(split, size, **{"image_shape": SHAPE, "preprocessing": "unit", **options})


def labels(source: ImageBatches, epoch: int) -> list[int]:
    return [int(label) for index in range(len(source)) for label in source.batch(epoch, index)[1]]


def in_one_file(path: Path, contents: list[bytes]) -> Places:
    """Write images one behind the other."""
    path.write_bytes(b"".join(contents))
    lengths = np.array([len(content) for content in contents], np.int32)
    file = np.zeros(len(contents), np.int32)
    return Places(Paths.of([path]), file, np.cumsum(lengths, dtype=np.int64) - lengths, lengths)


@given(seed=st.integers(0, 99), epoch=st.integers(0, 9), index=st.integers(0, 5), augmented=st.booleans())
def test_a_batch_depends_on_nothing_but_seed_epoch_and_step(
    seed: int, epoch: int, index: int, augmented: bool
) -> None:
    augment = "crop_flip" if augmented else "none"
    fresh, used = (batches(seed=seed, augment=augment) for _ in range(2))
    for other_epoch, other_index in ((3, 1), (0, 0), (7, 5)):
        used.batch(other_epoch, other_index)
    used.set_epoch(epoch)
    for a, b in zip(fresh.batch(epoch, index), used[index], strict=True):
        np.testing.assert_array_equal(a, b)


@given(seed=st.integers(0, 99), steps=st.integers(1, 20))
def test_every_image_comes_once_before_any_comes_again(seed: int, steps: int) -> None:
    source = batches(size=10, seed=seed, steps_per_epoch=steps)
    stream = [label for epoch in range(12) for label in labels(source, epoch)]
    for start in range(0, len(stream) - 49, 50):
        assert sorted(stream[start : start + 50]) == list(range(50))


def test_seeds_and_passes_differ() -> None:
    orders = {tuple(labels(batches(seed=seed), epoch)) for seed in range(5) for epoch in range(5)}
    assert len(orders) == 25


def test_images_follow_their_labels() -> None:
    images, chosen = batches(preprocessing="torch").batch(2, 3)
    assert (images.dtype, chosen.dtype) == (np.float32, np.int32)
    np.testing.assert_array_equal(images, preprocess(IMAGES[chosen], "torch"))


def test_measuring_keeps_order_and_remainder() -> None:
    source = batches(shuffle=False, drop_remainder=False)
    assert len(source) == 7
    assert labels(source, 0) == labels(source, 4) == list(range(50))
    assert len(batches()) == 6


def test_encoded_images_and_other_sizes(tmp_path: Path) -> None:
    contents = []
    for index in range(6):
        stream = io.BytesIO()
        Image.fromarray(IMAGES[index] if index % 2 else IMAGES[index, ..., 0]).save(stream, "png")
        contents.append(stream.getvalue())
    places = in_one_file(tmp_path / "all", contents)
    source = batches(Split(np.arange(6), encoded=places), 6, shuffle=False, preprocessing="none")
    expected = [im if i % 2 else np.repeat(im[..., :1], 3, 2) for i, im in enumerate(IMAGES[:6])]
    np.testing.assert_array_equal(source[0][0], expected)
    resized = batches(shuffle=False, preprocessing="none", image_shape=(12, 10, 3))
    np.testing.assert_array_equal(resized[0][0], [resize_for(image, (12, 10)) for image in IMAGES[:8]])
    for augment in ("crop", "imagenet"):
        source = batches(Split(np.arange(6), encoded=places), 3, augment=augment, image_shape=(16, 16, 3))
        assert source[1][0].shape == (3, 16, 16, 3)


def test_grey_images_get_three_channels_and_colours_are_refused() -> None:
    grey = batches(Split(np.arange(50), IMAGES[..., :1]), preprocessing="none", shuffle=False)
    np.testing.assert_array_equal(grey[0][0], np.repeat(IMAGES[:8, ..., :1], 3, axis=3))
    with pytest.raises(UsageError, match="Only grey images"):
        batches(image_shape=(8, 8, 1))[0]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"size": 0}, "at least 1"),
        ({"size": 51}, "larger than the data"),
        ({"seed": -1}, "at least 0"),
        ({"steps_per_epoch": 0}, "at least 1"),
        ({"augment": "mixup"}, "An augmentation is one of"),
        ({"preprocessing": "x"}, "A preprocessing is one of"),
        ({"split": Split(np.arange(0), IMAGES[:0])}, "empty part"),
    ],
)
def test_arguments_out_of_range_are_one_line(options, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        batches(**options)


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_keras_trains_through_the_epochs(steps: int) -> None:
    seen: list[list[int]] = []

    class Watched(ImageBatches):
        def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
            images, chosen = super().__getitem__(index)
            return images, chosen + 1000 * self.epoch

    class Model(keras.Sequential):
        def train_step(self, data):
            seen.append(data[1].numpy().tolist())
            return super().train_step((data[0], data[1] % 1000))

    model = Model([keras.Input(SHAPE), keras.layers.Flatten(), keras.layers.Dense(50)])
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True), run_eagerly=True)
    source = Watched(SPLIT, 10, image_shape=SHAPE, preprocessing="unit", steps_per_epoch=steps)
    for first, last in ((1, 4), (4, 5), (2, 3)):
        seen.clear()
        source.set_epoch(first)
        model.fit(source, initial_epoch=first, epochs=last, verbose=0, shuffle=False)
        plain = batches(size=10, steps_per_epoch=steps)
        expected = [
            (plain.batch(e, i)[1] + 1000 * e).tolist() for e in range(first, last) for i in range(steps)
        ]
        assert seen == expected
        assert source.epoch == last
