"""Batches that the device makes are, bit for bit, those that the host makes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tfmpq.data import ImageBatches, Split, on_device
from tfmpq.data.places import Paths, Places
from tfmpq.data.preprocess import PREPROCESSINGS
from tfmpq.errors import UsageError
from tfmpq.progress import Reporter, SilentReporter
from tfmpq.training import loop, recorder
from tfmpq.training.backend import compiled
from tfmpq.training.float_training import FloatTraining
from tfmpq.training.loop import train
from tfmpq.training.run_folder import Stage

COLOUR = np.random.default_rng(0).integers(0, 256, (40, 16, 8, 3), dtype=np.uint8)


def batches(array: np.ndarray = COLOUR, **options: Any) -> ImageBatches:
    split = Split(np.arange(len(array)) % 4, array)
    shape = (*array.shape[1:3], 3)
    return ImageBatches(split, 7, **{"image_shape": shape, "preprocessing": "unit", **options})


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 99),
    epoch=st.integers(0, 9),
    preprocessing=st.sampled_from(sorted(PREPROCESSINGS)),
    augment=st.sampled_from(["none", "crop", "crop_flip"]),
    grey=st.booleans(),
)
def test_the_device_makes_what_the_host_makes(
    seed: int, epoch: int, preprocessing: str, augment: str, grey: bool
) -> None:
    array = COLOUR[..., :1] if grey else COLOUR
    source = batches(array, seed=seed, preprocessing=preprocessing, augment=augment)
    make = source.hold_on_device(compiled)
    recipe, labels = source.recipe(epoch, 2)
    expected, expected_labels = source.batch(epoch, 2)
    assert recipe.dtype == np.int32
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(make(recipe)), expected)
    np.testing.assert_array_equal(labels, expected_labels)


def test_what_cannot_lie_on_the_device_is_made_by_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    for source in (batches(augment="imagenet"), batches(image_shape=(8, 8, 3))):
        assert source.hold_on_device(compiled) is None
        assert source[0][0].dtype == np.float32
    monkeypatch.setattr(on_device, "MOST_BYTES", COLOUR.nbytes - 1)
    assert batches().hold_on_device(compiled) is None
    # Grey images get three channels there.
    assert batches(COLOUR[..., :1]).hold_on_device(compiled) is None


def test_images_are_copied_once() -> None:
    """A search that drops candidates trains anew in every epoch."""
    source = batches()
    assert source.hold_on_device(compiled) is source.hold_on_device(compiled)


@pytest.mark.parametrize("preprocessing", sorted(PREPROCESSINGS))
def test_the_step_scales_what_the_host_decoded_or_resized(preprocessing: str) -> None:
    """By the numbers of the host; XLA may differ in the last bit."""
    options = {"image_shape": (12, 10, 3), "preprocessing": preprocessing, "augment": "imagenet"}
    source, plain = batches(**options), batches(**options)
    scale = source.scale_on_device()
    assert scale is not None
    images, labels = source[1]
    assert images.dtype == np.uint8
    expected, expected_labels = plain[1]
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(compiled(scale)(images)), expected)
    np.testing.assert_array_equal(labels, expected_labels)


def test_images_in_memory_at_the_size_of_the_network_are_scaled_by_the_host() -> None:
    source = batches()
    assert source.scale_on_device() is None
    assert source[0][0].dtype == np.float32
    with pytest.raises(UsageError, match="for 3 channels"):
        ImageBatches(
            Split(np.arange(4), COLOUR[:4, ..., :1]), 2, image_shape=(9, 9, 1), preprocessing="torch"
        ).scale_on_device()


def photographs(folder: Path) -> Split:
    """JPEG files of different sizes."""
    paths = []
    for number in range(12):
        pixels = np.random.default_rng(number).integers(0, 256, (20 + number, 30 - number, 3), np.uint8)
        paths.append(folder / f"{number}.jpg")
        Image.fromarray(pixels).save(paths[-1])
    return Split(np.arange(12) % 4, encoded=Places.whole_files(Paths.of(paths)))


class Interrupting(SilentReporter):
    """Ends a training within an epoch."""

    def __init__(self, at: int) -> None:
        self.left = at

    def advance(self, steps: int = 1, metrics: Mapping[str, float] | None = None) -> None:
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt


def test_a_training_on_jpeg_files_ends_as_if_it_had_not_been_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder, "CHECKPOINT_SECONDS", 0.0)
    split = photographs(tmp_path)
    found = []
    for name, interruptions in (("whole", ()), ("parts", (3, 2))):
        (tmp_path / name).mkdir()
        for at in interruptions:
            with pytest.raises(KeyboardInterrupt):
                trained(tmp_path / name, jpeg_batches(split), Interrupting(at))
        found.append(trained(tmp_path / name, jpeg_batches(split)))
    for whole, parts in zip(*found, strict=True):
        np.testing.assert_array_equal(whole, parts)


def jpeg_batches(split: Split) -> ImageBatches:
    options = {"image_shape": (16, 8, 3), "preprocessing": "torch", "augment": "imagenet", "seed": 2}
    return ImageBatches(split, 4, **options)


def trained(
    folder: Path, source: ImageBatches | None = None, reporter: Reporter | None = None
) -> list[np.ndarray]:
    keras.utils.set_random_seed(3)
    image = keras.Input((16, 8, 3))
    x = keras.layers.Conv2D(4, 3, strides=2)(image)
    model = FloatTraining(image, keras.layers.Dense(4)(keras.layers.Flatten()(x)))
    model.compile(optimizer=keras.optimizers.SGD(0.1, momentum=0.9))
    source = source or batches(augment="crop_flip", seed=1)
    stage = Stage(folder, "float")
    train(model, source, epochs=2, stage=stage, reporter=reporter or SilentReporter(), label="training")
    return [np.asarray(variable) for variable in model.variables]


def test_training_does_not_depend_on_where_batches_are_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    make = on_device.DeviceImages.__call__
    monkeypatch.setattr(
        on_device.DeviceImages, "__call__", lambda self, recipe: seen.append(1) or make(self, recipe)
    )
    found = []
    for accelerated in (False, True):
        monkeypatch.setattr(loop, "accelerated", lambda answer=accelerated: answer)
        folder = tmp_path / str(accelerated)
        folder.mkdir()
        found.append(trained(folder))
        assert bool(seen) == accelerated
    for host, device in zip(*found, strict=True):
        np.testing.assert_array_equal(host, device)
